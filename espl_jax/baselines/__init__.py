"""Other people's methods, through their own packages, on our sampler, tasks, editors, evaluation and ledger.

  gepa_adapter.py  what the package gepa asks of us, and our answers (docs/compare.md)
  gepa_replay.py   answers that a killed run has recorded, given again
  gepa_run.py      a whole run: `python -m espl_jax.main --config=... --config.method=gepa --workdir=DIR`
"""
