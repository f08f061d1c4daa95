"""Serves an index over HTTP: `python -m espl_jax.tasks.search.server --index=DIR [--host=127.0.0.1] [--port=8000] [--topk=3]`.

The interface is that of Search-R1's retrieval server (Jin et al. 2025, github.com/PeterGriffinJin/Search-R1): POST /retrieve
with {"queries": [...], "topk": 3, "return_scores": true} gives {"result": [[{"document": {...}, "score": x}, ...], ...]}, a
list a query; without scores, the documents alone. A document has "id", "title", "text", and both of them as "contents".
GET /health says that it is there. What is wrong with a request is said in {"error": ...} with status 400 or the one that fits.
It has no password and is meant for a machine or network of one's own. --index=embedded serves the small corpus that is shipped.
"""

import json
import os
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from absl import app, flags

from espl_jax.tasks.search.contents import join_contents
from espl_jax.tasks.search.index import Index, NoIndexError
from espl_jax.tasks.search.passages import Passage, Retriever
from espl_jax.tasks.search.retriever import open_index

MAX_BODY = 1 << 24  # bytes of a request
MAX_QUERIES, MAX_TOPK = 8192, 100  # of a request
IDLE_SECONDS = 60.0  # without a byte after which a connection is closed


class RequestError(ValueError):
    """A request that cannot be answered. status: HTTP's; the message goes back."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Query:
    """A checked request."""

    queries: list[str]
    topk: int
    return_scores: bool


def parse(body: bytes, default_topk: int) -> Query:
    """The request that a body says. Raises RequestError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise RequestError(400, 'the body must be an object such as {"queries": ["who wrote Emma"], "topk": 3}')
    queries, topk, return_scores = value.get("queries"), value.get("topk"), value.get("return_scores", False)
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise RequestError(400, "queries must be a list of texts")
    if len(queries) > MAX_QUERIES:
        raise RequestError(400, f"there are {len(queries)} queries; send at most {MAX_QUERIES} at a time")
    topk = default_topk if topk is None else topk
    if not isinstance(topk, int) or isinstance(topk, bool) or not 1 <= topk <= MAX_TOPK:
        raise RequestError(400, f"topk must be a whole number from 1 to {MAX_TOPK}")
    if not isinstance(return_scores, bool):
        raise RequestError(400, "return_scores must be true or false")
    return Query(queries, topk, return_scores)


def as_result(passage: Passage, return_scores: bool) -> dict[str, Any]:
    """A passage as the interface has it."""
    document = {"id": passage.id, "contents": join_contents(passage), "title": passage.title, "text": passage.text}
    return {"document": document, "score": passage.score} if return_scores else document


class Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    server: "Server"
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200, {"status": "ok", "passages": self.server.passages})
        else:
            self.reply(404, {"error": f"there is no {self.path[:100]}; use GET /health or POST /retrieve"})

    def do_POST(self) -> None:
        try:
            body = self.body()
            if self.path != "/retrieve":
                raise RequestError(404, f"there is no {self.path[:100]}; use POST /retrieve")
            query = parse(body, self.server.topk)
            with self.server.slots:
                found = self.server.retriever.search(query.queries, query.topk)
            self.reply(200, {"result": [[as_result(one, query.return_scores) for one in passages] for passages in found]})
        except RequestError as error:
            self.reply(error.status, {"error": str(error)})

    def body(self) -> bytes:
        """The request's body; the connection is closed behind one that was not read."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self.close_connection = True
            raise RequestError(411, "Content-Length is missing; send the body in one piece")
        if int(length) > MAX_BODY:
            self.close_connection = True
            raise RequestError(413, f"the body has {length[:20]} bytes; send at most {MAX_BODY}")
        return self.rfile.read(int(length))

    def reply(self, status: int, value: Any) -> None:
        """Sends an object."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


class Server(ThreadingHTTPServer):
    """Answers from a retriever. server_address: (host, port), the port found when 0 was asked for."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, retriever: Retriever, passages: int, host: str, port: int, topk: int):
        """passages: how many /health names. topk: for requests that do not say. Raises OSError for a port that is taken."""
        self.retriever, self.passages, self.topk = retriever, passages, topk
        self.slots = threading.BoundedSemaphore(os.cpu_count() or 1)  # searches at a time: each holds N numbers
        super().__init__((host, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is told, and the next request served."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def main(_) -> None:
    flag = flags.FLAGS
    os.environ["JAX_PLATFORMS"] = "cpu"  # bm25s imports JAX, which would take the accelerator from who needs it
    try:
        index: Index = open_index("--index", flag.index)
        server = Server(index, len(index), flag.host, flag.port, flag.topk)
    except NoIndexError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"--host is {flag.host!r} and --port is {flag.port}, where no server can be ({error}); use another port")
    host, port = server.server_address[:2]
    print(f"{len(index):,} passages at http://{host}:{port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    flags.DEFINE_string("index", None, "A folder that espl_jax.tasks.search.build made, or embedded.", required=True)
    flags.DEFINE_string("host", "127.0.0.1", "The address listened at; 0.0.0.0 for other machines too.")
    flags.DEFINE_integer("port", 8000, "0: any that is free.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_integer("topk", 3, "Passages a query, for requests that do not say.", lower_bound=1, upper_bound=MAX_TOPK)
    app.run(main)
