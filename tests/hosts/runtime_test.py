"""What config.runtime puts into the environment, and what config.hosts is refused for."""

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
