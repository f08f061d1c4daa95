"""Architectures that are known by name: the config.json of each model, in its public figures alone.

From the models' own pages on the Hugging Face hub (Qwen/Qwen3-0.6B, -4B, -8B, -32B; meta-llama/Llama-3.1-8B, -70B).
"""

from pathlib import Path

ARCHITECTURES = Path(__file__).parent / "architectures"


def architecture(name: str, path: str) -> Path:
    """The directory with config.json: `name`, or else model.path, as a directory or as a built-in name (of whatever owner).

    Raises ValueError when there is none.
    """
    given = name or path
    for directory in (Path(given), ARCHITECTURES / given.rpartition("/")[2].lower()):
        if (directory / "config.json").is_file():
            return directory
    known = ", ".join(sorted(one.name for one in ARCHITECTURES.iterdir()))
    raise ValueError(f"no config.json for {given!r}; set --architecture to a directory with one, or to one of {known}")
