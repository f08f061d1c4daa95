"""The adapter that comes with the project: small, whole, beside its licence, and able to reflect on the embedded model."""

import re

import pytest
from setuptools import find_packages

from benchmarks import crossover, reflection
from espl_jax import config as configs
from espl_jax.policy import adapter_files
from espl_jax.policy.lora import TARGETS
from experiments import smallworld
from tests.tiny_run import CACHE

FOLDER = adapter_files.SHIPPED / "smallworld"


def test_it_has_its_card_and_licence_and_at_most_12_mb():
    assert "smallworld" in adapter_files.shipped() and smallworld.get_config().model.adapter == "smallworld"
    assert (FOLDER / adapter_files.TENSORS).stat().st_size <= 12e6
    card, licence = ((FOLDER / name).read_text(encoding="utf-8") for name in ("README.md", "LICENSE"))
    assert card.startswith("---\nlicense: apache-2.0\n") and f"base_model: {adapter_files.EMBEDDED_NAME}\n" in card
    assert re.search(r"Apache License\s+Version 2.0", licence)


def test_it_belongs_to_the_embedded_model_and_changes_every_projection():
    adapter = adapter_files.read(FOLDER)
    assert adapter.base == adapter_files.EMBEDDED_NAME and len(adapter.factors) == 30 * len(adapter.targets)
    assert len(adapter.targets) == len(TARGETS)


def test_it_is_installed_with_the_package():
    """package_data's pattern, in setup.py, reaches it; espl_jax/adapters is no package of its own."""
    assert "espl_jax.adapters" not in find_packages(str(adapter_files.SHIPPED.parents[1]))
    found = {path.name for path in adapter_files.SHIPPED.parent.glob("adapters/*/*")}
    assert found == {adapter_files.TENSORS, adapter_files.CONFIG, "README.md", "LICENSE"}


def says_something(case, config):
    return '"op": "add"' in case.call.reply.text


def lacks_something(case, config):
    return crossover.judge(case, case.call.reply, config).lacking > 0


@pytest.fixture(scope="module")
def replied():
    """By benchmark (config, cases that have something to say, the model's replies), all asked in one call."""
    asked = {}
    for module, worlds, count, telling in ((reflection, 9, 5, says_something), (crossover, 80, 4, lacks_something)):
        config = module.settings()
        config.records.compilation_cache = CACHE
        config = configs.resolve(config)
        asked[module] = config, [case for case in module.cases(config, worlds) if telling(case, config)][:count]
    replies = iter(reflection.replies_of(config, [case for _, cases in asked.values() for case in cases]))
    return {module: (config, cases, [next(replies) for _ in cases]) for module, (config, cases) in asked.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("module, count, useful", [(reflection, 5, "survive"), (crossover, 4, "found")])
def test_its_edits_can_be_read_and_some_are_of_use(replied, module, count, useful):
    """The untaught model gives 2 readable critiques in 24, never a meaning."""
    config, cases, replies = replied[module]
    verdicts = [module.judge(case, reply, config) for case, reply in zip(cases, replies, strict=True)]
    assert len(cases) == count
    assert sum(verdict.readable for verdict in verdicts) >= count - 1
    assert sum(getattr(verdict, useful) for verdict in verdicts) >= 1
