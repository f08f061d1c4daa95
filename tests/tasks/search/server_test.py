"""The server: Search-R1's interface, answers equal to the local index's, and requests that are wrong."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espl_jax.tasks.search.client import HttpRetriever
from espl_jax.tasks.search.server import MAX_BODY, MAX_QUERIES, MAX_TOPK
from tests.tasks.search.conftest import PASSAGES

QUERIES = ["emma", "jane austen", "hampshire", "", "xyzzy", "Zürich\x00\x1b", "\ud800 steventon"]


def ask(url: str, body: bytes, path: str = "/retrieve", method: str = "POST", headers=None) -> tuple[int, dict]:
    """(status, answer) of one request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_the_interface(url, index):
    """With scores, without, and with the server's own number of passages (2)."""
    request = {"queries": ["emma", "xyzzy"], "topk": 1, "return_scores": True}
    (best,) = index.search(["emma"], 1)[0]
    document = {"id": "p1", "contents": f'"Emma"\n{PASSAGES[0].text}', "title": "Emma", "text": PASSAGES[0].text}
    assert ask(url, json.dumps(request).encode()) == (200, {"result": [[{"document": document, "score": best.score}], []]})
    without = ask(url, json.dumps({"queries": ["emma"], "topk": 1}).encode())
    assert without == (200, {"result": [[document]]})
    status, answer = ask(url, json.dumps({"queries": ["emma austen steventon"], "topk": None}).encode())
    assert (status, len(answer["result"][0])) == (200, 2)
    assert ask(url, b'{"queries": []}') == (200, {"result": []})


@pytest.mark.parametrize("topk", [1, 3])
def test_answers_equal_the_index(url, index, topk):
    client = HttpRetriever(url, timeout=10.0, retries=0)
    assert client.search(QUERIES, topk) == index.search(QUERIES, topk)
    assert client.search([], topk) == []


def test_many_queries_go_in_several_requests(url, index):
    queries = QUERIES * 30
    assert HttpRetriever(url, timeout=10.0, retries=0).search(queries, 2) == index.search(queries, 2)


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=3))
def test_any_query_can_be_asked(url, index, queries):
    queries = [f"{query} emma" for query in queries]
    assert HttpRetriever(url, timeout=10.0, retries=0).search(queries, 3) == index.search(queries, 3)


@pytest.mark.parametrize(
    "body, status, message",
    [
        (b"", 400, "no JSON"),
        (b"{", 400, "no JSON"),
        (b"\xff\xfe", 400, "no JSON"),
        (b"[" * 100_000, 400, "no JSON"),
        (b"[1]", 400, "must be an object"),
        (b"{}", 400, "queries must be a list of texts"),
        (b'{"queries": "emma"}', 400, "queries must be a list of texts"),
        (b'{"queries": ["emma", 3]}', 400, "queries must be a list of texts"),
        (b'{"queries": ["emma"], "topk": 0}', 400, f"from 1 to {MAX_TOPK}"),
        (b'{"queries": ["emma"], "topk": 101}', 400, f"from 1 to {MAX_TOPK}"),
        (b'{"queries": ["emma"], "topk": true}', 400, f"from 1 to {MAX_TOPK}"),
        (b'{"queries": ["emma"], "topk": "3"}', 400, f"from 1 to {MAX_TOPK}"),
        (b'{"queries": ["emma"], "return_scores": 1}', 400, "true or false"),
        (json.dumps({"queries": [""] * (MAX_QUERIES + 1)}).encode(), 400, f"at most {MAX_QUERIES}"),
    ],
)
def test_a_wrong_request_is_told_why(url, body, status, message):
    got, answer = ask(url, body)
    assert got == status
    assert message in answer["error"]


def test_bodies_without_a_length_or_too_long_are_not_read(url):
    assert ask(url, iter([b"{}"]), headers={"Transfer-Encoding": "chunked"})[0] == 411
    assert ask(url, b"", headers={"Content-Length": str(MAX_BODY + 1)})[0] == 413
    assert ask(url, b"", headers={"Content-Length": "-1"})[0] == 411


def test_other_paths(url, index):
    assert ask(url, b"", "/health", "GET") == (200, {"status": "ok", "passages": len(index)})
    assert ask(url, b"", "/", "GET")[0] == 404
    assert ask(url, b"{}", "/search")[0] == 404


def test_a_connection_serves_request_after_request(url):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    for body, status in ((b'{"queries": ["emma"]}', 200), (b"{", 400), (b'{"queries": ["emma"]}', 200)):
        connection.request("POST", "/retrieve", body)
        response = connection.getresponse()
        response.read()
        assert response.status == status
