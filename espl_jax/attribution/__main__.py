"""Command line: python -m espl_jax.attribution --workdir=DIR [--prompt=best] [--samples=8] [--step=N].

Writes DIR/attribution.json and DIR/attribution.html: what each part of the prompt adds on validation, prompts x checkpoints,
how much of the gain has moved into the weights, and how well ratings foretold matches. --samples=0 reads the records alone and
needs no model. Nothing else in DIR is changed, so the run may be going on. More in docs/compare.md.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from espl_jax.attribution import pages, study
from espl_jax.report import page


def main(argv: list[str]) -> None:
    """Attributes; what a user can mend ends in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; the run's directory is --workdir=DIR")
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    try:
        found = study.attribute(values.workdir, values.prompt, values.samples, None if values.step < 0 else values.step)
        written = pages.write(found, Path(values.workdir))
    except (ValueError, OSError, page.ReportError) as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("".join(f"{path}\n" for path in written))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Work directory of the run.", required=True)
    flags.DEFINE_string("prompt", "best", "best (highest mu), newest, none or the id of a prompt.")
    flags.DEFINE_integer("samples", 8, "Samples of each validation problem; 0: only what the records say.", lower_bound=0)
    flags.DEFINE_integer("step", -1, "Step of the checkpoint; -1: the newest.")
    app.run(main)
