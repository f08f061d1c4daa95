"""The client against servers that break, lie, hang, die and come back."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espl_jax.tasks.search import client
from espl_jax.tasks.search.client import HttpRetriever, parse
from espl_jax.tasks.search.passages import Passage, RetrieverError
from experiments import base

GOOD = b'{"result": [[{"document": {"id": "1", "contents": "\\"Emma\\"\\nA novel."}, "score": 2.5}]]}'
HTML = b"<!doctype html><html><body>Sign in</body></html>"
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["result", "document", "contents", "title", "text", "id", "score"]), inner, max_size=4),
    max_leaves=12,
)


class Hostile:
    """Answers each connection as the next of `answers` says (the last one again and again); an answer is given the socket."""

    def __init__(self, *answers: Callable[[socket.socket, threading.Event], None]):
        self.answers, self.asked, self.stop = list(answers), 0, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while not self.stop.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            answer = self.answers[min(self.asked, len(self.answers) - 1)]
            self.asked += 1
            threading.Thread(target=self.answer, args=(answer, connection), daemon=True).start()

    def answer(self, answer, connection):
        with connection:
            try:
                read_request(connection)  # all of it: closing a socket with bytes unread resets it, and the answer is lost
                answer(connection, self.stop)
            except OSError:
                pass


def read_request(connection: socket.socket):
    """Reads an HTTP request, header and body, to its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    header, body = data.split(b"\r\n\r\n", 1)
    length = int(re.search(rb"Content-Length: (\d+)", header)[1])
    while len(body) < length:
        body += received(connection)


def received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    if not data:
        raise OSError("the client went away")
    return data


@pytest.fixture
def serve() -> Iterator[Callable[..., Hostile]]:
    """serve(answer, ...) -> Hostile; all end with the test."""
    servers = []

    def start(*answers):
        servers.append(Hostile(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.stop.set()
        server.listener.close()


def whole(body: bytes, status: str = "200 OK", length: int | None = None):
    """An answer with this body; `length` is what its header claims."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode()
    return lambda connection, stop: connection.sendall(head + body)


def raw(data: bytes):
    """These bytes, then the end."""
    return lambda connection, stop: connection.sendall(data)


def repeat(head: bytes, data: bytes, pause: float):
    """`head`, then `data` again and again until the client goes away."""

    def answer(connection, stop):
        connection.sendall(head)
        while not stop.wait(pause):
            connection.sendall(data)

    return answer


def hang(connection, stop):
    stop.wait(30)


def ask(server: Hostile, retries: int = 0, timeout: float = 10.0, pauses: list | None = None) -> list[list[Passage]]:
    pauses = [] if pauses is None else pauses
    return HttpRetriever(server.url, timeout, retries, pauses.append).search(["emma"], 3)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LONG = 10_000_000
FOREVER = {  # answers that must not be waited for, or read to their end
    "hangs": hang,
    "drips its body": repeat(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" ", 0.05),
    "drips its body, then closes": repeat(b"HTTP/1.0 200 OK\r\n\r\n", b" ", 0.05),
    "drips its header": repeat(b"HTTP/1.1 200 OK\r\n", b"X", 0.05),
}
REFUSED = {  # what another try would not change: message
    "HTML": (whole(HTML), "a web page"),
    "text": (whole(b"OK"), "no JSON"),
    "nothing": (whole(b""), "no JSON"),
    "no UTF-8": (whole(b'{"result": "\xff"}'), "no JSON"),
    "deep nesting": (whole(b"[" * 1_000_000), "no JSON"),
    "deep objects": (whole(b'{"a":' * 500_000), "no JSON"),
    "a huge number": (whole(b'{"result": ' + b"9" * 100_000 + b"}"), "no JSON"),
    "10 MB": (whole(b'{"result": [["' + b"x" * LONG + b'"]]}'), "longer than"),
    "endless": (repeat(CHUNKED, b"10000\r\n" + b"x" * 0x10000 + b"\r\n", 0.0), "longer than"),
    "status 400": (whole(b'{"error": "bad"}', "400 Bad Request"), "status 400"),
    "redirect": (raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"), "status 302"),
}
AGAIN = {  # what another try may change
    "status 500": whole(b"", "500 Internal Server Error"),
    "status 502 in HTML": whole(HTML, "502 Bad Gateway"),
    "status 429": whole(b"", "429 Too Many Requests"),
    "no HTTP": raw(b"\x00\x01\x02 hello\r\n\r\n"),
    "gone": raw(b""),
    "broken off": whole(GOOD[:20], length=len(GOOD)),
    "broken off in chunks": raw(CHUNKED + b"50\r\n" + GOOD[:20]),
    "too many headers": raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"),
    "a header too long": raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
}


def test_a_good_answer(serve):
    assert ask(serve(whole(GOOD))) == [[Passage("1", "Emma", "A novel.", 2.5)]]


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_that_is_wrong_is_an_error_at_once(serve, name):
    answer, message = REFUSED[name]
    server, pauses = serve(answer), []
    with pytest.raises(RetrieverError, match=message) as error:
        ask(server, retries=3, pauses=pauses)
    assert pauses == []
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", AGAIN)
def test_what_may_pass_is_tried_again(serve, name):
    pauses = []
    assert ask(serve(AGAIN[name], AGAIN[name], whole(GOOD)), retries=3, pauses=pauses)[0][0].id == "1"
    assert pauses == [1.0, 2.0]
    server = serve(AGAIN[name])
    with pytest.raises(RetrieverError, match="not available") as error:
        ask(server, retries=1)
    assert server.asked == 2
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", FOREVER)
def test_nobody_is_waited_for_beyond_the_time_limit(serve, name):
    with pytest.raises(RetrieverError, match="no answer within 0.3 s"):
        ask(serve(FOREVER[name]), timeout=0.3)


@pytest.mark.parametrize(
    "answer",
    [
        [], {}, None, 3, {"result": None}, {"result": {}}, {"result": []}, {"result": [[], []]}, {"result": [{}]},
        {"result": [[3]]}, {"result": [[None]]}, {"result": [["text"]]}, {"result": [[{}]]}, {"result": [[{"document": 3}]]},
        {"result": [[{"document": {"contents": 3}}]]}, {"result": [[{"document": {"title": "a"}}]]},
        {"result": [[{"document": {"contents": "a"}, "score": "high"}]]},
        {"result": [[{"document": {"contents": "a"}, "score": float("nan")}]]},
        {"result": [[{"document": {"contents": "a"}, "score": 10**400}]]},
        {"result": [[{"document": {"contents": "a"}, "score": True}]]},
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error(answer):
    with pytest.raises(RetrieverError, match="the search server answered with"):
        parse(json.dumps(answer).encode(), 1, 3)


@given(JSON_VALUES | JSON_VALUES.map(lambda value: {"result": [[value]]}))
def test_any_answer_gives_passages_or_the_one_error(value):
    try:
        found = parse(json.dumps(value).encode(), 1, 3)
    except RetrieverError:
        return
    assert len(found) == 1
    assert all(isinstance(passage, Passage) for passage in found[0])


@given(st.binary())
def test_any_bytes_give_the_one_error(data):
    with pytest.raises(RetrieverError):
        parse(data, 1, 3)


def test_documents_of_other_servers():
    """Without scores, without ids, with more than was asked for, and with half a surrogate pair."""
    documents = [{"contents": '"A"\nb'}, {"id": 3, "title": "C", "text": "d\ud800"}, {"id": "5", "contents": "e"}]
    answer = json.dumps({"result": [documents]}).encode()
    assert parse(answer, 1, 3) == [[Passage("", "A", "b"), Passage("3", "C", "d?"), Passage("5", "", "e")]]
    assert len(parse(answer, 1, 2)[0]) == 2


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a:b", "http://" + "a" * 100])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ValueError):
        HttpRetriever(url, 1.0, 0)


@pytest.mark.parametrize(
    "url, path", [("http://a:1", "/retrieve"), ("http://a:1/", "/retrieve"), ("http://a/v1/search", "/v1/search")]
)
def test_the_path_of_a_url(url, path):
    assert client.parse_url(url).path == path


def test_the_default_pauses_outlast_a_server_that_is_gone_for_20_seconds():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    pauses, tools = [], base.get_config().tools
    with pytest.raises(RetrieverError, match="not available"):
        HttpRetriever(f"http://127.0.0.1:{port}", tools.timeout, tools.retries, pauses.append).search(["emma"], 3)
    assert sum(pauses) > 20
    assert pauses == sorted(pauses)


def start_server(folder, port: int) -> tuple[subprocess.Popen, str]:
    """(process, URL) of the command, once it listens."""
    command = [sys.executable, "-m", "espl_jax.tasks.search.server", f"--index={folder}", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split()[-1]


def test_a_server_that_is_killed_and_comes_back(index_folder, index):
    process, url = start_server(index_folder, 0)
    pauses, back = [], []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            back.append(start_server(index_folder, int(url.rpartition(":")[2]))[0])

    retriever = HttpRetriever(url, 10.0, 5, pause)
    try:
        assert retriever.search(["emma"], 3) == index.search(["emma"], 3)
        process.kill()
        process.wait()
        assert retriever.search(["jane austen"], 3) == index.search(["jane austen"], 3)
        assert pauses == [1.0, 2.0, 4.0]
    finally:
        for one in (process, *back):
            one.kill()
            one.wait()
            one.stdout.close()
