"""A calculator as an environment, for tests: it understands what any model writes, be it noise."""

import random
import re
import time
from collections.abc import Callable

from ml_collections import ConfigDict

from espl_jax.structs import Ended, Grade, Message, Problem, Task
from espl_jax.tasks import toy
from espl_jax.tasks.grading import Inline


def naps(seed: int, longest: float) -> Callable[[], float]:
    """A tool's latencies, in seconds."""
    rng = random.Random(seed)
    return lambda: rng.uniform(0, longest)


class Calculator:
    """A reply whose length is a multiple of `every` ends the conversation; any other is a sum to be added up.

    Its numbers are those written in it, or, there being none, its length. Right (1) is a conversation with an even number of
    characters in its last reply. `latency` says how long a call takes, in seconds.
    """

    def __init__(self, latency: Callable[[], float] = lambda: 0.0, every: int = 4, max_calls: int = 3):
        self.latency, self.every, self.max_calls = latency, every, max_calls

    def reset(self, problem: Problem) -> tuple[Message, ...]:
        return (Message("user", f"{problem.question} You may use a calculator."),)

    def step(self, problem: Problem, messages: tuple[Message, ...]) -> tuple[Message, ...] | Ended:
        time.sleep(self.latency())
        reply = messages[-1].content
        if len(reply) % self.every == 0:
            return Ended(self.grade(messages))
        if sum(message.role == "tool" for message in messages) == self.max_calls:
            return Ended(self.grade(messages), "calls")
        numbers = [int(number) for number in re.findall("[0-9]{1,9}", reply)] or [len(reply)]
        return (Message("tool", f"The sum is {sum(numbers)}."),)

    def cut(self, problem: Problem, messages: tuple[Message, ...], finish: str) -> Grade:
        return self.grade(messages, finish)

    def metrics(self, messages: tuple[Message, ...]) -> dict[str, float]:
        sums = [message for message in messages if message.role == "tool"]
        return {"calls": float(len(sums))} | ({"sum_digits": float(len(sums[-1].content) - 12)} if sums else {})

    def grade(self, messages: tuple[Message, ...], note: str = "") -> Grade:
        size = len(messages[-1].content)
        return Grade(float(size % 2 == 0), str(size), note)


def calculator_task(environment: Calculator) -> Callable[..., Task]:
    """A builder for tasks.TASKS."""

    def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
        base = toy.build(config, seed, tools)
        nobody = Inline(lambda problem, text: Grade(1 / 0))  # conversations are graded by their environment
        splits = base.train, base.validation, base.test
        return Task("calculator", *splits, base.question, nobody, "Write a reply of even length.", environment)

    return build
