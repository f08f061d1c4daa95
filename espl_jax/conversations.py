"""Conversations with tools: many at once, through one call of the sampler.

A reply that has ended goes to the task's environment, in a thread, and leaves its slot; others go on decoding. The answer comes
back as a new request whose prompt is the whole conversation so far, token by token as it was drawn, with the template's words
around the answer behind it: nothing that the policy wrote is ever tokenised again, and no conversation's tokens depend on when
an answer came, since randomness counts along the trajectory. Rounding does depend on who shares a call, so by default an answer
joins a fixed number of decode calls after its question (config.tools.ahead), which makes a resumed run equal to the last bit.

Of several processes the first calls the tools and tells the others, at each look, what has come: all make the same calls.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from espl_jax.hosts import members
from espl_jax.policy.chat import Tokenizer, whole
from espl_jax.policy.sampler import Sampler
from espl_jax.policy.schedule import FIELDS
from espl_jax.structs import Completion, Ended, Environment, Grade, Message, Problem, Request

CHARACTERS = 32  # of a token, at the most that is looked at: a tool may answer with megabytes
CUT = "\n(The rest is cut off.)"

Answer = tuple[Message, ...] | Ended


@dataclasses.dataclass(frozen=True)
class Played:
    """A conversation that is over.

    completion: all behind its first context. messages: its turns, as an Environment has them. text: those behind the opening,
    for people and editors to read.
    """

    completion: Completion
    messages: tuple[Message, ...]
    text: str
    grade: Grade


@dataclasses.dataclass
class Conversation:
    """One conversation as far as it has come.

    first: the request of its first reply, max_new_tokens and later of which are the whole trajectory's budget. pieces: what the
    policy drew and what came between, by turns; the latter are those with log-probabilities of 0 that are not its own.
    """

    first: Request
    problem: Problem
    messages: tuple[Message, ...]
    pieces: list[Completion] = dataclasses.field(default_factory=list)
    finish: str = ""

    @property
    def turns(self) -> int:
        return sum(piece.own is None for piece in self.pieces)

    @property
    def tokens(self) -> np.ndarray:
        """All so far, the first context included."""
        return np.concatenate([self.first.tokens, *(piece.tokens for piece in self.pieces)])

    def completion(self) -> Completion:
        """The trajectory."""
        columns = {name: np.concatenate([getattr(piece, name) for piece in self.pieces]) for name in FIELDS}
        own = np.concatenate([piece.drawn for piece in self.pieces])
        return Completion(self.first.id, **columns, finish=self.finish, own=own)


def play(
    sampler: Sampler, variables: Any, tokenizer: Tokenizer, requests: Sequence[Request], problems: Sequence[Problem],
    environment: Environment, tools: Any,
) -> list[Played]:
    """Conversations, one a request, from the reply that it asks for to the end, in the order of the requests.

    requests: first_request made them. problems: what each is about. tools: config.tools. What the environment raises is raised.
    """
    begun = [
        Conversation(request, problem, tuple(environment.reset(problem))) for request, problem in zip(requests, problems)
    ]
    with threads(tools.workers) as pool:
        table = Table(begun, tokenizer, environment, tools, sampler.max_length, pool)
        sampler(variables, requests, table.replied, table.more)
        grades = table.grades()
    texts = [as_text(one.messages[len(environment.reset(one.problem)) :]) for one in begun]
    return [Played(one.completion(), one.messages, texts[n], grades[n]) for n, one in enumerate(begun)]


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Some threads; an error in the block waits for none of them."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="tools")
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def first_request(request: Request, tools: Any) -> Request:
    """The request of a first reply, from one with the budget of the whole trajectory."""
    budget = request.max_new_tokens
    size = min(tools.max_turn_tokens or budget, budget)
    return dataclasses.replace(request, max_new_tokens=size, later=budget - size)


class Table:
    """Where conversations wait for their tools. `replied` and `more` are the sampler's on_done and more."""

    def __init__(
        self, begun: Sequence[Conversation], tokenizer: Tokenizer, environment: Environment, tools: Any, max_length: int,
        pool: ThreadPoolExecutor,
    ):
        self.begun, self.tokenizer, self.environment, self.tools = begun, tokenizer, environment, tools
        self.max_length, self.pool = max_length, pool
        self.number_of = list(range(len(begun)))  # the conversation of each of the sampler's requests
        self.looks = 0
        self.due: dict[int, int] = {}  # who waits for an answer -> the look at which it is needed
        self.ended: dict[int, Grade] = {}
        self.answers: dict[int, Future[Answer]] = {}  # these two in the first process alone
        self.verdicts: dict[int, Future[Grade]] = {}

    # -- what the sampler calls ------------------------------------------------------------------------------------------

    def replied(self, index: int, completion: Completion) -> None:
        """Takes a reply down and gives it to the environment."""
        number = self.number_of[index]
        one = self.begun[number]
        text = self.tokenizer.decode(completion.tokens)
        one.pieces.append(completion)
        one.messages += (Message("assistant", text),)
        if completion.finish == "length":
            self.cut(number, "length")
            return
        self.due[number] = self.looks + self.tools.ahead
        if members.first():
            self.answers[number] = self.pool.submit(self.ask, one.problem, one.messages)

    def more(self, idle: bool) -> list[tuple[int, Request]]:
        """The next requests of conversations that have got their answers. idle: waits until there is one, if one can come."""
        self.looks += 1
        requests: list[tuple[int, Request]] = []
        while self.due and not requests:
            for number, answer in members.broadcast(self.arrived(idle) if members.first() else None).items():
                del self.due[number]
                if (request := self.go_on(number, answer)) is not None:
                    self.number_of.append(number)
                    requests.append((number, request))
            if not idle:
                break
        return requests

    def grades(self) -> dict[int, Grade]:
        """Every conversation's, once all are there; the same in every process."""
        cut = {number: future.result() for number, future in self.verdicts.items()}
        return self.ended | members.broadcast(cut)

    # -- answers ---------------------------------------------------------------------------------------------------------

    def ask(self, problem: Problem, messages: tuple[Message, ...]) -> Answer:
        """What the environment says to a reply, no part of it too long. In a thread."""
        answer = self.environment.step(problem, messages)
        if isinstance(answer, Ended):
            return answer
        limit = self.tools.max_result_tokens
        return tuple(Message(turn.role, shortened(self.tokenizer, turn.content, limit)) for turn in answer)

    def arrived(self, idle: bool) -> dict[int, Answer]:
        """The answers that join now, by conversation. In the first process."""
        if self.tools.ahead:
            now = max(self.looks, min(self.due.values())) if idle else self.looks
            numbers = [number for number, look in sorted(self.due.items()) if look <= now]
        else:
            if idle:
                wait(self.answers.values(), return_when=FIRST_COMPLETED)
            numbers = [number for number, future in sorted(self.answers.items()) if future.done()]
        return {number: self.answers.pop(number).result() for number in numbers}

    def go_on(self, number: int, answer: Answer) -> Request | None:
        """The request of the next reply; None when the conversation is over."""
        one = self.begun[number]
        if isinstance(answer, Ended):
            one.finish, self.ended[number] = answer.finish, answer.grade
            return None
        if one.turns >= self.tools.max_turns:  # only now: the last reply may have ended it
            return self.cut(number, "turns")
        between = self.tokenizer.between(answer)
        tokens, first = np.concatenate([one.tokens, between]), one.first
        earlier = len(tokens) - len(first.tokens)
        left = min(first.max_new_tokens + first.later - earlier, self.max_length - len(tokens))
        if left < 1:
            return self.cut(number, "length")
        one.messages += answer
        one.pieces.append(not_drawn(between))
        size = min(self.tools.max_turn_tokens or left, left)
        return dataclasses.replace(first, tokens=tokens, max_new_tokens=size, earlier=earlier, later=left - size)

    def cut(self, number: int, finish: str) -> None:
        """Ends a conversation that has used up a budget."""
        one = self.begun[number]
        one.finish = finish
        if members.first():
            self.verdicts[number] = self.pool.submit(self.environment.cut, one.problem, one.messages, finish)


def not_drawn(tokens: np.ndarray) -> Completion:
    """Tokens that the policy did not draw, as a piece of a trajectory."""
    nothing = np.zeros(len(tokens), np.float32)
    return Completion(None, tokens, nothing, nothing, nothing, "stop", np.zeros(len(tokens), bool))


def shortened(tokenizer: Tokenizer, text: str, limit: int) -> str:
    """The text, cut behind `limit` tokens with words that say so."""
    looked_at = whole(text[: limit * CHARACTERS])
    tokens = tokenizer.encode(looked_at)
    if len(tokens) <= limit and len(text) <= limit * CHARACTERS:
        return looked_at
    return tokenizer.decode(tokens[:limit]).rstrip("\ufffd") + CUT  # a cut may go through a character


def as_text(messages: Sequence[Message]) -> str:
    """Turns as a text that people and editors can read, each under its role in brackets."""
    return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)
