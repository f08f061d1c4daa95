"""Conversations to learn from: a JSONL file of {"messages": [{"role", "content"}, ...]}, or generated ones, by name.

A conversation may begin with a system turn, and ends with the assistant's last reply; between two replies stands what a tool or
the user said. Every one that comes twice is dropped.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from espl_jax import tasks
from espl_jax.conversations import not_drawn, shortened
from espl_jax.demonstrator import chats as smallworld
from espl_jax.policy.batch import Row
from espl_jax.policy.chat import Tokenizer
from espl_jax.rollout import opening
from espl_jax.structs import ROLES, Chat, Completion, Ended, Genome, Message, Problem, Task
from espl_jax.tasks.choices import suggestion
from espl_jax.tasks.search import demonstrations as search
from espl_jax.tasks.sources import jsonl_rows

MAX_TURNS = 100  # of a conversation that is played; a player that goes on has a fault


@dataclass(frozen=True)
class Demonstration:
    """A conversation whose replies are to be learned. id: of its text."""

    messages: tuple[Message, ...]

    @property
    def id(self) -> str:
        turns = json.dumps([[message.role, message.content] for message in self.messages])
        return hashlib.sha256(turns.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "messages": [{"role": turn.role, "content": turn.content} for turn in self.messages]}


def load(config: ConfigDict) -> tuple[list[Demonstration], list[Demonstration]]:
    """What is trained on and what is held out, as config.sft says; both drawn by the seed.

    Raises ValueError, in one sentence that names the field or the line, for data that are not there or not conversations.
    """
    sft, seed = config.sft, config.seed
    if sft.data in DEMONSTRATIONS:
        found = [Demonstration(messages) for messages in DEMONSTRATIONS[sft.data](config, seed)]
    elif Path(sft.data).suffix == ".jsonl" and Path(sft.data).expanduser().is_file():
        found = list(from_file(Path(sft.data).expanduser()))
    else:
        raise ValueError(
            f"sft.data is {sft.data!r}, no file here and no known demonstrations; {suggestion(sft.data, DEMONSTRATIONS)}, or "
            "give the path of a .jsonl file"
        )
    found = sorted({one.id: one for one in found}.values(), key=lambda one: rank(one, seed))
    wanted = sft.num_demonstrations or len(found) - sft.num_validation
    if wanted + sft.num_validation > len(found) or wanted < sft.batch_size:
        raise ValueError(
            f"sft.data={sft.data} has {len(found)} conversations: too few for sft.num_demonstrations={sft.num_demonstrations}, "
            f"sft.num_validation={sft.num_validation} and sft.batch_size={sft.batch_size}; lower them"
        )
    held_out = sft.num_validation
    return found[held_out : held_out + wanted], found[:held_out]


def rank(demonstration: Demonstration, seed: int) -> str:
    """Where it stands in the seed's order; a few more or less change nothing about the others."""
    return hashlib.sha256(f"{seed}/demonstration/{demonstration.id}".encode()).hexdigest()


def from_file(path: Path) -> Iterator[Demonstration]:
    """The conversations of a JSONL file."""
    for where, row in jsonl_rows(path):
        turns = row.get("messages")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise ValueError(f"{where} has no list of messages; write {{\"messages\": [{{\"role\": ..., \"content\": ...}}]}}")
        for turn in turns:
            if turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
                raise ValueError(
                    f"{where} has the message {json.dumps(turn)[:80]}; give each a role ({', '.join(ROLES)}) and a text"
                )
        yield Demonstration(checked(where, tuple(Message(turn["role"], turn["content"]) for turn in turns)))


def checked(where: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages, if the assistant replies to somebody each time, and last. Raises ValueError that begins with `where`."""
    roles = [message.role for message in messages]
    if "assistant" not in roles or roles[-1] != "assistant" or roles[0] == "assistant":
        raise ValueError(f"{where} has the turns {', '.join(roles)}; let the assistant reply to somebody, and last")
    if any(pair == ("assistant", "assistant") for pair in zip(roles, roles[1:])):
        raise ValueError(f"{where} has two assistant turns without another between them; join them")
    if "system" in roles[roles.index("assistant") :]:
        raise ValueError(f"{where} has a system turn behind a reply; give it to the user, or leave it out")
    return messages


# -- tokens --------------------------------------------------------------------------------------------------------------


def to_row(tokenizer: Tokenizer, messages: Sequence[Message], max_result_tokens: int) -> Row:
    """A conversation as a trajectory: its replies are the policy's, all else is conditioned on.

    The tokens are those that the sampler would have seen, had the policy drawn these replies: a tool's answer is cut as there,
    behind max_result_tokens.
    """
    first = [message.role for message in messages].index("assistant")
    pieces, said = [], []
    for message in messages[first:]:
        if message.role == "assistant":
            pieces += [not_drawn(tokenizer.between(said))] if said else []
            pieces.append(given(tokenizer.reply(message.content)))
            said = []
        elif message.role == "tool":
            said.append(Message("tool", shortened(tokenizer, message.content, max_result_tokens)))
        else:
            said.append(message)
    tokens = np.concatenate([piece.tokens for piece in pieces])
    own = np.concatenate([piece.drawn for piece in pieces])
    context = tokenizer.render(Chat("demonstration", tuple(messages[:first])))
    return Row(context, given(tokens, own), advantage=1.0, temperature=1.0)


def given(tokens: np.ndarray, own: np.ndarray | None = None) -> Completion:
    """Tokens that no policy drew, without log-probabilities: the ratio of the loss is to nothing then."""
    nothing = np.zeros(len(tokens), np.float32)
    return Completion(None, tokens, nothing, nothing, nothing, "stop", own)


# -- generated -----------------------------------------------------------------------------------------------------------

# (problem, the turns so far) -> the reply that shows how it is done; None where this problem cannot be shown
Player = Callable[[Problem, tuple[Message, ...]], str | None]


def play(task: Task, problems: Iterable[Problem], genome: Genome, layout: str, player: Player) -> Iterator[tuple[Message, ...]]:
    """What the task's own environment makes of each problem when `player` replies, under a prompt."""
    for problem in problems:
        asked = task.environment.reset(problem)
        messages = asked
        for _ in range(MAX_TURNS):
            if (reply := player(problem, messages)) is None:
                break
            messages = (*messages, Message("assistant", reply))
            if isinstance(answer := task.environment.step(problem, messages), Ended):
                yield (*opening(genome, problem, task, layout), *messages[len(asked) :])
                break
            messages = (*messages, *answer)


def of_search(config: ConfigDict, seed: int) -> Sequence[tuple[Message, ...]]:
    """Ideal searches over the embedded corpus, under the task's document, about countries that no run is asked about."""
    with contextlib.closing(tasks.build(config.task, seed, config.tools)) as task:
        genome = Genome("document", document=task.root)
        return list(play(task, search.problems(config.task, seed), genome, config.evolution.layout, search.reply))


def of_smallworld(config: ConfigDict, seed: int) -> Sequence[tuple[Message, ...]]:
    """Ideal replies of solvers and editors in small worlds of their own, as many as config.sft asks for."""
    if config.task.name != "smallworld" or not config.sft.num_demonstrations:
        raise ValueError(
            f"sft.data is 'smallworld', but task.name is {config.task.name!r} and sft.num_demonstrations "
            f"{config.sft.num_demonstrations}; its demonstrations are of task.name=smallworld, and as many as are asked for"
        )
    wanted, found = config.sft.num_demonstrations + config.sft.num_validation, {}
    for messages in smallworld.conversations(config, seed):
        found.setdefault(Demonstration(messages).id, messages)
        if len(found) == wanted:
            return list(found.values())
    raise AssertionError("scenes have no end")


# name -> (config, seed) -> conversations
DEMONSTRATIONS: dict[str, Callable[[ConfigDict, int], Iterable[tuple[Message, ...]]]] = {
    "search": of_search,
    "smallworld": of_smallworld,
}
