"""Asks a server with Search-R1's interface (server.py says what it is), and trusts nothing that comes back."""

import contextlib
import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from absl import logging

from espl_jax.tasks.search.contents import clean, split_contents
from espl_jax.tasks.search.passages import Passage, RetrieverError

BATCH = 64  # queries of a request
MAX_ANSWER = 1 << 23  # bytes of an answer; what is longer is not read
READ = 1 << 16  # bytes at a time
MAX_PAUSE = 30.0  # seconds
AGAIN = (408, 425, 429)  # with those from 500: statuses that another try may change


class Unavailable(Exception):
    """A try that failed and that another one may follow."""


class HttpRetriever:
    """A Retriever over HTTP. Each call has its own connections, so threads share nothing."""

    def __init__(self, url: str, timeout: float, retries: int, sleep: Callable[[float], None] = time.sleep):
        """url: http(s)://host:port, or all of it with /retrieve; ValueError if it is none. timeout: seconds of a whole try.

        retries: tries after the first that failed, behind pauses of 1, 2, 4, ... 30, 30 seconds.
        """
        self._address = parse_url(url)
        self._url, self._timeout, self._retries, self._sleep = url, timeout, retries, sleep

    def search(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """As Retriever; at most BATCH queries a request. Raises RetrieverError alone."""
        found = []
        for begin in range(0, len(queries), BATCH):
            batch = list(queries[begin : begin + BATCH])
            body = json.dumps({"queries": batch, "topk": topk, "return_scores": True}).encode()
            found += parse(self._ask(body), len(batch), topk)
        return found

    def close(self) -> None:
        """Nothing is kept between calls."""

    def _ask(self, body: bytes) -> bytes:
        failed = ""
        for number in range(self._retries + 1):
            if number:
                pause = min(2.0 ** (number - 1), MAX_PAUSE)
                logging.warning("%s: %s; another try in %g s", self._url, failed, pause)
                self._sleep(pause)
            try:
                return post(self._address, body, self._timeout)
            except Unavailable as error:
                failed = str(error)
        raise RetrieverError(f"the search server is not available ({failed})")


def parse_url(url: str) -> SplitResult:
    """The parts of a URL, /retrieve added when it has no path. Raises ValueError for what is no URL of a server."""
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"{url!r} is no http://host:port")
    address.port  # noqa: B018  raises ValueError for a port that is none, as the next line does for a name that is none
    address.hostname.encode("idna")
    return address if address.path.strip("/") else address._replace(path="/retrieve")


# -- one try -----------------------------------------------------------------------------------------------------------


def post(address: SplitResult, body: bytes, timeout: float) -> bytes:
    """The answer's bytes. Raises Unavailable when another try may help, RetrieverError when not."""
    make = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = make(address.hostname, address.port, timeout=timeout)
    expired, begun = threading.Event(), time.monotonic()
    path = f"{address.path}?{address.query}" if address.query else address.path
    try:
        connection.connect()
        with hung_up(connection.sock, max(0.0, begun + timeout - time.monotonic()), expired):
            connection.request("POST", path, body, {"Content-Type": "application/json", "Connection": "close"})
            return read(connection.getresponse(), expired)
    except (OSError, http.client.HTTPException) as error:
        late = expired.is_set() or isinstance(error, TimeoutError)
        raise Unavailable(f"no answer within {timeout:g} s" if late else brief(error)) from None
    finally:
        connection.close()


@contextlib.contextmanager
def hung_up(held: socket.socket, seconds: float, expired: threading.Event) -> Iterator[None]:
    """Ends what the body waits for on a socket after some seconds: a server that drips never meets its own time-out."""

    def hang_up():
        expired.set()
        with contextlib.suppress(OSError):
            held.shutdown(socket.SHUT_RDWR)

    clock = threading.Timer(seconds, hang_up)
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def read(response: http.client.HTTPResponse, expired: threading.Event) -> bytes:
    """The body of a good answer. Raises TimeoutError when it is cut because time has `expired`, else as `post`."""
    parts, size = [], 0
    if expired.is_set():
        raise TimeoutError
    if response.status >= 500 or response.status in AGAIN:
        raise Unavailable(f"status {response.status}")
    if response.status != 200:
        raise RetrieverError(f"the search server refused the request (status {response.status})")
    while part := response.read1(READ):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise RetrieverError(f"the search server's answer is longer than {MAX_ANSWER} bytes")
    if expired.is_set():
        raise TimeoutError
    if response.length:
        raise Unavailable("the answer broke off")
    return b"".join(parts)


def brief(error: Exception) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {error}"[:200]


# -- what came back ----------------------------------------------------------------------------------------------------


def parse(answer: bytes, queries: int, topk: int) -> list[list[Passage]]:
    """At most topk passages for each of the queries. Raises RetrieverError for an answer that says anything else."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        kind = "a web page" if answer.lstrip()[:1] == b"<" else "something that is no JSON"
        raise RetrieverError(f"the search server answered with {kind}") from None
    result = value.get("result") if isinstance(value, dict) else None
    if not isinstance(result, list) or len(result) != queries or not all(isinstance(entries, list) for entries in result):
        raise RetrieverError("the search server answered without a list of passages for each query")
    return [[to_passage(entry) for entry in entries[:topk]] for entries in result]


def to_passage(entry: Any) -> Passage:
    """A passage from {"document": {...}, "score": x}, or from the document alone."""
    if not isinstance(entry, dict):
        raise RetrieverError("the search server answered with a passage that is no object")
    document, score = (entry["document"], entry.get("score", 0.0)) if "document" in entry else (entry, 0.0)
    if not isinstance(document, dict):
        raise RetrieverError("the search server answered with a document that is no object")
    title, text, contents = (document.get(name) for name in ("title", "text", "contents"))
    if not (isinstance(title, str) and isinstance(text, str)):
        if not isinstance(contents, str):
            raise RetrieverError("the search server answered with a document without contents")
        title, text = split_contents(contents)
    id = document.get("id", "")
    return Passage(clean(str(id)) if isinstance(id, str | int) else "", clean(title), clean(text), to_score(score))


def to_score(score: Any) -> float:
    """A finite number. Raises RetrieverError for anything else."""
    with contextlib.suppress(OverflowError):
        if isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score):
            return float(score)
    raise RetrieverError("the search server answered with a score that is no number")
