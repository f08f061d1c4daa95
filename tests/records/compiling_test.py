"""Programs are counted once each, when they are compiled."""

import jax
import jax.numpy as jnp

from espl_jax.records.compiling import Compiling


def test_each_new_program_counts_once():
    one, two, four = jnp.zeros(1), jnp.zeros(2), jnp.zeros(4)
    counted = Compiling()
    double = jax.jit(lambda x: x * 2)
    double(two), double(two), double(four)
    taken = counted.take()
    assert taken["time/programs"] == 2 and taken["time/compile"] > 0
    assert counted.take() == {"time/programs": 0, "time/compile": 0}
    double(one)
    assert Compiling().take()["time/programs"] == 0, "what came before is not its own"
    assert counted.take()["time/programs"] == 1
