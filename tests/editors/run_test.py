"""A run whose editor is a server, killed in the middle of a step: what was answered is not asked again."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from espl_jax import editors
from espl_jax.editors.server import ServerError
from espl_jax.fingerprint import fingerprint
from espl_jax.structs import Chat, Message, Reply
from tests import tiny_run
from tests.editors.fake_server import FakeServer

ROOT = Path(__file__).parents[2]


def fields(url: str) -> dict:
    return {
        "num_steps": 2, "evaluation.every": 0, "evolution.editor": "server", "evolution.server_url": url,
        "evolution.server_model": "fake", "evolution.edit_form": "json", "evolution.server_concurrency": 1,
        "evolution.crossover_probability": 0.0,
    }  # fmt: skip


def test_a_run_killed_in_the_middle_of_a_step_asks_nothing_twice_and_ends_alike(tiny_qwen3, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FakeServer() as fake:
        state = tiny_run.run(tiny_qwen3, tmp_path / "whole", **fields(fake.url))
        asked = dict(fake.answered)
    assert len(state.population.prompts) > 1 and sum(asked.values()) == len(fake.requests) > 6

    reached, killed = threading.Event(), threading.Event()

    def hold(number: int) -> int | None:
        """The fourth request comes in the middle of a step; it is under way when the run is killed."""
        if number == 4:
            reached.set()
            killed.wait(60)
            return 500
        return None

    with FakeServer(hold) as fake:
        changes = [f"{name}={json.dumps(value)}" for name, value in fields(fake.url).items()]
        command = [sys.executable, "-m", "tests.tiny_run", str(tiny_qwen3), str(tmp_path / "killed"), *changes]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert reached.wait(120)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.set()
        tiny_run.run(tiny_qwen3, tmp_path / "killed", **fields(fake.url))
    assert set(fake.answered.values()) == {1} and dict(fake.answered) == asked
    assert len(fake.requests) == len(asked) + 1  # the one that was never answered
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


def test_a_resumed_run_may_move_to_another_address_but_not_to_another_model():
    from espl_jax.records import artifacts, resume

    saved = artifacts.config_json(tiny_run.tiny_config(ROOT, **fields("http://a/v1")))
    moved = artifacts.config_json(tiny_run.tiny_config(ROOT, **fields("http://b/v1") | {"evolution.server_retries": 9}))
    assert resume.check_config(saved, moved, 1) == []
    other = artifacts.config_json(tiny_run.tiny_config(ROOT, **fields("http://a/v1") | {"evolution.server_model": "x"}))
    with pytest.raises(ValueError, match="evolution.server_model was 'fake' and is now 'x'"):
        resume.check_config(saved, other, 1)


def test_the_first_process_asks_for_all_and_its_error_is_everybodys(monkeypatch):
    chat, told, asked = Chat("c", (Message("user", "q"),)), [], []

    def editor(chats):
        asked.append(chats)
        if len(asked) > 1:
            raise ServerError("it is gone")
        return [Reply("c", "text", "stop", 1, 1)]

    def broadcast(value):
        told.append(value)
        return value if value is not None else told[-2]

    monkeypatch.setattr(editors.members, "broadcast", broadcast)
    edit = editors.asked_once(editor)
    for good in (True, False):
        for first in (True, False):
            monkeypatch.setattr(editors.members, "first", lambda first=first: first)
            if good:
                assert edit([chat])[0].text == "text"
            else:
                with pytest.raises(ServerError, match="it is gone"):
                    edit([chat])
    assert len(asked) == 2
