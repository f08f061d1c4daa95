"""What can be refused before a model is loaded (through the command line: experiments_test.py)."""

import re

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


SERVER = {"evolution__editor": "server", "evolution__server_url": "http://localhost:8000/v1", "evolution__server_model": "m"}
HELD = {"evolution__grammar": "json", "evolution__edit_form": "json"}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"evolution__fitness": "crowded"}, "evolution.fitness is 'crowded'; use one of rating, shared, pareto"),
        ({"evolution__islands": 0}, "evolution.islands is 0; use 1 or more"),
        ({"evolution__niche_radius": 0.0}, "evolution.niche_radius is 0.0; use 1e-06 to 1"),
        (SERVER | {"evolution__server_url": ""}, "evolution.server_url is ''; give http"),
        (SERVER | {"evolution__server_url": "https://me:hunter2@host/v1"}, "evolution.server_url is 'https://host/v1'; give"),
        (SERVER | {"evolution__server_url": "https://host/v1?key=hunter2"}, "evolution.server_url is 'https://host/v1'; give"),
        (SERVER | {"evolution__server_model": ""}, "evolution.server_model is ''"),
        (SERVER | {"evolution__server_key": "hunter2"}, "evolution.server_key gives no environment variable's name"),
        (SERVER | {"evolution__server_parameters": "[]"}, "evolution.server_parameters is"),
        (SERVER | HELD, "evolution.grammar is 'json', which needs evolution.editor=reference or current and got 'server'"),
        (HELD | {"evolution__genome": "document"}, "needs evolution.genome=principles and got 'document'"),
        (HELD | {"evolution__max_new_tokens": 100}, "evolution.max_new_tokens is 100, too few"),
    ],
)  # fmt: skip
def test_editors_and_strategies_that_cannot_be(fields, message):
    with pytest.raises(configs.ConfigError, match=re.escape(message)) as caught:
        configs.check(changed(**fields))
    assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)


def test_a_server_with_a_key_and_a_grammar_are_accepted(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "hunter2")
    configs.check(changed(**SERVER, evolution__server_key="SOME_KEY"))
    configs.check(changed(**HELD))
