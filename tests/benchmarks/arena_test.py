"""What the benchmarks' drivers share."""

import argparse
import sys
from pathlib import Path

import pytest

from benchmarks import arena, environments


def test_contestants_take_turns():
    order = []
    seconds = arena.alternate(["ours", "tunix"], lambda name: order.append(name) or float(len(order)), 3, budget_s=100)
    assert order == ["ours", "tunix"] * 3
    assert seconds == {"ours": (1.0, 3.0, 5.0), "tunix": (2.0, 4.0, 6.0)}


def test_the_first_round_is_whole_whatever_the_budget():
    assert arena.alternate(["ours", "tunix"], lambda name: 1.0, 3, budget_s=-1) == {"ours": (1.0,), "tunix": (1.0,)}


class Scripted:
    """A contestant that answers from a table."""

    def __init__(self, tokens):
        self.tokens = tokens

    def call(self, method, **arguments):
        return [1, 2] if method == "greedy_prompt" else self.tokens


def test_greedy_tokens_are_compared_up_to_the_first_difference():
    same = list(range(arena.GREEDY_LENGTH))
    started = {"ours": Scripted(same), "tunix": Scripted(same), "torch": Scripted([*same[:5], -1, *same[6:]])}
    assert arena.same_greedy_tokens(started) == {"tunix": arena.GREEDY_LENGTH, "torch": 5}
    assert arena.same_greedy_tokens({"tunix": Scripted(same)}) == {}


def flags_for(directory: Path) -> argparse.Namespace:
    return argparse.Namespace(dtype="float32", fields={}, device="cpu", threads=2, environments=directory)


def test_commands(tmp_path):
    python = tmp_path / "tunix" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    flags = flags_for(tmp_path)
    loaded = ["model", "float32"]
    assert arena.command("ours", flags, Path("model"))[0] == sys.executable
    assert arena.command("tunix", flags, Path("model")) == [str(python), "-m", "benchmarks.contestants.tunix_peer", *loaded]
    with pytest.raises(FileNotFoundError, match="benchmarks.environments torch"):
        arena.command("torch", flags, Path("model"))
    with pytest.raises(ValueError, match="unknown contestant 'vllm'"):
        arena.command("vllm", flags, Path("model"))


def test_every_peer_has_pinned_requirements():
    for peer in environments.PEERS:
        lines = environments.requirements(peer).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert pins and all("==" in pin for pin in pins)
