"""Several methods at an equal budget: `python -m espl_jax.compare` (docs/compare.md).

  plan.py         which runs there are, what each is started with, and whether what is there already fits
  running.py      processes, some at a time; a run that fails is named, and the others go on
  reading.py      what the runs have left, as one value
  statistics.py   means, bootstrap, paired tests, curves of several seeds (numbers in, numbers out)
  summary.py      the figures of a comparison; pages.py shows them as comparison.json, table.md and report.html
"""
