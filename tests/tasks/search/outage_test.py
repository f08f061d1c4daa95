"""A run whose search server is killed and comes back ends as one that searched by itself."""

import dataclasses
import re
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from espl_jax import tasks, train
from espl_jax.fingerprint import fingerprint
from espl_jax.policy import weights
from espl_jax.policy.hf_config import read_spec
from espl_jax.structs import Ended, Message
from espl_jax.tasks.search.calls import Call
from espl_jax.tasks.search.environment import SearchEnvironment
from espl_jax.tasks.search.retriever import open_retriever
from tests.tiny import random_params
from tests.tiny_environment import Calculator, calculator_task
from tests.tiny_run import tiny_config

ROOT = Path(__file__).parents[3]
QUERIES = ("novel", "Jane Austen", "village in Hampshire", "Limmat")


class Searcher(Calculator):
    """Searches where the calculator adds up: a random model writes no call, so every other reply is taken for one."""

    def __init__(self, tools, before=lambda number: None):
        super().__init__(every=2)
        self.inner = SearchEnvironment(open_retriever(tools), 2, 3, 0.0, "")
        self.before, self.lock, self.searches = before, threading.Lock(), 0

    def step(self, problem, messages):
        answer = super().step(problem, messages)
        if isinstance(answer, Ended):
            return answer
        with self.lock:
            self.searches += 1
            self.before(self.searches)
        return (Message("tool", self.inner.result(Call((QUERIES[len(messages[-1].content) % len(QUERIES)],)))),)


class Server:
    """The server as a process of its own; `crash` kills it, and it is back some seconds later, at the same port."""

    def __init__(self, index: Path):
        self.index, self.crashes = index, 0
        self.start(0)
        found = re.search(r"http://127.0.0.1:(\d+)", self.process.stdout.readline())
        assert found, "the server did not start"
        self.port = int(found.group(1))

    def start(self, port: int) -> None:
        command = [sys.executable, "-m", "espl_jax.tasks.search.server", f"--index={self.index}", f"--port={port}"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def crash(self) -> None:
        self.process.kill()
        self.process.wait()
        self.crashes += 1
        self.start(self.port)  # it takes seconds until it listens

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def server(index_folder):
    server = Server(index_folder)
    yield server
    server.end()


@pytest.fixture(scope="module")
def config(tiny_qwen3, tmp_path_factory):
    """A model of one layer that ends its replies now and then."""
    directory = tmp_path_factory.mktemp("one") / "layer"
    spec = dataclasses.replace(read_spec(tiny_qwen3), num_layers=1)
    params = random_params(spec, 0)
    params["head"][2] *= 5.0
    weights.save(directory, spec, params, tiny_qwen3, np.float32)
    changes = {
        "num_steps": 1, "task.name": "searcher", "task.num_validation": 0, "sampling.top_p": 0.95, "sampling.temperature": 0.7,
        "sampling.max_new_tokens": 200, "sampling.prefill_tokens": 128, "sampling.prefill_chunk": 32, "evaluation.every": 0,
        "evaluation.max_new_tokens": 100, "rl.micro_batch_tokens": 4096, "evolution.mutation_probability": 0.0,
        "evolution.crossover_probability": 0.0, "tools.max_turns": 3, "tools.max_turn_tokens": 24,
    }  # fmt: skip
    return tiny_config(directory, **changes)


def run(config, workdir, retriever, before=lambda number: None):
    config = config.copy_and_resolve_references()
    config.tools.update(retriever=retriever, retries=7)
    environment = Searcher(config.tools, before)
    with mock.patch.dict(tasks.TASKS, searcher=calculator_task(environment)):
        train.run(config, workdir)
    return environment.searches


def test_a_server_that_dies_and_comes_back_changes_nothing(config, server, index_folder, tmp_path):
    with config.unlocked():
        config.tools.index = str(index_folder)
    expected = run(config, tmp_path / "local", "local")

    def before(number: int) -> None:
        if number in (expected // 4, 3 * expected // 4):
            server.crash()

    searches = run(config, tmp_path / "server", f"http://127.0.0.1:{server.port}", before)
    assert searches == expected > 8 and server.crashes == 2
    assert fingerprint(tmp_path / "server") == fingerprint(tmp_path / "local")
    conversations = (tmp_path / "server" / "steps" / "000001" / "rollouts.jsonl").read_text()
    assert "Doc 1 (" in conversations and "the search failed" not in conversations
