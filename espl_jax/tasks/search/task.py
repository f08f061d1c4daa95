"""Agentic search as a task: questions, a tool that searches a corpus, and the exact answer in the end."""

from importlib.resources import files

from ml_collections import ConfigDict

from espl_jax.structs import Task
from espl_jax.tasks.search import questions
from espl_jax.tasks.search.calls import OPENING
from espl_jax.tasks.search.environment import SearchEnvironment
from espl_jax.tasks.search.retriever import open_retriever

DESCRIBE = (
    "Questions about facts, to be answered with the help of a tool that searches passages of text. A conversation is correct "
    'when its last reply has a line "Answer: ..." that equals a true answer; capitals, articles and punctuation do not matter.'
)


def build(config: ConfigDict, seed: int, tools: ConfigDict) -> Task:
    """The task whose questions config.train names ("embedded": generated ones over the embedded corpus).

    tools: config.tools; the retriever is open when this returns, and Task.close closes it. Raises ValueError for data, an index
    or a server that is not there.
    """
    splits = questions.load(config, seed)
    retriever = open_retriever(tools)
    environment = SearchEnvironment(retriever, tools.topk, tools.max_calls, config.format_penalty, config.question_suffix)
    return Task(
        name="search",
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        question=lambda problem: problem.question + config.question_suffix,
        grader=environment,
        describe=DESCRIBE,
        environment=environment,
        root=root_document(),
        protected=tool_syntax(root_document()),
    )


def root_document() -> str:
    """The document that a population starts from."""
    return files(__package__).joinpath("root.md").read_text(encoding="utf-8").strip()


def tool_syntax(document: str) -> tuple[str, ...]:
    """The paragraph of a document that says how to search: the first one with a call in it."""
    return tuple(paragraph for paragraph in document.split("\n\n") if OPENING in paragraph)[:1]
