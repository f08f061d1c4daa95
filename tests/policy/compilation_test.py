"""XLA's options by kind of device."""

from espl_jax.policy import compilation
from espl_jax.policy.compilation import compiler_options


def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setitem(compilation.OPTIONS, "gradient", {"cpu": {"xla_no_such_option": "1"}})
    assert compiler_options("gradient", "cpu") == {}
    monkeypatch.setitem(compilation.OPTIONS, "gradient", {"cpu": {"xla_cpu_enable_fast_min_max": True}})
    assert compiler_options("gradient", "cpu") == {"xla_cpu_enable_fast_min_max": True}
    assert compiler_options("gradient", "another device") == {}


def test_this_xla_knows_all_that_are_asked_for():
    for program, devices in compilation.OPTIONS.items():
        for platform, options in devices.items():
            assert compiler_options(program, platform) == options
