"""The report of a run: one HTML file that works offline, for people. `python -m espl_jax.report --workdir=DIR`.

  reading.py, choosing.py      what a run has left, as one value; which trajectories are kept whole
  intervals.py, lineage.py     bootstrap; rating over time, changes, places in the tree
  charts.py, page.py, assets/  pieces of any page: curves, tables, figures, the shell (espl_jax.compare uses them too)
  learning.py, evolution.py    sections of a run's page; run_page.py puts them together
"""

from pathlib import Path

from absl import logging

from espl_jax.records import json_files
from espl_jax.report import choosing, reading, run_page

FILE = "report.html"


def write(workdir: str | Path) -> Path:
    """Writes DIR/report.html in one move and returns its path.

    Raises reading.RunError for a directory that holds no run, page.ReportError where plotly is missing, OSError.
    """
    record = reading.read(workdir, choosing.chooser(workdir))
    path = Path(workdir) / FILE
    json_files.write_atomic(path, run_page.run_page(record))
    return path


def attempt(workdir: str | Path) -> None:
    """Writes the report at the end of a run. What goes wrong is a warning: a page must never fail a run."""
    try:
        path = write(workdir)
    except Exception as error:
        logging.warning("the report was not written (%s: %s)", type(error).__name__, error)
    else:
        logging.info("the report is %s", path)
