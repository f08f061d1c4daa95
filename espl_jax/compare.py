"""Methods at an equal budget: python -m espl_jax.compare --config=experiments/NAME.py --workdir=DIR --budget=tokens:40000
[--methods=rl,evolution,reflection,gepa,espl] [--variant=NAME=METHOD,field=value,... ...] [--seeds=0,1,2] [--processes=1]
[--config.field=value ...].

Each run is a process in DIR/<method>/seed<k>; the same command goes on where an earlier one stopped. It ends with
DIR/comparison.json, table.md and report.html. --processes=0 runs nothing and writes them of what is there. More in
docs/compare.md.
"""

import signal
import sys
from collections.abc import Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from espl_jax import main as _flags  # noqa: F401  (defines --config and --workdir)
from espl_jax.comparison import pages, plan, reading, running, summary
from espl_jax.comparison.plan import Plan

METHODS = "rl,evolution,reflection,gepa,espl"


def compare(asked: Plan, processes: int, program: Sequence[str] = running.PROGRAM) -> bool:
    """Runs what is missing and writes the comparison; returns whether every run has ended well.

    Raises ConfigError when what is there does not belong to it.
    """
    plan.check_existing(asked)
    if processes:
        with running.locked(asked.workdir) as lock:
            fates = running.Runner(asked, lock, _say, program).run(processes)
        failed = {str(fate.job): fate.error for fate in fates if fate.error}
    else:
        failed = reading.failures(asked.workdir / pages.JSON)
    runs = reading.read(asked)
    ended = {str(run.job) for run in runs if run.done}
    failed = {name: error for name, error in failed.items() if name not in ended}
    figures = summary.summarize(asked.budget, runs, failed)
    for path in pages.write(figures, asked.workdir.name, asked.workdir):
        _say(str(path))
    return not failed


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: list[str]) -> None:
    """Compares; what a user can mend ends in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; fields are set as --config.field=value")
    logging.set_verbosity(logging.WARNING)
    values, holder = flags.FLAGS, flags.FLAGS["config"]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        asked = plan.make(
            values.workdir, values.config, config_flags.get_config_filename(holder), config_flags.get_override_values(holder),
            values.methods, values.seeds, values.budget, values.variant,
        )  # fmt: skip
        sys.exit(0 if compare(asked, values.processes) else 1)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the runs have saved what they had, and the same command goes on")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def cli() -> None:
    """Entry point: defines the flags and checks that they are there."""
    flags.DEFINE_list("methods", METHODS.split(","), "Methods to compare, or two in sequence such as gepa+rl.")
    flags.DEFINE_multi_string("variant", [], "NAME=METHOD,field=value,...: a method with fields of its own; may be repeated.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of each method.")
    flags.DEFINE_string("budget", None, "Of each run: tokens, flops or rollouts:NUMBER; evaluation is free.", required=True)
    flags.DEFINE_integer("processes", 1, "Runs at the same time; 0: none, only write the comparison.", lower_bound=0)
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)


if __name__ == "__main__":
    cli()
