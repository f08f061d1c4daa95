"""The peers' environments: `python -m benchmarks.environments [--environments=DIR] [tunix] [torch] [-- flags of pip]`.

Each peer has a virtual environment of its own, made from its pinned requirements; espl_jax is not installed there.
"""

import argparse
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from espl_jax.policy.embedded import cache_dir

HERE = Path(__file__).resolve().parent
PEERS = ("tunix", "torch")


def default_directory() -> Path:
    """Where the environments lie unless --environments says otherwise."""
    return cache_dir() / "benchmarks"


def requirements(peer: str) -> Path:
    """The pinned requirements of a peer."""
    return HERE / f"requirements-{peer}.txt"


def interpreter(directory: Path, peer: str) -> Path:
    """A peer's Python. Raises FileNotFoundError, saying what to do, when its environment has not been made."""
    python = directory / peer / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError(f"{python} is not there; run `python -m benchmarks.environments {peer}` first")
    return python


def make(directory: Path, peer: str, pip_flags: Sequence[str]) -> None:
    """Makes, or brings up to date, a peer's environment."""
    if not (directory / peer / "bin" / "python").exists():
        venv.create(directory / peer, with_pip=True)
    command = [str(interpreter(directory, peer)), "-m", "pip", "install", "-r", str(requirements(peer)), *pip_flags]
    subprocess.run(command, check=True)


def main(argv: Sequence[str]) -> None:
    ours, pip_flags = list(argv), []
    if "--" in ours:
        cut = ours.index("--")
        ours, pip_flags = ours[:cut], ours[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", help=f"some of {', '.join(PEERS)}; all when none is named")
    parser.add_argument("--environments", type=Path, default=default_directory())
    flags = parser.parse_args(ours)
    if unknown := set(flags.peers) - set(PEERS):
        parser.error(f"unknown peer {sorted(unknown)[0]!r}; use some of {', '.join(PEERS)}")
    for peer in flags.peers or PEERS:
        make(flags.environments, peer, pip_flags)


if __name__ == "__main__":
    main(sys.argv[1:])
