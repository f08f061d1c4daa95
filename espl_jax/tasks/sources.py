"""Where rows come from: named data sets of the Hugging Face hub (competition mathematics, open questions), and local files.

Each row becomes a Problem; a problem that comes again (its text, white space aside) is dropped.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from espl_jax.structs import Problem, text_id
from espl_jax.tasks.choices import suggestion
from espl_jax.tasks.splits import Splits, distinct, draw, separate

Row = Mapping[str, Any]
ROWS_AT_ONCE = 1000

# What DAPO-Math-17k wraps around each problem; both ends are recognised by how they begin.
DAPO_HEAD = re.compile(r"\A\s*Solve the following math problem step by step\.[^\n]*\n\s*\n")
DAPO_TAIL = re.compile(r"\n\s*\nRemember to put your answer on its own line[^\n]*\s*\Z")


@dataclass(frozen=True)
class Columns:
    """The columns that rows of one form have, and how (question, answer) are read from them.

    data: what else a row has for the task's grader (Problem.data).
    """

    names: tuple[str, str]
    read: Callable[[Row], tuple[Any, Any]]
    data: Callable[[Row], dict[str, Any]] = lambda row: {}


@dataclass(frozen=True)
class Source:
    """A data set of the hub (https://huggingface.co/datasets/<hub>). keep: problems drawn by the seed, 0: all."""

    hub: str
    columns: Columns
    split: str = "train"
    keep: int = 0


def without_wrapper(prompt: str) -> str:
    """A DAPO prompt without the instructions before and after the problem; as it is unless both are there."""
    if not (DAPO_HEAD.search(prompt) and DAPO_TAIL.search(prompt)):
        return prompt
    return DAPO_TAIL.sub("", DAPO_HEAD.sub("", prompt))


def golden(row: Row) -> list[str]:
    """All right answers of a row of Search-R1's form."""
    answers = row["golden_answers"]
    return [text for text in map(answer_text, [answers] if isinstance(answers, str) else answers) if text]


PROBLEM = Columns(("problem", "answer"), lambda row: (row["problem"], row["answer"]))
QUESTION = Columns(("question", "answer"), lambda row: (row["question"], row["answer"]))
DAPO = Columns(
    ("prompt", "reward_model"),
    lambda row: (without_wrapper(row["prompt"][0]["content"]), row["reward_model"]["ground_truth"]),
)
GOLDEN = Columns(  # Search-R1's: any of the answers is right
    ("question", "golden_answers"),
    lambda row: (row["question"], golden(row)[0]),
    lambda row: {"golden_answers": golden(row)},
)
FORMS = (PROBLEM, GOLDEN, QUESTION, DAPO)  # of local files, tried in this order

SOURCES: dict[str, Source] = {
    "aime_2022_2024": Source("AI-MO/aimo-validation-aime", PROBLEM),
    "aime_2024": Source("HuggingFaceH4/aime_2024", PROBLEM),
    "aime_2025": Source("yentinglin/aime_2025", PROBLEM),
    "amc": Source("AI-MO/aimo-validation-amc", PROBLEM),
    "beyondaime": Source("ByteDance-Seed/BeyondAIME", PROBLEM, split="test"),
    "dapo": Source("BytedTsinghua-SIA/DAPO-Math-17k", DAPO),
    "dapo100": Source("BytedTsinghua-SIA/DAPO-Math-17k", DAPO, keep=100),
    "hmmt_feb_2023": Source("MathArena/hmmt_feb_2023", PROBLEM),
    "hmmt_feb_2024": Source("MathArena/hmmt_feb_2024", PROBLEM),
    "hmmt_feb_2025": Source("MathArena/hmmt_feb_2025", PROBLEM),
    "hmmt_nov_2025": Source("MathArena/hmmt_nov_2025", PROBLEM),
    "nq_hotpotqa": Source("PeterJinGo/nq_hotpotqa_train", GOLDEN),
}


def load_splits(config: ConfigDict, seed: int) -> Splits:
    """The splits that config.train, config.validation and config.test name; see splits.separate.

    Raises ValueError, before anything is read, if one of them cannot be what it should be.
    """
    values = {name: config[name] for name in ("train", "validation", "test")}
    for name, value in values.items():
        if value or name == "train":
            parts(f"task.{name}", value)
    return separate(
        load("task.train", values["train"], seed),
        load("task.validation", values["validation"], seed) if values["validation"] else None,
        load("task.test", values["test"], seed) if values["test"] else (),
        num_train=config.num_train,
        num_validation=config.num_validation,
        num_test=config.num_test,
        seed=seed,
    )


def load(field: str, value: str, seed: int) -> tuple[Problem, ...]:
    """The distinct problems of a named source, a local file, or several of them joined by "+", in that order.

    `field` is the config field to name in errors. Raises ValueError in one sentence for what cannot be read.
    """
    problems = [problem for part in parts(field, value) for problem in load_part(field, part, seed)]
    return distinct(problems)


def parts(field: str, value: str) -> list[str]:
    """The sources that a value names, each a known name or an existing file; a ValueError if one is neither."""
    names = [value] if Path(value).expanduser().is_file() else value.split("+")
    for name in names:
        if name in SOURCES:
            continue
        if Path(name).suffix not in READERS:
            raise ValueError(
                f"{field} is {value!r} and {name!r} is no known source; {suggestion(name, SOURCES)}, "
                "or give the path of a .jsonl or .parquet file"
            )
        if not Path(name).expanduser().is_file():
            raise ValueError(f"{field} is {value!r} but there is no file {name}; check the path")
    return names


def require_files(config: ConfigDict):
    """Raises ValueError if a split is to come from the hub."""
    for name in ("train", "validation", "test"):
        for part in config[name].split("+"):
            if part in SOURCES:
                raise ValueError(
                    f"task.{name} is {config[name]!r}, a named source, but task.name 'jsonl' reads files; "
                    "give the path of a .jsonl or .parquet file or set task.name to 'math'"
                )


def load_part(field: str, name: str, seed: int) -> tuple[Problem, ...]:
    """The distinct problems of one source or file."""
    if name not in SOURCES:
        return distinct_of(name, read_file(Path(name).expanduser()))
    source = SOURCES[name]
    problems = distinct_of(name, read_hub(field, name, source))
    return draw(field, problems, source.keep, seed, "source") if source.keep else problems


def distinct_of(name: str, problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """The problems, each once; ValueError if there are none. How many came again is logged."""
    kept: dict[str, Problem] = {}
    count = 0
    for problem in problems:
        count += 1
        kept.setdefault(problem.id, problem)
    if not kept:
        raise ValueError(f"{name} holds no problems; give a file with at least one row")
    if len(kept) < count:
        logging.info("%s: %d of %d rows repeat a problem and are left out", name, count - len(kept), count)
    return tuple(kept.values())


def read_file(path: Path) -> Iterator[Problem]:
    """The problems of a local file, its form (FORMS) found from each row's columns."""
    for where, row in READERS[path.suffix](path):
        form = next((form for form in FORMS if set(form.names) <= set(row)), None)
        if form is None:
            wanted = " or ".join(" and ".join(form.names) for form in FORMS)
            raise ValueError(f"{where} has the columns {sorted(row)}; it needs {wanted}")
        yield to_problem(where, row, form)


def jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(file:line, row) of each line that is not blank."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise ValueError(f"{where} is no JSON ({error}); write one object a line") from None
        if row is None and not line.strip():
            continue
        if not isinstance(row, dict):
            raise ValueError(f"{where} is no JSON object; write one object a line")
        yield where, row


def parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(file, row number, row) of each row; needs the optional package pyarrow."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ValueError(
            f"{path} needs pyarrow to be read; pip install 'espl_jax[data]' or convert it to JSONL"
        ) from None
    try:
        batches = parquet.ParquetFile(path).iter_batches(ROWS_AT_ONCE)
        rows: Iterable[Row] = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", row
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path} is no readable parquet file: {error}") from None


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {".jsonl": jsonl_rows, ".parquet": parquet_rows}


def read_hub(field: str, name: str, source: Source) -> Iterator[Problem]:
    """The problems of a data set of the hub, from its cache or the network; needs the optional package datasets."""
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{field} is {name!r}, which needs the package datasets; "
            "pip install 'espl_jax[data]' or give a local .jsonl"
        ) from None
    try:
        dataset = datasets.load_dataset(source.hub, split=source.split)
    except Exception as error:  # offline, gated, moved: the library has a class of its own for each
        raise ValueError(
            f"{field} is {name!r} but {source.hub} (split {source.split}) cannot be loaded "
            f"({type(error).__name__}: {error}); check the network, or give a local .jsonl of the same rows"
        ) from error
    if missing := set(source.columns.names) - set(dataset.column_names):
        raise ValueError(f"{source.hub} lacks the columns {sorted(missing)}; it has {sorted(dataset.column_names)}")
    number = 0
    for batch in dataset.select_columns(list(source.columns.names)).iter(ROWS_AT_ONCE):
        for values in zip(*(batch[column] for column in source.columns.names), strict=True):
            number += 1
            row = dict(zip(source.columns.names, values, strict=True))
            yield to_problem(f"{source.hub}, row {number}", row, source.columns)


def to_problem(where: str, row: Row, columns: Columns) -> Problem:
    """The row as a Problem; ValueError that says `where` if its question or answer is not there."""
    try:
        question, answer = columns.read(row)
        data = columns.data(row)
    except (KeyError, IndexError, TypeError) as error:
        names = " and ".join(columns.names)
        raise ValueError(f"{where}: {names} are not in their usual form ({type(error).__name__}: {error})") from None
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where} has the question {question!r}; it must be text")
    answer = answer_text(answer)
    if not answer:
        raise ValueError(f"{where} has no answer; every problem needs its true answer to be graded")
    return Problem(text_id(question), question.strip(), answer, data)


def answer_text(answer: Any) -> str:
    """An answer column's value as text: 142.0 (as in the AMC data) is "142"; "" for what is neither text nor number."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        return ""
    return str(answer).strip()
