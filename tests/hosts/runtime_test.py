"""What config.runtime puts into the environment, and what config.hosts is refused for."""

import subprocess
import sys

import pytest

from espl_jax import config as configs
from espl_jax.hosts.runtime import FLAGS, FRACTION, PREALLOCATE, environment
from experiments import base


def test_by_default_the_environment_stays_as_it_is():
    assert environment(base.get_config().runtime, {FLAGS: "--xla_a=1"}) == {}


def test_memory_and_flags_of_ours_come_behind_those_that_are_there():
    runtime = base.get_config().runtime
    runtime.gpu_memory_fraction, runtime.gpu_preallocate, runtime.xla_flags = 0.9, False, "--xla_b=2 --xla_c=3"
    wanted = {FRACTION: "0.9", PREALLOCATE: "false", FLAGS: "--xla_a=1 --xla_b=2 --xla_c=3"}
    assert environment(runtime, {FLAGS: "--xla_a=1 --xla_b=2"}) == wanted
    assert environment(runtime, wanted) == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_processes": 2}, "hosts.num_processes is 2, but hosts.coordinator is ''"),
        ({"coordinator": "somewhere"}, "hosts.coordinator is 'somewhere'; use '', auto or host:port"),
        ({"coordinator": "here:1", "num_processes": 2, "process_id": 2}, "hosts.process_id is 2, .* use 0 to 1"),
        ({"coordinator": "here:1", "heartbeat_seconds": 1}, "hosts.heartbeat_seconds is 1; use 5 or more"),
    ],
)
def test_hosts_that_cannot_be(fields, message):
    config = base.get_config()
    config.hosts.update(fields)
    with pytest.raises(configs.ConfigError, match=message):
        configs.check(config)


FAULTS = """
import ctypes, resource, sys
from espl_jax.hosts import runtime
kept = runtime.keep_memory() if sys.argv[1] == "keep" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def use():
    block = libc.malloc(2**27)
    ctypes.memset(block, 1, 2**27)
    libc.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of other systems has no mallopt")
def test_memory_that_was_freed_is_used_again_without_the_kernel():
    def faults(how):
        return subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout.split()

    kept, again = faults("keep")
    assert kept == "True"
    assert int(again) < 100 < int(faults("as it is")[1])  # of 32768 pages
