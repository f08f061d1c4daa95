"""A tiny run in which something happens after step 1: python -m tests.hosts.strange_run MODEL WORKDIR fields.

The environment variable STRANGE says what: "differ": process 1 counts other than process 0;
"full": there is no room for step 2.
"""

import dataclasses
import errno
import os
import sys

import jax

from espl_jax import train
from espl_jax.records import json_files
from tests import tiny_run

ITERATE, WRITE = train.iterate, json_files.write_synced


def differ(run, state):
    step = ITERATE(run, state)
    if step.state.step < 2 or jax.process_index() == 0:
        return step
    return dataclasses.replace(step, state=dataclasses.replace(step.state, counters=step.state.counters | {"odd": 1.0}))


def full(path, text):
    if "000002" in str(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return WRITE(path, text)


if __name__ == "__main__":
    if os.environ["STRANGE"] == "differ":
        train.iterate = differ
    else:
        json_files.write_synced = full
    tiny_run.command(sys.argv[1:])
