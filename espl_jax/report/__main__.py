"""Command line: python -m espl_jax.report --workdir=DIR [--watch=SECONDS].

Writes DIR/report.html, of a run that has ended or that is going on; --watch writes it again and again until it is interrupted
or the run has done all of its steps. Runs on the host alone, without a device.
"""

import sys
import time

from absl import app, flags

from espl_jax import report
from espl_jax.report import page, reading


def main(argv: list[str]) -> None:
    """Writes the page; what a user can mend ends in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; the run's directory is --workdir=DIR")
    try:
        if flags.FLAGS.watch > 0:
            _watch(flags.FLAGS.workdir, flags.FLAGS.watch)
        else:
            _say(report.write(flags.FLAGS.workdir))
    except KeyboardInterrupt:
        sys.exit(130)
    except (reading.RunError, page.ReportError, OSError) as error:
        sys.exit(f"error: {error}")


def _watch(workdir: str, seconds: float) -> None:
    """Rewrites the page; a run that has no step yet, or is moving files, is asked again the next time."""
    while True:
        try:
            _say(report.write(workdir))
            if reading.finished(workdir):
                return
        except reading.RunError as error:
            sys.stderr.write(f"not yet: {error}\n")
        time.sleep(seconds)


def _say(path) -> None:
    sys.stdout.write(f"{path} ({path.stat().st_size / 1e6:.1f} MB)\n")
    sys.stdout.flush()


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Work directory of the run.", required=True)
    flags.DEFINE_float("watch", 0.0, "Write the page again every so many seconds; 0: once.")
    app.run(main)
