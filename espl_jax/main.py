"""Command line: python -m espl_jax.main --config=experiments/NAME.py --workdir=DIR [--config.field=value ...].

Exit codes: 0 finished; 75 start the same command again (docs/hosts.md); 1 an error that a restart does not mend.
"""

import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict, config_flags

from espl_jax import config as configs
from espl_jax import train
from espl_jax.baselines import gepa_run
from espl_jax.hosts import endings, members, runtime
from espl_jax.records.checkpoint import CheckpointError

_CONFIG = config_flags.DEFINE_config_file("config", None, "An experiment file; its fields are flags too.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written; an existing run there is gone on with.")


Run = Callable[[ConfigDict, str], Any]  # (config, workdir): train.run, or another that works in a directory
BASELINES: dict[str, Run] = {"gepa": gepa_run.run}  # methods that have a run of their own


def by_method(config: ConfigDict, workdir: str) -> Any:
    """The run that config.method names."""
    return (BASELINES[config.method] if config.method in BASELINES else train.run)(config, workdir)


def main(argv: list[str], run: Run = by_method) -> None:
    """Runs; what a user can mend ends in one sentence (-v=1 shows where it came from)."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; fields are set as --config.field=value")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    start(_CONFIG.value, _WORKDIR.value, run)


def start(config: ConfigDict, workdir: str, run: Run = by_method) -> None:
    """One process of a run, from its flags to its exit code."""
    try:
        configs.check(config)
        runtime.prepare(config.runtime)
        endings.listen(config.records.grace)
        members.join(config.hosts)
        run(config, workdir)
    except endings.ToldToEnd as told:
        _end(str(told), endings.RESTART, endings.RESTART)
    except (ValueError, OSError, CheckpointError, members.Divergence) as error:
        _end(str(error), 1, endings.RESTART if _may_be_a_death(error) else 1)
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        death = _may_be_a_death(error)
        if not death:
            traceback.print_exc()
        what = next(iter(str(error).splitlines()), type(error).__name__)
        _end(f"process {jax.process_index()}: {what}", 1, endings.RESTART if death else 1)


def _may_be_a_death(error: Exception) -> bool:
    """Whether an error can come of another process's end: a collective or a barrier that it is missing from."""
    return isinstance(error, (CheckpointError, JaxRuntimeError)) or "gloo" in str(error).lower()


def _end(message: str, code: int, aborted: int) -> None:
    logging.debug("where it came from", exc_info=True)
    sys.stderr.write(f"error: {message}\n")
    endings.leave(code, aborted)


def cli(run: Run = by_method) -> None:
    """Entry point: checks that the flags are there."""
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(functools.partial(main, run=run))


if __name__ == "__main__":
    cli()
