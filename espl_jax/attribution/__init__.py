"""Where a run's gain comes from: `python -m espl_jax.attribution --workdir=DIR` (docs/compare.md).

  parts.py        a prompt without each of its parts
  measure.py      prompts x weights on validation, sample by sample with the same random numbers
  calibration.py  predicted against observed wins, from the records alone
  study.py        the figures; pages.py shows them as attribution.json and attribution.html
"""
