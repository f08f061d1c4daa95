"""Memory by formula over a mesh, and remedies: on one device it is policy/memory.py; what is advised fits and is needed."""

import dataclasses

import pytest

from espl_jax.dryrun import estimate
from espl_jax.dryrun.built_in import ARCHITECTURES, architecture
from espl_jax.dryrun.chips import CHIPS, GIB, SLICES, Slice
from espl_jax.dryrun.programs import Lengths
from espl_jax.policy import memory
from espl_jax.policy.hf_config import read_spec
from experiments import base

LENGTHS = Lengths(600, 200, 15000)
BILLIONS = {
    "qwen3-0.6b": 0.596, "qwen3-4b": 4.022, "qwen3-8b": 8.191, "qwen3-32b": 32.762, "llama-3.1-8b": 8.030,
    "llama-3.1-70b": 70.554,
}  # fmt: skip  as the model cards have them


def make_config(**fields):
    config = base.get_config().copy_and_resolve_references()
    config.model.scan_layers = True
    return estimate.changed(config, **fields)


def test_built_in_architectures_have_the_sizes_of_their_cards():
    assert {one.name for one in ARCHITECTURES.iterdir()} == set(BILLIONS)
    for name, billions in BILLIONS.items():
        spec = read_spec(architecture("", f"someone/{name.upper()}"))
        assert memory.model_numbers(spec) == pytest.approx(billions * 1e9, rel=1e-3)


def test_an_unknown_architecture_is_one_sentence():
    with pytest.raises(ValueError, match="no config.json for 'nothing'; set --architecture .* one of llama-3.1-70b, "):
        architecture("nothing", "Qwen/Qwen3-8B")


SPEC = read_spec(architecture("qwen3-0.6b", ""))


def test_one_device_is_the_formula_of_one_device():
    config = make_config()
    found = estimate.estimate(config, SPEC, 1, LENGTHS)
    mesh = estimate.sharding.make_mesh(**config.mesh, devices=[estimate.Place(0)])
    layout = estimate.sampler_layout(config, mesh, LENGTHS)
    assert layout.slots <= 128 and layout.length == 16384
    assert found["sampling"] == pytest.approx(sum(memory.sampling_terms(SPEC, config, layout, merged=1).values()))
    terms = memory.gradient_terms(SPEC, config, 32768, several=True, platform="tpu")
    assert found["learning"] == pytest.approx(sum(terms.values()))


def test_splitting_weights_needs_less_and_the_best_mesh_needs_least():
    whole = max(estimate.estimate(make_config(), SPEC, 8, LENGTHS).values())
    best = estimate.meshes(make_config(), SPEC, 8, LENGTHS)
    needs = [max(estimate.estimate(one, SPEC, 8, LENGTHS).values()) for one in best]
    assert needs == sorted(needs) and needs[0] < whole and needs[-1] <= whole * 1.01


def test_what_is_advised_fits_and_is_needed():
    chip = dataclasses.replace(CHIPS["v5e"], memory=12 * GIB)
    where, config = Slice("v5e:2x2", (0,) * 4, 4, chip), make_config(mesh__tensor=2)
    before = estimate.estimate(config, SPEC, 4, LENGTHS)
    assert max(before.values()) > where.device_memory
    advised = estimate.remedies(config, SPEC, where, LENGTHS, {})
    assert advised and all(max(one.needs.values()) <= where.device_memory for one in advised)
    larger = [one.text for one in advised if "--topology" in one.text]
    assert len(larger) == 1 and larger[0].split()[0].partition(":")[2] in SLICES["v5e"][1:]
    assert len({one.text for one in advised}) == len(advised) <= 6
    # what was measured counts: twice what the formula says is twice as much after any change
    [same] = [one for one in advised if one.text == larger[0]]
    doubled = estimate.remedies(config, SPEC, where, LENGTHS, {name: 2 * value for name, value in before.items()})
    for one in doubled:
        assert max(one.needs.values()) <= where.device_memory
        assert one.text != same.text or one.needs["learning"] == pytest.approx(2 * same.needs["learning"])
