"""An editor behind HTTP: any server with OpenAI's /chat/completions (vLLM, llama.cpp, SGLang, Ollama, the hosted ones).

Every reply is written down before it is used (replies.py), so that a resumed run asks nothing that was answered. The key
comes from an environment variable whose name is config; it goes into one header, and into nothing that is written or raised.

A server begins and ends replies by itself. A chat's `reply_prefix` is asked for in words; text before it is dropped, and where
it is missing it is put in front. What follows the chat's `stop` is dropped here: the server has written it, and it is counted.
`schema` is not sent: config.py refuses it with a server.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from absl import logging

from espl_jax.editors.replies import Replies, Written
from espl_jax.structs import Chat, Editor, Reply

FIRST_PAUSE = 1.0  # seconds before the second try; each pause is twice the one before
LONGEST_PAUSE = 60.0
MAX_BYTES = 10_000_000  # of an answer
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses after which another try may do
ASKED_PREFIX = "\n\nBegin your reply with exactly these words: "


class ServerError(OSError):
    """The server gave no usable answer; the message says in one sentence what it did and what to do."""


class Passing(Exception):
    """A try that failed, of which another may succeed. pause: seconds that the server asks to wait, or 0."""

    def __init__(self, why: str, pause: float = 0.0):
        super().__init__(why)
        self.pause = pause


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirection an error: the key is for the configured server alone."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


@dataclass(frozen=True)
class Server:
    """How to reach it. parameters: what every request has besides its messages."""

    url: str
    model: str
    key_name: str
    parameters: dict[str, Any]
    timeout: float
    retries: int

    def ask(self, messages: Sequence[dict[str, str]]) -> Written:
        """One answer, after as many tries as it takes. Raises ServerError when there is none."""
        pause, started = FIRST_PAUSE, time.monotonic()
        for tries in range(1, self.retries + 2):
            try:
                return self.read(self.post(messages), tries, time.monotonic() - started)
            except Passing as error:
                why = self.clean(str(error))
                if tries > self.retries:
                    break
                logging.warning("the editor's server %s: %s; another try follows", self.url, why)
                time.sleep(max(pause, min(error.pause, LONGEST_PAUSE)))
                pause = min(2 * pause, LONGEST_PAUSE)
        raise ServerError(
            f"the editor's server {self.url} gave no answer in {self.retries + 1} tries (last: {why}); the replies so far are "
            "kept: see to the server, or set evolution.server_url, and start the same command again"
        )

    def post(self, messages: Sequence[dict[str, str]]) -> dict[str, Any]:
        """What the server answered, as JSON."""
        fields = {"model": self.model, "messages": list(messages)} | self.parameters
        body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        headers = {"Content-Type": "application/json"}
        if key := self.key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers, method="POST")
        opener = urllib.request.build_opener(NoRedirects)
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return self.parse(self.within(response))
        except urllib.error.HTTPError as error:
            raise self.refusal(error) from None
        except (OSError, HTTPException) as error:  # refused, reset, timed out, cut off, no such host
            raise Passing(f"{type(error).__name__}: {error}") from None

    def within(self, response: Any) -> bytes:
        """The whole answer, if it comes in time and is not too long."""
        deadline, pieces, size = time.monotonic() + self.timeout, [], 0
        while piece := response.read1(65536):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BYTES:
                raise Passing(f"its answer is longer than {MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise Passing(f"its answer was not whole after {self.timeout} seconds")
        return b"".join(pieces)

    def parse(self, raw: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            raise Passing(f"its answer is no JSON: {raw[:80]!r}") from None
        if not isinstance(answer, dict):
            raise Passing(f"its answer is no JSON object: {raw[:80]!r}")
        return answer

    def refusal(self, error: urllib.error.HTTPError) -> Exception:
        """What to make of a status that is not 200."""
        with error:
            said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
        if error.code in PASSING:
            after = error.headers.get("Retry-After") or ""
            return Passing(f"status {error.code}: {said}", float(after) if after.isdigit() else 0.0)
        remedy = {
            401: "check the key in the environment variable that evolution.server_key names",
            403: "check the key in the environment variable that evolution.server_key names",
            404: "check evolution.server_url (it ends with /v1 for most servers) and evolution.server_model",
        }.get(error.code, "check evolution.server_url, server_model and server_parameters")
        return ServerError(self.clean(f"the editor's server {self.url} refused with status {error.code}: {said}; {remedy}"))

    def read(self, answer: dict[str, Any], tries: int, seconds: float) -> Written:
        """The reply in an answer. Raises Passing when it is none."""
        try:
            [choice, *_] = answer["choices"]
            text, ended = choice["message"]["content"] or "", choice["finish_reason"]
        except (KeyError, TypeError, ValueError):
            raise Passing(f"its answer has no choices[0].message: {json.dumps(answer)[:200]}") from None
        if not isinstance(text, str):
            raise Passing(f"its answer's content is no text: {text!r:.80}")
        usage = answer.get("usage") if isinstance(answer.get("usage"), dict) else {}
        prompt, generated = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
        return Written(self.clean(text), str(ended), prompt, generated, str(answer.get("model", "")), tries, seconds)

    @property
    def key(self) -> str:
        """The secret; "" where there is none."""
        return os.environ.get(self.key_name, "") if self.key_name else ""

    def clean(self, text: str) -> str:
        """The text without the key, which a server may repeat."""
        return text.replace(self.key, "[key]") if self.key else text


def _count(value: Any) -> int:
    """A number of tokens; 0 where the server does not say."""
    return value if isinstance(value, int) and value >= 0 else 0


def make_editor(evolution: Any, seed: int, step: int, workdir: Path) -> Editor:
    """The editor of one step. Replies are recorded in, and first looked for in, workdir/replies.

    evolution: config.evolution. Raises ServerError, when asked, if any reply could not be had; the others are recorded then.
    """
    sampling = {"temperature": evolution.temperature, "top_p": evolution.top_p, "max_tokens": evolution.max_new_tokens}
    parameters = sampling | json.loads(evolution.server_parameters)
    server = Server(
        url=evolution.server_url.rstrip("/"), model=evolution.server_model, key_name=evolution.server_key,
        parameters=parameters, timeout=evolution.server_timeout, retries=evolution.server_retries,
    )  # fmt: skip
    replies = Replies(workdir, step)

    def answer(chat: Chat) -> Reply:
        messages = asked(chat)
        place = {"seed": seed, "step": step, "chat": chat.id, "model": server.model}
        identity = place | {"messages": messages, "parameters": parameters}
        written = replies.find(identity)
        if written is None:
            written = server.ask(messages)
            replies.record(identity, written)
        return reply_to(chat, written)

    def edit(chats: Sequence[Chat]) -> list[Reply]:
        failed = threading.Event()

        def one(chat: Chat) -> Reply | None:
            if failed.is_set():
                return None  # nothing more is asked; what is under way is waited for, and recorded
            try:
                return answer(chat)
            except Exception:
                failed.set()
                raise

        with ThreadPoolExecutor(evolution.server_concurrency, "editor") as pool:
            futures = [pool.submit(one, chat) for chat in chats]
        return [future.result() for future in futures]  # the first that failed comes before all that were left out

    return edit


def asked(chat: Chat) -> list[dict[str, str]]:
    """The chat's turns as the interface has them; the prefix is asked for at the end of the last."""
    turns = [{"role": message.role, "content": message.content} for message in chat.messages]
    if chat.reply_prefix:
        turns[-1]["content"] += ASKED_PREFIX + chat.reply_prefix
    return turns


def reply_to(chat: Chat, written: Written) -> Reply:
    """What was written as a Reply: from the chat's prefix on, up to its stop. All reasons to end but "stop" are "length"."""
    _, found, after = written.text.partition(chat.reply_prefix) if chat.reply_prefix else ("", "", written.text)
    text, stop = after if found or not chat.reply_prefix else written.text, ""
    if chat.stop:
        while text.startswith(chat.stop):  # a line of its own for the prefix
            text = text.removeprefix(chat.stop)
        text, stop, _ = text.partition(chat.stop)
        text += stop
    finish = "stop" if stop or written.ended == "stop" else "length"
    return Reply(chat.id, chat.reply_prefix + text, finish, written.prompt_tokens, written.generated_tokens)
