"""The server editor against a real server on this machine: what it sends, keeps, repeats and refuses."""

import json
from dataclasses import replace

import pytest

from espl_jax.editors import server as servers
from espl_jax.editors.replies import Replies, Written
from espl_jax.structs import Chat, Message
from tests.editors.fake_server import FakeServer
from tests.evolution.scripted import config

SECRET = "sk-very-secret-4711"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(servers, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FAKE_KEY", SECRET)


def editor(fake: FakeServer, workdir, step=3, seed=0, **changes):
    fields = {"server_url": fake.url, "server_model": "m", "server_key": "FAKE_KEY", "server_timeout": 5.0, "server_retries": 3}
    return servers.make_editor(config(**fields | changes), seed, step, workdir)


def chats(count: int, prefix="", stop="") -> list[Chat]:
    return [Chat(f"mutation/critique/{i}", (Message("user", f"question {i}"),), prefix, stop) for i in range(count)]


def test_replies_come_in_order_with_usage_and_are_asked_once(tmp_path):
    with FakeServer(text=lambda body, times: f"{times} {body['messages'][0]['content']}") as fake:
        first = editor(fake, tmp_path)(chats(20))
        again = editor(fake, tmp_path)(chats(20))
    assert [reply.text for reply in first] == [f"1 question {i}" for i in range(20)] and again == first
    assert {(reply.finish, reply.prompt_tokens, reply.generated_tokens) for reply in first} == {("stop", 11, 7)}
    assert set(fake.answered.values()) == {1} and len(fake.requests) == 20
    headers, body = fake.requests[0]
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body.items() >= {"model": "m", "temperature": 0.6, "top_p": 0.95, "max_tokens": 4096}.items()


@pytest.mark.parametrize("change", [{"step": 4}, {"seed": 1}, {"server_model": "n"}, {"temperature": 0.1}])
def test_another_question_is_another_request(change, tmp_path):
    with FakeServer() as fake:
        one = editor(fake, tmp_path)(chats(1))
        other = editor(fake, tmp_path, **change)(chats(1))
        editor(fake, tmp_path)([replace(chats(1)[0], messages=(Message("user", "else"),))])
    assert len(fake.requests) == 3 and one != other


def test_parameters_are_added_and_taken_out(tmp_path):
    with FakeServer() as fake:
        editor(fake, tmp_path, server_parameters='{"max_tokens": null, "max_completion_tokens": 9, "seed": 1}')(chats(1))
    body = fake.requests[0][1]
    assert "max_tokens" not in body and (body["max_completion_tokens"], body["seed"]) == (9, 1)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(status, tmp_path):
    with FakeServer(lambda n: status if n <= 2 else None) as fake:
        assert editor(fake, tmp_path)(chats(1))[0].finish == "stop"
    assert len(fake.requests) == 3
    [path] = (tmp_path / "replies" / "000003").iterdir()
    assert json.loads(path.read_text(encoding="utf-8"))["reply"]["tries"] == 3


@pytest.mark.parametrize(
    ("status", "tries", "named"),
    [(401, 1, "evolution.server_key"), (404, 1, "evolution.server_url"), (302, 1, "status 302"), (503, 4, "in 4 tries")],
)
def test_what_does_not_pass_is_one_sentence_without_the_key(status, tries, named, tmp_path):
    with FakeServer(lambda n: status) as fake:
        with pytest.raises(servers.ServerError, match=named) as caught:
            editor(fake, tmp_path)(chats(1))
    assert len(fake.requests) == tries and SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_nobody_there_is_a_server_error(tmp_path):
    with FakeServer() as fake:
        url = fake.url
    with pytest.raises(servers.ServerError, match="gave no answer in 2 tries"):
        editor(fake, tmp_path, server_url=url, server_retries=1)(chats(1))


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>busy</html>", b"[]", b'{"choices": []}', b"[" * 100_000, b'{"error": "x"}',
        b'{"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}',
    ],
)  # fmt: skip
def test_answers_that_are_none_are_tried_again_and_then_an_error(raw, tmp_path):
    with FakeServer() as fake:
        fake.raw = raw
        with pytest.raises(servers.ServerError, match="in 2 tries"):
            editor(fake, tmp_path, server_retries=1)(chats(1))
    assert len(fake.requests) == 2 and not list(tmp_path.rglob("*.json"))


def test_one_failure_keeps_the_replies_that_came(tmp_path):
    with FakeServer(lambda n: 400 if n == 3 else None) as fake:
        with pytest.raises(servers.ServerError, match="status 400"):
            editor(fake, tmp_path, server_concurrency=1)(chats(5))
        kept = len(list(tmp_path.rglob("*.json")))
        editor(fake, tmp_path)(chats(5))
    assert kept == 2 and set(fake.answered.values()) == {1} and len(fake.answered) == 5


def test_no_more_requests_at_a_time_than_the_config_says(tmp_path):
    import threading

    running, most, lock = [0], [0], threading.Lock()

    def text(body, times):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.03)
        with lock:
            running[0] -= 1
        return "[]"

    with FakeServer(text=text) as fake:
        editor(fake, tmp_path, server_concurrency=3)(chats(9))
    assert most[0] == 3


def test_the_key_is_nowhere_in_the_records_even_if_the_server_says_it(tmp_path):
    with FakeServer(text=lambda body, times: f"your key is {SECRET}") as fake:
        [reply] = editor(fake, tmp_path)(chats(1))
    assert reply.text == "your key is [key]"
    assert all(SECRET not in path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json"))


def test_a_damaged_record_is_asked_again(tmp_path):
    with FakeServer() as fake:
        one = editor(fake, tmp_path)(chats(1))
        [path] = tmp_path.rglob("*.json")
        path.write_text("{half", encoding="utf-8")
        assert editor(fake, tmp_path)(chats(1)) != one
    assert Replies(tmp_path, 9).find({"seed": 0}) is None


def replied(text: str, ended="stop", prefix="Advice:", stop="\n"):
    reply = servers.reply_to(chats(1, prefix, stop)[0], Written(text, ended, 1, 2, "", 1, 0.1))
    return reply.text, reply.finish


def test_prefix_and_stop_are_made_of_what_the_server_wrote():
    assert replied("Advice: carry the tens.\nBecause.") == ("Advice: carry the tens.\n", "stop")
    assert replied("Sure!\nAdvice:\n carry.\nx", "length") == ("Advice: carry.\n", "stop")
    assert replied("carry the tens.") == ("Advice:carry the tens.", "stop")
    assert replied("carry", "length") == ("Advice:carry", "length")
    assert replied("Advice: a", "content_filter", stop="") == ("Advice: a", "length")
    assert replied("x\ny", prefix="", stop="") == ("x\ny", "stop") and replied("", prefix="", stop="") == ("", "stop")
    [turn] = servers.asked(chats(1, "Advice:", "\n")[0])
    assert turn["content"].startswith("question 0") and turn["content"].endswith("Advice:")
