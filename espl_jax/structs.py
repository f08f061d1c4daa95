"""The values that cross from one room to another, and the legend of dimension letters.

Everything here lives on the host (plain Python and numpy, no JAX), so that `evolution/`, `tasks/` and `records/` can be
read, tested and changed without a device. Device values (weights, optimizer, batches) are in `policy/state.py`.

Dimension letters, used as suffixes of array names throughout (`rewards_PQG`, `tokens_BL`):

  P  prompts that compete in this step (the paper's M)      B  rows of a device batch
  Q  problems of this step (the paper's B)                  L  positions of a row (prompt and completion)
  G  samples of one (prompt, problem) group (the paper's N) T  completion tokens
  V  vocabulary      D  model width      F  feed-forward width
  H  query heads     K  key/value heads  E  width of one head
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

ROLES = ("system", "user", "assistant", "tool")
# How a completion ended: by itself, by the budget of tokens, or, where it is a conversation, of turns or of tool calls.
FINISHES = ("stop", "length", "turns", "calls")
COUNTER_WORDS = 5  # of a Request: purpose, step, and what the purpose needs to tell its samples apart


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `content` is data and can never become a control token."""

    role: str
    content: str

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"Message.role is {self.role!r}; use one of {ROLES}")


@dataclass(frozen=True)
class Chat:
    """A conversation that waits for the assistant's reply.

    id: names the call within its step ("mutation/critique/3f2a"); what is sampled depends on (seed, step, id) alone.
    reply_prefix: text that the reply is made to begin with; it is part of the reply's text.
    stop: the reply ends, this text included, where the model first writes it; "": only where the model itself stops.
    schema: JSON schema that the reply is held to while it is sampled (evolution/grammar.py); "": free text.
    """

    id: str
    messages: tuple[Message, ...]
    reply_prefix: str = ""
    stop: str = ""
    schema: str = ""


@dataclass(frozen=True)
class Reply:
    """What a model answered to the Chat with the same id. `text` includes the chat's reply_prefix."""

    id: str
    text: str
    finish: str
    prompt_tokens: int
    generated_tokens: int

    def __post_init__(self):
        if self.finish not in FINISHES:
            raise ValueError(f"Reply.finish is {self.finish!r}; use one of {FINISHES}")


class Matcher(Protocol):
    """Holds one reply to a grammar. It remembers what was drawn; a request has one of its own."""

    def allowed(self, left: int) -> np.ndarray:
        """Which tokens may come next: uint32 words, token i is bit i % 32 of word i // 32. left: tokens still to be drawn."""

    def advance(self, token: int) -> None:
        """Notes that this token was drawn."""


# Whoever writes: the reference policy, the current policy or a server. One reply a chat, in the order of the chats.
Editor = Callable[[Sequence[Chat]], list[Reply]]


@dataclass(frozen=True)
class Request:
    """One sequence to sample.

    id: what the caller knows it by. tokens: int32 [prompt length], never empty.
    counter: words that name this sample (purpose, step, prompt, problem, sample); with the run's seed and the token's
      position they are all that its randomness depends on.
    enough: asked now and then, with the tokens drawn so far, whether the caller needs more; ends the completion when not.
    earlier: so many of `tokens`, the last ones, belong to the same trajectory already: what was drawn for requests that this
      one goes on from, and what came between. later: tokens that requests which go on from this one may add to it in all.
    matcher: makes what holds the completion to a grammar; None: any token may come. A call with one asks the host every token.
    """

    id: Any
    tokens: np.ndarray
    counter: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    enough: Callable[[np.ndarray], bool] | None = None
    earlier: int = 0
    later: int = 0
    matcher: Callable[[], Matcher] | None = None

    def __post_init__(self):
        if len(self.tokens) == 0:
            raise ValueError(f"Request {self.id!r} has no tokens; a prompt needs at least one")
        if len(self.counter) != COUNTER_WORDS:
            raise ValueError(f"Request {self.id!r} has the counter {self.counter}; it needs {COUNTER_WORDS} words")
        if self.max_new_tokens < 1:
            raise ValueError(f"Request {self.id!r} has max_new_tokens {self.max_new_tokens}; use 1 or more")
        if not 0 <= self.temperature or not 0 < self.top_p <= 1:
            raise ValueError(
                f"Request {self.id!r} has temperature {self.temperature} and top_p {self.top_p}; "
                "use a temperature of 0 or more and a top_p in (0, 1]"
            )


@dataclass(frozen=True)
class Completion:
    """What was sampled for a Request.

    tokens: int32 [T], the stop token included when finish is "stop".
    Three log-probabilities of each token, float32 [T], natural logarithm:
      behavior: under the distribution it was drawn from (temperature and top-p applied);
      tempered: under the policy at the sampling temperature, not truncated;
      untempered: under the policy itself (temperature 1, not truncated).
    own: bool [T], which tokens the policy drew; None: all of them. Those that it did not draw (what a tool answered, and the
      template's words around it) have log-probability 0, are conditioned on and carry no loss.
    """

    id: Any
    tokens: np.ndarray
    behavior: np.ndarray
    tempered: np.ndarray
    untempered: np.ndarray
    finish: str
    own: np.ndarray | None = None

    def __post_init__(self):
        arrays = (self.tokens, self.behavior, self.tempered, self.untempered) + (() if self.own is None else (self.own,))
        lengths = {len(array) for array in arrays}
        if len(lengths) != 1:
            raise ValueError(f"Completion {self.id!r} has arrays of lengths {sorted(lengths)}; they must agree")
        if self.finish not in FINISHES:
            raise ValueError(f"Completion.finish is {self.finish!r}; use one of {FINISHES}")

    @property
    def drawn(self) -> np.ndarray:
        """`own`, written out: bool [T]."""
        return np.ones(len(self.tokens), bool) if self.own is None else self.own


def text_id(text: str) -> str:
    """A stable name of 12 hexadecimal digits for a text; white space is folded first."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Problem:
    """A question with what is needed to grade it. `id` is `text_id(question)`: one text, one problem.

    answer: the true answer as text (editors see it, the leak guard looks for it). data: what the task's grader needs.
    """

    id: str
    question: str
    answer: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grade:
    """A verifier's verdict. score in [0, 1]; extracted: the answer it read; note: "" or why there is no score."""

    score: float
    extracted: str = ""
    note: str = ""


@dataclass(frozen=True)
class Ended:
    """How an environment ends a conversation: the grade, and why ("stop": answered; "calls": no tool call is left)."""

    grade: Grade
    finish: str = "stop"


class Environment(Protocol):
    """A conversation with tools. It keeps no state: all that it needs to know is in the problem and the messages so far.

    messages: those of `reset`, then the assistant's replies (as the model wrote them) and what `step` answered,
    by turns; no system turn. Called from many threads at once.
    """

    def reset(self, problem: Problem) -> tuple[Message, ...]:
        """The turns before the first reply; the last is a user turn."""

    def step(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...] | Ended:
        """What comes after the reply that `messages` end with: turns of a tool or user, or the end. May take seconds; what goes
        wrong in a tool is an answer that the model reads, never an exception."""

    def cut(self, problem: Problem, messages: tuple[Message, ...], finish: str) -> Grade:
        """The grade of a conversation that a budget ended after the reply that `messages` end with."""

    def metrics(self, messages: tuple[Message, ...]) -> Mapping[str, float]:
        """Counts and shares of a conversation that is over, by short names ("calls"); a share of nothing is left out. Recorded
        as means over the conversations that have them (train/calls)."""


class Grader(Protocol):
    """Grades replies while the caller goes on; tasks/grading.py has one of worker processes and one of a plain function."""

    def submit(self, problem: Problem, text: str) -> Future[Grade]:
        """The grade of a reply, some time; it always comes, and holds an error only if the grader itself is broken."""

    def close(self) -> None:
        """Ends what the grader has started."""


@dataclass(frozen=True)
class Genome:
    """What a prompt says, and how it may be edited.

    kind "principles": a list of short principles, edited by id (G0..Gn, their positions). kind "document": one free
    text, edited by search and replace.
    """

    kind: str
    principles: tuple[str, ...] = ()
    document: str = ""

    def __post_init__(self):
        if self.kind not in ("principles", "document"):
            raise ValueError(f"Genome.kind is {self.kind!r}; use 'principles' or 'document'")
        if (self.kind == "principles" and self.document) or (self.kind == "document" and self.principles):
            raise ValueError(f"a genome of kind {self.kind!r} cannot hold the other kind's text")


@dataclass(frozen=True)
class Task:
    """Where problems and rewards come from.

    train, validation, test: disjoint by problem id. question(problem) is the text of the user turn. describe: one or
    two sentences that tell an editor what the task is and what a correct answer looks like. environment: None where one
    reply is all; else it asks and grades, and question and grader are not used. root: the document that a population of
    documents starts from unless evolution.root names another; "": empty. protected: parts of it that no edit may change.

    What few tasks have: further: more held-out sets by name, evaluated with test. rulebooks: by the name of a held-out set, a
    genome that says all there is to know, which the set is also evaluated under. measure: what a genome knows, as metrics.
    later: the task from a step on (1 or more), where it changes in the course of a run; see `at`.
    """

    name: str
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    question: Callable[[Problem], str]
    grader: Grader
    describe: str
    environment: Environment | None = None
    root: str = ""
    protected: tuple[str, ...] = ()
    further: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    rulebooks: Mapping[str, Genome] = field(default_factory=dict)
    measure: Callable[[Genome], Mapping[str, float]] | None = None
    later: Mapping[int, "Task"] = field(default_factory=dict)

    def __post_init__(self):
        if not self.train:
            raise ValueError(f"task {self.name!r} has no training problems")
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        seen: dict[str, str] = {}
        for name, problems in splits.items():
            for problem in problems:
                if seen.setdefault(problem.id, name) != name:
                    raise ValueError(
                        f"task {self.name!r}: problem {problem.id} is in both {seen[problem.id]} and {name}; "
                        "remove it from one of them"
                    )

    @property
    def ever_trained(self) -> tuple[Problem, ...]:
        """The training problems of this task and of those that take its place."""
        return (*self.train, *(problem for task in self.later.values() for problem in task.train))

    def at(self, step: int) -> "Task":
        """The task as it is in this step."""
        begun = [first for first in self.later if first <= step]
        return self.later[max(begun)] if begun else self

    def close(self) -> None:
        """Ends the grader."""
        self.grader.close()


@dataclass(frozen=True)
class Rollouts:
    """All trajectories of one step: P prompts x Q problems x G samples.

    prompt_ids: P ids of the population. context_tokens[p][q]: int32, what group (p, q) was conditioned on.
    completions, texts, grades: flat, length P*Q*G, in C order of (p, q, g); rewards_PQG: float32. conversations: in the same
    order, the turns as an Environment knows them, of which `texts` are readable copies; None where one reply is all.
    """

    prompt_ids: tuple[int, ...]
    problems: tuple[Problem, ...]
    context_tokens: tuple[tuple[np.ndarray, ...], ...]
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    grades: tuple[Grade, ...]
    rewards_PQG: np.ndarray
    conversations: tuple[tuple[Message, ...], ...] | None = None

    def __post_init__(self):
        P, Q, G = self.rewards_PQG.shape
        if (len(self.prompt_ids), len(self.problems)) != (P, Q):
            raise ValueError(
                f"Rollouts has {len(self.prompt_ids)} prompts and {len(self.problems)} problems, "
                f"but rewards of shape {self.rewards_PQG.shape}"
            )
        for name in ("completions", "texts", "grades", *(("conversations",) if self.conversations is not None else ())):
            if len(getattr(self, name)) != P * Q * G:
                raise ValueError(f"Rollouts.{name} has {len(getattr(self, name))} entries; expected {P * Q * G}")

    def index(self, p: int, q: int, g: int) -> int:
        """Where sample g of prompt p on problem q stands in the flat tuples."""
        _, Q, G = self.rewards_PQG.shape
        return (p * Q + q) * G + g

    @property
    def values_PQ(self) -> np.ndarray:
        """V[i, b] of SPEC section 2: mean reward of each group."""
        return self.rewards_PQG.mean(axis=2)

    @property
    def values_P(self) -> np.ndarray:
        """V[i]: mean reward of each prompt."""
        return self.rewards_PQG.mean(axis=(1, 2))


@dataclass(frozen=True)
class Rating:
    """A TrueSkill belief about a prompt's strength: mean and standard deviation, in TrueSkill's points."""

    mu: float
    sigma: float


@dataclass(frozen=True)
class Prompt:
    """One individual of the population. operator: root, mutation, crossover or human. born: step of its birth."""

    id: int
    genome: Genome
    rating: Rating
    parents: tuple[int, ...]
    operator: str
    born: int


@dataclass(frozen=True)
class Match:
    """One TrueSkill free-for-all: the prompts, their mean rewards and their ranks (0 is best, draws share a rank)."""

    step: int
    prompt_ids: tuple[int, ...]
    scores: tuple[float, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Trial:
    """How the prompts of one step did on each of its problems. values: [prompt][problem], mean rewards in [0, 1]."""

    step: int
    prompt_ids: tuple[int, ...]
    problem_ids: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Population:
    """All prompts ever born, oldest first, and their matches.

    trials: of the latest steps, oldest first: what distance in behaviour and choices by problem go by (evolution/trials.py).
    retired: ids that fell out first-in-first-out; they keep their place in the lineage and compete no more.
    pinned: living ids that a person wants to compete in every step (selection.py); they never fall out.
    """

    prompts: tuple[Prompt, ...]
    matches: tuple[Match, ...] = ()
    retired: frozenset[int] = frozenset()
    trials: tuple[Trial, ...] = ()
    pinned: frozenset[int] = frozenset()

    @property
    def alive(self) -> tuple[Prompt, ...]:
        """The prompts that may still be selected, oldest first."""
        return tuple(prompt for prompt in self.prompts if prompt.id not in self.retired)

    def __getitem__(self, prompt_id: int) -> Prompt:
        for prompt in self.prompts:
            if prompt.id == prompt_id:
                return prompt
        raise KeyError(f"no prompt has the id {prompt_id}")


@dataclass(frozen=True)
class Operation:
    """One proposed edit and what became of it.

    op: add, modify, merge, remove or replace. targets: principle ids as positions (modify, merge, remove).
    text: the new principle, or the replacement text. search: the text to find (replace). evidence: why, in the editor's
    words. fate: "" while it is only proposed, "applied", or the reason it was dropped.
    """

    op: str
    targets: tuple[int, ...] = ()
    text: str = ""
    search: str = ""
    evidence: str = ""
    fate: str = ""


@dataclass(frozen=True)
class Call:
    """One model call of an operator, kept whole: the chat, the reply and what was parsed from it.

    stage: summary, critique, consolidation or crossover. problem_id: "" when the call is not about one problem.
    error: "" or why the reply as a whole was not used (cut off, nothing parseable ...).
    """

    stage: str
    chat: Chat
    reply: Reply
    problem_id: str = ""
    operations: tuple[Operation, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Reflection:
    """One attempt at a child: its calls, and the child or the reason there is none (exactly one of the two)."""

    operator: str
    parents: tuple[int, ...]
    calls: tuple[Call, ...]
    child: Prompt | None = None
    reason: str = ""

    def __post_init__(self):
        if (self.child is None) == (self.reason == ""):
            raise ValueError("a Reflection has either a child or a reason why there is none")

    def with_child_id(self, prompt_id: int) -> "Reflection":
        """The same reflection whose child carries the id that the population gave it."""
        return self if self.child is None else replace(self, child=replace(self.child, id=prompt_id))


@dataclass(frozen=True)
class RunState:
    """Everything that a run is: saved as one, restored as one.

    step: iterations done. policy: policy.state.PolicyState (trained weights or adapter, optimizer).
    counters: running totals by name (tokens by purpose, children).
    The data position is a function of (seed, step), and so is all randomness: neither is stored apart.
    """

    step: int
    policy: Any
    population: Population
    counters: Mapping[str, float]
