"""Problems of one's own: local files with one JSON object {"problem": ..., "answer": ...} a line (or parquet)."""

from ml_collections import ConfigDict

from espl_jax.structs import Task
from espl_jax.tasks.math import mathematical_task
from espl_jax.tasks.sources import require_files

ABOUT = "Questions with one true answer each."


def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    """The task of the files in config.train, config.validation and config.test.

    Answers are compared as mathematics where they are mathematics, as text without regard to capitals where not.
    """
    require_files(config)
    return mathematical_task("jsonl", config, seed, ABOUT)
