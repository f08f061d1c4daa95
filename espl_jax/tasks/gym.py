"""Any reasoning-gym data set (https://github.com/open-thought/reasoning-gym), by name, with its own scorer."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from espl_jax.structs import Grade, Problem, Task, text_id
from espl_jax.tasks.choices import choose, suggestion
from espl_jax.tasks.extraction import EXTRACTION
from espl_jax.tasks.grading import GradingPool
from espl_jax.tasks.splits import Splits

CHUNK = 500  # entries drawn under one seed of the data set
RUN_FIELDS = ("seed", "size")  # parameters that the run decides


def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    """The task of config.gym_dataset: its splits are drawn from seeds of their own and share no question.

    Raises ValueError for unknown names and parameters, and if there are fewer distinct questions than asked for.
    """
    check(config)
    parameters = read_parameters(config)
    splits = draw_splits(config, parameters, seed)
    factory = partial(make_verifier, config.gym_dataset, parameters, config.extraction)
    suffix = config.question_suffix
    return Task(
        name="reasoning_gym",
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        question=lambda problem: problem.question + suffix,
        grader=GradingPool(factory, config.grading_workers, config.grading_timeout),
        describe=(
            f'Generated puzzles of the kind "{config.gym_dataset.replace("_", " ")}", checked by a program. '
            f"What is checked is {EXTRACTION[config.extraction].wording}; a partly correct answer may earn a part."
        ),
    )


def check(config: ConfigDict):
    """Raises ValueError for fields that this task cannot follow."""
    if config.num_train == 0:
        raise ValueError("task.num_train is 0 but reasoning_gym generates its problems; say how many it should be")
    for name in ("validation", "test"):
        if config[name]:
            raise ValueError(
                f"task.{name} is {config[name]!r} but reasoning_gym draws its own problems; "
                f"leave it empty and set task.num_{name}"
            )


def read_parameters(config: ConfigDict) -> dict[str, Any]:
    """config.gym_parameters as a dict, tried on the data set: names, types and ranges are right."""
    from reasoning_gym.factory import DATASETS

    _, config_class = choose("task.gym_dataset", config.gym_dataset, DATASETS)
    try:
        parameters = json.loads(config.gym_parameters)
    except json.JSONDecodeError as error:
        raise ValueError(f"task.gym_parameters is {config.gym_parameters!r}, which is no JSON: {error}") from None
    if not isinstance(parameters, dict):
        raise ValueError(f"task.gym_parameters is {config.gym_parameters!r}; use a JSON object, such as '{{}}'")
    known = {field.name for field in dataclasses.fields(config_class)} - set(RUN_FIELDS)
    for name in parameters:
        if name in RUN_FIELDS:
            raise ValueError(f"task.gym_parameters sets {name!r}, which the run decides; remove it (see config.seed)")
        if name not in known:
            raise ValueError(
                f"task.gym_parameters has {name!r}, which {config.gym_dataset} does not know; {suggestion(name, known)}"
            )
    create(config.gym_dataset, parameters, seed=0, size=1)
    return parameters


def create(name: str, parameters: dict[str, Any], seed: int, size: int):
    """The data set; ValueError if it does not like its parameters, in whatever way it says so."""
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **parameters)
    except Exception as error:
        raise ValueError(
            f"task.gym_parameters {json.dumps(parameters)} do not suit {name}: {type(error).__name__}: {error}"
        ) from error


def draw_splits(config: ConfigDict, parameters: dict[str, Any], seed: int) -> Splits:
    """Test first, then validation, then train, each without the questions before it: test depends on its size alone."""
    sizes = {"test": config.num_test, "validation": config.num_validation, "train": config.num_train}
    taken: dict[str, Problem] = {}
    splits = {}
    for split, size in sizes.items():
        drawn = draw_split(stream(config.gym_dataset, parameters, f"{seed}/{split}"), size, taken)
        if len(drawn) < size:
            found, asked = len(taken) + len(drawn), sum(sizes.values())
            raise ValueError(
                f"task.gym_dataset {config.gym_dataset} has only {found} distinct questions to be found with these "
                f"parameters, but num_train + num_validation + num_test is {asked}; lower them or widen gym_parameters"
            )
        taken |= drawn
        splits[split] = tuple(drawn.values())
    return Splits(**splits)


def draw_split(entries: Iterator[dict], size: int, taken: dict[str, Problem]) -> dict[str, Problem]:
    """Problems by id that are not taken; fewer than `size` when new ones have stopped coming.

    They have when 10 * (size + taken) + 100 entries in a row bring none: where one question in as many as are needed
    is still unseen, and all are equally likely, that happens less than once in 20,000 times.
    """
    drawn: dict[str, Problem] = {}
    patience = 10 * (size + len(taken)) + 100
    barren = 0
    while len(drawn) < size and barren < patience:
        problem = to_problem(next(entries))
        fresh = problem.id not in taken and problem.id not in drawn
        barren = 0 if fresh else barren + 1
        if fresh:
            drawn[problem.id] = problem
    return drawn


def stream(name: str, parameters: dict[str, Any], seed: str) -> Iterator[dict]:
    """Entries without end, the same ones for the same seed."""
    for chunk in itertools.count():
        number = int(hashlib.sha256(f"{seed}/{chunk}".encode()).hexdigest(), 16) % 2**31
        with settled(number):
            dataset = create(name, parameters, number, CHUNK)
        for index in range(CHUNK):
            with settled(number + index):
                entry = dataset[index]
            yield entry


@contextlib.contextmanager
def settled(seed: int):
    """Python's shared random state is `seed` inside and untouched outside, and prints are dropped.

    Some data sets (list_functions) draw from the shared state, and some (knight_swap) print while they search.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        random.setstate(state)


def to_problem(entry: dict) -> Problem:
    """The entry as a Problem; the answer is "" where any of several would do and none is given."""
    answer = "" if entry["answer"] is None else str(entry["answer"])
    return Problem(text_id(entry["question"]), entry["question"], answer, {"entry": entry})


def make_verifier(name: str, parameters: dict[str, Any], extraction: str) -> Callable[[Problem, str], Grade]:
    """The verifier of a grading worker: the data set's score of what the rule named `extraction` reads."""
    dataset = create(name, parameters, seed=0, size=1)
    read = EXTRACTION[extraction].read

    def verify(problem: Problem, reply: str) -> Grade:
        answer = read(reply)
        if not answer:
            return Grade(0.0, note="no answer found")
        with settled(0):
            score = float(dataset.score_answer(answer, problem.data["entry"]))
        return Grade(min(1.0, max(0.0, score)), answer)  # max(0, nan) is 0

    return verify
