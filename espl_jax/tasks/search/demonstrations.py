"""How a search is done well: for each question the searches that it takes, and the answer that stands in what they found.

The questions are about countries that questions.py keeps for this: no run trains on them, and none is evaluated on them.
"""

import json

from ml_collections import ConfigDict

from espl_jax.structs import Message, Problem
from espl_jax.tasks.search import questions
from espl_jax.tasks.search.calls import CLOSING, OPENING, TOOL


def problems(config: ConfigDict, seed: int) -> tuple[Problem, ...]:
    """The questions to show, as many of two searches as config (of the task) asks for.

    Raises ValueError unless the task is search over the embedded corpus.
    """
    if (config.name, config.train) != ("search", questions.EMBEDDED):
        raise ValueError(
            f"sft.data is 'search', but task.name is {config.name!r} and task.train {config.train!r}; its demonstrations are "
            "of task.name=search with task.train=embedded"
        )
    return questions.demonstrated(config.two_hop, seed)


def reply(problem: Problem, messages: tuple[Message, ...]) -> str | None:
    """What an ideal searcher says next; None where the search did not find what it should."""
    hops = problem.data["hops"]
    results = [message.content for message in messages if message.role == "tool"]
    if any(hop["fact"] not in result for hop, result in zip(hops, results)):
        return None
    found = f"The search says: {hops[len(results) - 1]['fact']}" if results else ""
    if len(results) == len(hops):
        return f"{found}\nAnswer: {problem.answer}"
    return f"{found}\n{call(hops[len(results)]['query'])}".lstrip()


def call(query: str) -> str:
    """A call with one query."""
    content = {"name": TOOL, "arguments": {"query_list": [query]}}
    return OPENING + json.dumps(content, ensure_ascii=False) + CLOSING
