"""The processes of a run: how they find each other, and what they tell each other besides arrays.

Every process runs the same program on the same host values, so that selection, rating and reflection need no messages. What
only one of them can know (a grade that its workers gave, a file that it saw) is exchanged here, as pickled objects through the
key-value store of jax.distributed, which no device waits for. Calls come from the main thread, in the same order everywhere.
"""

import itertools
import pickle
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import distributed  # the public interface has no key-value store

from espl_jax.hosts import endings

AUTO = "auto"  # hosts.coordinator: ask SLURM, Open MPI, GKE or the TPU's metadata, as jax.distributed does
PATIENCE_MS = 7 * 24 * 3600 * 1000  # of waiting for a slower process; one that is gone ends us sooner
_calls = itertools.count()


class Divergence(RuntimeError):
    """Processes of one run are not in the same state."""


def join(hosts: Any) -> None:
    """Connects this process with the others that config.hosts names; "" for the coordinator: there are none.

    Blocks until all are there. Raises ValueError when the cluster cannot be found out or somebody does not come.
    """
    if not hosts.coordinator:
        return
    known = {"num_processes": hosts.num_processes, "process_id": hosts.process_id}
    known = {name: value for name, value in known.items() if value >= 0}
    if hosts.coordinator != AUTO:
        known["coordinator_address"] = hosts.coordinator
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which endings.py listens to
    endings.translate_aborts()
    try:
        jax.distributed.initialize(
            **known, initialization_timeout=hosts.start_seconds, heartbeat_timeout_seconds=hosts.heartbeat_seconds,
            shutdown_timeout_seconds=hosts.heartbeat_seconds,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"hosts.coordinator is {hosts.coordinator!r}, but the processes could not be brought together: "
            f"{str(error).splitlines()[0]}; give host:port, hosts.num_processes and hosts.process_id"
        ) from error


def first() -> bool:
    """Whether this is the process that writes records."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Every process's value (what pickle can hold), in the order of the processes, in every process."""
    if jax.process_count() == 1:
        return [value]
    call, me, store = next(_calls), jax.process_index(), distributed.global_state.client
    store.key_value_set_bytes(_key(call, me), pickle.dumps(value))
    found = [store.blocking_key_value_get_bytes(_key(call, i), PATIENCE_MS) for i in range(jax.process_count())]
    if call:
        store.key_value_delete(_key(call - 1, me))  # everybody is in this call, so all have read the one before
    return [pickle.loads(each) for each in found]


def _key(call: int, process: int) -> str:
    return f"espl_jax/gather/{call}/{process}"


def broadcast(value: Any) -> Any:
    """The first process's value, in every process; what the others give is not looked at."""
    return gather(value if first() else None)[0]


def mine(index: int) -> bool:
    """Whether the index-th piece of work that can be shared is this process's."""
    return index % jax.process_count() == jax.process_index()


def agree(where: str, digests: Mapping[str, str]) -> None:
    """Raises Divergence, in every process, when they are not given equal digests. where: "after step 3", for the message."""
    everybody = gather(dict(digests))
    differing = {i: _differences(everybody[0], other) for i, other in enumerate(everybody) if other != everybody[0]}
    if differing:
        found = "; ".join(f"process {i} differs from process 0 in {', '.join(names)}" for i, names in differing.items())
        raise Divergence(
            f"{where} the processes of this run are not in the same state: {found}; what was saved before is kept: "
            "check that all run the same code on the same files and hardware, then start again"
        )


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def any_told_to_end() -> bool:
    """Whether some process has been told to end; the same answer in all of them."""
    return any(gather(endings.told_to_end()))
