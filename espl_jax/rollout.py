"""Where the two halves meet: prompts and problems become token sequences, and the policy's tokens become rewards and edits."""

import hashlib
import itertools
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from espl_jax import conversations
from espl_jax.conversations import Played
from espl_jax.evolution.render import bulleted, layout_messages, parse_genome
from espl_jax.hosts import members
from espl_jax.policy.chat import Tokenizer
from espl_jax.policy.constraints import matcher_maker
from espl_jax.policy.state import Policy
from espl_jax.structs import (
    Chat,
    Completion,
    Editor,
    Environment,
    Genome,
    Grade,
    Grader,
    Message,
    Problem,
    Prompt,
    Reply,
    Request,
    Rollouts,
    Task,
)
from espl_jax.tasks.grading import Once

# The first counter word of every sample: streams of different purpose never share randomness.
PURPOSES = {"rollout": 1, "validation": 2, "test": 3, "edit": 4, "acceptance": 5, "chat": 6, "attribution": 7}
RULEBOOK = "rulebook"  # of evolution.root: the task's own


def root_genome(evolution: Any, task: Task) -> Genome:
    """What the population starts from: the file evolution.root names, else the task's own document, or no principles.

    evolution.root="rulebook" is all that the task itself could say. Raises ValueError for a task that has no rulebook.
    """
    if evolution.root == RULEBOOK:
        if "validation" not in task.rulebooks:
            raise ValueError(f"evolution.root is {RULEBOOK!r}, but the task {task.name} has none; give a text file or ''")
        rulebook = task.rulebooks["validation"]
        return rulebook if evolution.genome == "principles" else Genome("document", document=bulleted(rulebook))
    own = task.root if evolution.genome == "document" else ""
    text = Path(evolution.root).read_text(encoding="utf-8") if evolution.root else own
    return parse_genome(evolution.genome, text)


def context_tokens(tokenizer: Tokenizer, genome: Genome, problem: Problem, task: Task, layout: str) -> np.ndarray:
    """int32 tokens of the problem asked under a prompt, up to where the reply begins; alike in training and test."""
    return tokenizer.render(Chat(id=problem.id, messages=opening(genome, problem, task, layout)))


def opening(genome: Genome, problem: Problem, task: Task, layout: str) -> tuple[Message, ...]:
    """The turns before the first reply, with the prompt where the layout puts it: before all, or in the last user turn."""
    if task.environment is None:
        return layout_messages(task.question(problem), genome, layout)
    *before, last = task.environment.reset(problem)
    *system, asked = layout_messages(last.content, genome, layout)
    return (*system, *before, asked)


def longest_context(tokenizer: Tokenizer, prompt: Prompt, task: Task, layout: str) -> int:
    """Tokens of the longest problem of any split, now or later, under a prompt, and of a set's under its rulebook."""
    sets = {"train": task.train, "validation": task.validation, "test": task.test, **task.further}
    asked = [(prompt.genome, problem) for problems in sets.values() for problem in problems]
    asked += [(genome, problem) for name, genome in task.rulebooks.items() for problem in sets[name]]
    here = max(len(context_tokens(tokenizer, genome, problem, task, layout)) for genome, problem in asked)
    return max([here, *(longest_context(tokenizer, prompt, later, layout) for later in task.later.values())])


@dataclass(frozen=True)
class Plan:
    """Who is asked what: some requests for each (prompt, problem), in C order of (prompt, problem, sample).

    environment, tools: what a conversation goes on with, and config.tools; None where one reply is all.
    """

    prompts: tuple[Prompt, ...]
    problems: tuple[Problem, ...]
    num_samples: int
    contexts: tuple[tuple[np.ndarray, ...], ...]
    requests: tuple[Request, ...]
    environment: Environment | None
    tools: Any

    @property
    def asked(self) -> list[Problem]:
        """The problem of each request."""
        return [problem for _, problem, _ in itertools.product(self.prompts, self.problems, range(self.num_samples))]


def plan_groups(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], problems: Sequence[Problem], num_samples: int, decoding: Any,
    purpose: str, step: int, task: Task, layout: str, tools: Any,
) -> Plan:
    """num_samples requests for each (prompt, problem).

    decoding: has temperature, top_p, max_new_tokens (of a whole trajectory). tools: config.tools. What sample g of prompt p on
    problem q draws depends on (seed, purpose, step, p, q, g) alone.
    """
    contexts = tuple(
        tuple(context_tokens(tokenizer, prompt.genome, problem, task, layout) for problem in problems) for prompt in prompts
    )
    requests = tuple(
        Request(
            id=(prompt.id, problem.id, g),
            tokens=contexts[p][q],
            counter=(PURPOSES[purpose], step, prompt.id, int(problem.id[:8], 16), g),
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
        )
        for (p, prompt), (q, problem), g in itertools.product(enumerate(prompts), enumerate(problems), range(num_samples))
    )
    if task.environment is not None:
        requests = tuple(conversations.first_request(request, tools) for request in requests)
    return Plan(tuple(prompts), tuple(problems), num_samples, contexts, requests, task.environment, tools)


def sample(policy: Policy, variables: Any, plans: Sequence[Plan], grader: Grader) -> list[Rollouts]:
    """The graded trajectories of each plan, all drawn in one call of the sampler, so that no plan waits for another's last.

    variables: whose trajectories (policy.variables(...)). Plans are all of one task: of replies, which `grader` grades, or of
    conversations, which their environment does; what either raises is raised here.
    """
    requests = [request for plan in plans for request in plan.requests]
    asked = [problem for plan in plans for problem in plan.asked]
    if not requests:
        return []
    environment, tools = plans[0].environment, plans[0].tools
    if environment is None:
        played = reply(policy, variables, requests, asked, grader)
    else:
        played = conversations.play(policy.sampler, variables, policy.tokenizer, requests, asked, environment, tools)
    played = iter(played)
    return [to_rollouts(plan, list(itertools.islice(played, len(plan.requests)))) for plan in plans]


def reply(
    policy: Policy, variables: Any, requests: Sequence[Request], asked: Sequence[Problem], grader: Grader
) -> list[Played]:
    """Conversations of one reply, in the order of the requests.

    A reply is given to the grader when it ends, while others are still drawn. Of several processes each grades a share, and all
    have the same grades: an answer may take too long in one and not in another.
    """
    once, texts, grades = Once(grader), {}, {}

    def on_done(i: int, completion: Completion) -> None:
        texts[i] = policy.tokenizer.decode(visible(policy, completion))
        if members.mine(i):
            grades[i] = once.submit(asked[i], texts[i])

    completions = policy.sampler(variables, requests, on_done)
    grades = {i: grade for share in members.gather(settled(grades)) for i, grade in share.items()}
    return [Played(completion, (), texts[i], grades[i]) for i, completion in enumerate(completions)]


def settled(grades: dict[int, Future[Grade]]) -> dict[int, Grade]:
    """The grades, once all are there."""
    return {i: future.result() for i, future in grades.items()}


def to_rollouts(plan: Plan, played: Sequence[Played]) -> Rollouts:
    """What came of a plan. played: one entry a request."""
    rewards = np.asarray([one.grade.score for one in played], np.float32)
    return Rollouts(
        prompt_ids=tuple(prompt.id for prompt in plan.prompts),
        problems=plan.problems,
        context_tokens=plan.contexts,
        completions=tuple(one.completion for one in played),
        texts=tuple(one.text for one in played),
        grades=tuple(one.grade for one in played),
        rewards_PQG=rewards.reshape(len(plan.prompts), len(plan.problems), plan.num_samples),
        conversations=None if plan.environment is None else tuple(one.messages for one in played),
    )


def under(rollouts: Rollouts, prompts: Sequence[int]) -> Rollouts:
    """The trajectories under some of the prompts, each given by its place among the P."""
    size = len(rollouts.problems) * rollouts.rewards_PQG.shape[2]
    flat = [i for p in prompts for i in range(p * size, (p + 1) * size)]
    names = ("completions", "texts", "grades", *(("conversations",) if rollouts.conversations is not None else ()))
    return replace(
        rollouts,
        prompt_ids=tuple(rollouts.prompt_ids[p] for p in prompts),
        context_tokens=tuple(rollouts.context_tokens[p] for p in prompts),
        rewards_PQG=rollouts.rewards_PQG[list(prompts)],
        **{name: tuple(getattr(rollouts, name)[i] for i in flat) for name in names},
    )


def visible(policy: Policy, completion: Completion) -> np.ndarray:
    """A completion's tokens without the stop token that ended it."""
    return completion.tokens[:-1] if completion.finish == "stop" else completion.tokens


def make_editor(policy: Policy, variables: Any, decoding: Any, step: int, max_length: int) -> Editor:
    """An editor that is one of our policies: chats become requests of the same sampler that serves the rollouts.

    A chat that leaves no room within max_length tokens is not asked: its reply is empty and counts as cut off.
    """

    def request(chat: Chat) -> Request:
        digest = hashlib.sha256(chat.id.encode()).digest()
        words = (int.from_bytes(digest[i : i + 4], "big") for i in (0, 4, 8))
        return Request(
            id=chat.id,
            tokens=policy.tokenizer.render(chat),
            counter=(PURPOSES["edit"], step, *words),
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            enough=(lambda tokens: chat.stop in policy.tokenizer.decode(tokens)) if chat.stop else None,
            matcher=matcher_maker(policy.tokenizer, chat.schema),
        )

    def edit(chats: Sequence[Chat]) -> list[Reply]:
        requests = [request(chat) for chat in chats]
        sizes = [len(one.tokens) for one in requests]
        asked = [i for i, size in enumerate(sizes) if size < max_length]
        replies = {i: Reply(chats[i].id, "", "length", sizes[i], 0) for i in range(len(chats)) if i not in asked}
        for i, reply in replies.items():
            logging.warning("%s is not asked: its %d tokens leave no room within model.max_length", reply.id, sizes[i])

        def on_done(number: int, completion: Completion) -> None:
            i = asked[number]
            text = policy.tokenizer.decode(visible(policy, completion))
            replies[i] = reply_to(chats[i], sizes[i], text, completion)

        if asked:
            policy.sampler(variables, [requests[i] for i in asked], on_done)
        return [replies[i] for i in range(len(chats))]

    return edit


def reply_to(chat: Chat, prompt_tokens: int, written: str, completion: Completion) -> Reply:
    """What the model wrote as a Reply: begun with the chat's prefix, ended at its stop text if that came first."""
    before, stop, _ = written.partition(chat.stop) if chat.stop else (written, "", "")
    return Reply(
        id=chat.id,
        text=chat.reply_prefix + before + stop,
        finish="stop" if stop else completion.finish,
        prompt_tokens=prompt_tokens,
        generated_tokens=len(completion.tokens),
    )
