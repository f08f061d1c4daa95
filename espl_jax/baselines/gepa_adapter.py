"""What the package gepa (Agrawal et al., arXiv 2507.19457; https://github.com/gepa-ai/gepa, MIT) asks of us.

A candidate has one component, the text of the prompt. A metric call is one trajectory of one problem. The package decides what
is evaluated, reflected on, accepted and kept; its own words ask for the new text, and ours are only those of the feedback.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from espl_jax.evolution.words import elide
from espl_jax.structs import Problem, Task

COMPONENT = "system_prompt"
RIGHT = 1.0  # the reward of an answer that leaves nothing to mend


@dataclass(frozen=True)
class Outcome:
    """One trajectory: of this problem, the reply (a conversation as readable text), its reward, and the grader's note."""

    problem: Problem
    text: str
    reward: float
    note: str


# text of a prompt, problems -> one outcome each
Solve = Callable[[str, Sequence[Problem]], list[Outcome]]


def load_package() -> ModuleType:
    """The module gepa. Raises ImportError, with the remedy, when it is not installed."""
    try:
        import gepa
    except ImportError as error:
        raise ImportError("method is 'gepa', which needs the package gepa: pip install 'espl_jax[gepa]'") from error
    return gepa


class Adapter:
    """gepa's GEPAAdapter over a sampler and grader."""

    propose_new_texts = None  # the package's own proposer is used

    def __init__(self, solve: Solve, task: Task, max_words: int):
        """max_words: of a reply in what the editor is shown (evolution.max_trajectory_words)."""
        self._solve, self._task, self._max_words = solve, task, max_words
        self._batch = load_package().EvaluationBatch

    def evaluate(self, batch: list[Problem], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        """Trajectories of the problems under the candidate, one each, with their rewards as scores."""
        outcomes = self._solve(candidate[COMPONENT], batch)
        return self._batch(
            outputs=[outcome.text for outcome in outcomes],
            scores=[outcome.reward for outcome in outcomes],
            trajectories=outcomes if capture_traces else None,
        )

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: Any, components_to_update: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What the editor is shown: each problem with the reply and what is to be said about it."""
        records = [self._record(outcome) for outcome in eval_batch.trajectories]
        return dict.fromkeys(components_to_update, records)

    def _record(self, outcome: Outcome) -> dict[str, str]:
        """Under the names that the package recommends."""
        single = self._task.environment is None
        question = self._task.question(outcome.problem) if single else outcome.problem.question
        return {
            "Inputs": question,
            "Generated Outputs": elide(outcome.text, self._max_words),
            "Feedback": feedback(outcome),
        }


def feedback(outcome: Outcome) -> str:
    """What a reflection is told about an outcome: whether it is right, why not, and what would have been."""
    if outcome.reward >= RIGHT:
        return "Right."
    remark = f" The grader says: {outcome.note}." if outcome.note else ""
    partly = f"Worth {outcome.reward:.2f} of 1." if outcome.reward > 0 else "Wrong."
    return f"{partly}{remark} The right answer is: {outcome.problem.answer}"


class Reflector:
    """gepa's reflection model: a text in, a text out."""

    total_cost = 0.0  # in money, which the package would estimate otherwise

    def __init__(self, reply: Callable[[str], str]):
        self._reply = reply

    def __call__(self, prompt: str | list[dict[str, Any]]) -> str:
        """The reply. The package gives messages instead of a text only for images, which we have none of."""
        return self._reply(prompt if isinstance(prompt, str) else str(prompt[-1]["content"]))


class Silent:
    """gepa's logger; what it would print is in the records."""

    def log(self, message: str) -> None:
        """Nothing."""
