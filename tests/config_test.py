"""What can be refused before a model is loaded (through the command line: experiments_test.py)."""

import pytest

from espl_jax import config as configs
from experiments import base


def changed(**fields):
    config = base.get_config()
    for name, value in fields.items():
        section, _, field = name.partition("__")
        config[section][field] = value
    return config


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"mesh__sequence": 0}, "mesh.sequence is 0; use 1 or more, or -1 for the rest of the devices"),
        ({"mesh__tensor": -2}, "mesh.tensor is -2; use 1 or more"),
        ({"mesh__fsdp": -1}, "mesh.fsdp is -1, and so is mesh.data; only one of them can be the rest"),
        ({"sampling__weights_layout": "replicated"}, "sampling.weights_layout is 'replicated'; use one of same, gathered"),
        (
            {
                "sampling__weights_layout": "gathered", "sampling__merge_weights": True, "model__dtype": "float32",
                "model__weight_dtype": "float32",
            },
            "sampling.weights_layout is 'gathered', .* switch one of them off",
        ),
    ],
)  # fmt: skip
def test_meshes_and_layouts_that_cannot_be(fields, message):
    with pytest.raises(configs.ConfigError, match=message) as caught:
        configs.check(changed(**fields))
    assert "\n" not in str(caught.value)


def test_a_mesh_with_one_rest_is_accepted():
    configs.check(changed(mesh__data=2, mesh__sequence=-1))
    configs.check(changed(sampling__weights_layout="gathered"))
