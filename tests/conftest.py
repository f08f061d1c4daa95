"""Fixtures that several rooms share: model directories, made or fetched once."""

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

# A test never asserts a time, and hypothesis would: 200 ms an example. Two cores that run two tests are slower than that.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu, which the dry run compiles with, would look for a TPU

from espl_jax.policy import embedded  # noqa: E402
from tests.tiny import make_tiny_qwen3  # noqa: E402


@pytest.fixture(scope="session")
def embedded_directory() -> Path:
    """SmolLM2-135M-Instruct; fetched the first time."""
    return embedded.fetch()


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory) -> Path:
    """A random Qwen3 of 2 layers with tokenizer and chat template; do not write into it."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny-qwen3")
