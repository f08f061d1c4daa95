"""An OpenAI-compatible server on 127.0.0.1 for tests: it counts what it answers, and never gives the same answer twice."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer:
    """Serves while it is a context. before(n): called ahead of the n-th request; a number from it is answered as a status.

    answered: how often each chat was answered. requests: headers and bodies, in order. text(body, times): what it answers.
    """

    def __init__(self, before: Callable[[int], int | None] = lambda n: None, text=None):
        self.before, self.text = before, text or edit
        self.answered: Counter[str] = Counter()
        self.requests: list[tuple[dict[str, str], dict]] = []
        self.lock = threading.Lock()
        self.raw: bytes | None = None

    def __enter__(self) -> "FakeServer":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def handler(fake) -> type:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.lock:
                    fake.requests.append((dict(self.headers), body))
                    number = len(fake.requests)
                status = fake.before(number)
                if status is not None:
                    return self.reply(status, b'{"error": "no, and your key is ' + fake.key(self.headers) + b'"}')
                self.reply(200, fake.answer(body))

            def reply(self, status: int, content: bytes) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    if status == 302:
                        self.send_header("Location", "/elsewhere")
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # whoever asked is gone

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler

    @staticmethod
    def key(headers) -> bytes:
        return (headers["Authorization"] or "none").removeprefix("Bearer ").encode()

    def answer(self, body: dict) -> bytes:
        asked = json.dumps(body["messages"])
        with self.lock:
            self.answered[asked] += 1
            times = self.answered[asked]
        if self.raw is not None:
            return self.raw
        message = {"role": "assistant", "content": self.text(body, times)}
        usage = {"prompt_tokens": 11, "completion_tokens": 7}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"model": "fake-1", "choices": [choice], "usage": usage}).encode()


def edit(body: dict, times: int) -> str:
    """An edit of its own for each chat, and another one each time that it is asked."""
    digest = hashlib.sha256(f"{body['messages']} {times}".encode()).hexdigest()
    words = " ".join("abcdefghijklmnop"[int(letter, 16)] * 4 for letter in digest[:6])
    return json.dumps([{"op": "add", "principle": f"Think of {words}."}])
