"""What the documentation names is there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from espl_jax import config as configs
from experiments import base

ROOT = Path(__file__).parents[1]
DOCS = (
    "launch.md", "hardware.md", "meshes.md", "hosts.md", "conversations.md", "strategies.md", "editors.md",
    "search.md", "sft.md", "export.md", "report.md", "compare.md", "smallworld.md",
)
HARDWARE = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")


def test_the_xla_flags_in_the_docs_are_known_to_this_jaxlib():
    """jaxlib stops the process for an unknown one."""
    flags = set(re.findall(r"`(?:XLA_FLAGS=)?(--xla_\w+=\w+)`", HARDWARE))
    assert len(flags) >= 6
    environment = os.environ | {"XLA_FLAGS": " ".join(sorted(flags)), "JAX_PLATFORMS": "cpu"}
    code = "import jax; jax.devices()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("name", DOCS)
def test_the_config_fields_in_the_docs_are_there(name):
    config = base.get_config()
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    sections = "|".join(key for key in config if isinstance(config[key], type(config)))
    fields = set(re.findall(rf"\b(?:{sections})\.[a-z][a-z_]*(?==|`| )", text))
    assert fields
    for field in fields:
        configs.field(config, field)


@pytest.mark.parametrize("name", DOCS)
def test_the_files_that_the_docs_link_to_are_there(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / "docs" / link).exists(), link
