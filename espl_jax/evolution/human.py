"""What people do to a population: children that they wrote or imported, retirements, and pins.

An Edit waits in the work directory (records/inbox.py) until the run takes it in between two steps. It names the prompt it is
about and what that prompt said, so that it can never land on another one.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from espl_jax.evolution.guards import control_marks
from espl_jax.evolution.population import add_child, twin
from espl_jax.evolution.rating import child_rating_mutation
from espl_jax.evolution.words import count_words, has_words
from espl_jax.structs import Genome, Population, Prompt

OPERATOR = "human"
UNBORN = -1  # the population gives the id


@dataclass(frozen=True)
class Edit:
    """What a person wants done.

    kind: a key of KINDS. target: the id of the parent (add), or of the prompt that is to go (retire), to compete in every step
    (pin) or to compete like any other again (unpin). seen: what the target said when the edit was written. genome: the child's
    text (add), or None. note: why, in the person's words.
    """

    kind: str
    target: int
    seen: Genome
    genome: Genome | None = None
    note: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"an edit's kind is {self.kind!r}; use one of {', '.join(KINDS)}")
        if (self.genome is None) == (self.kind == "add"):
            raise ValueError(f"an edit of kind {self.kind!r} {'needs' if self.kind == 'add' else 'has no'} genome")


def carry_out(population: Population, edit: Edit, step: int, config) -> tuple[Population, int]:
    """The population after the edit, and the id of the child, or of the target.

    step: iterations done, which becomes the child's `born`. config: config.evolution. A child is rated like a mutant of its
    parent. Raises ValueError, in a sentence, for what `objection` finds.
    """
    if reason := objection(population, edit, config):
        raise ValueError(reason)
    return KINDS[edit.kind](population, edit, step, config)


def objection(population: Population, edit: Edit, config) -> str:
    """Why the edit cannot be carried out on this population, or ""."""
    known = {prompt.id: prompt for prompt in population.prompts}
    if edit.target not in known:
        return f"there is no prompt {edit.target}"
    if known[edit.target].genome != edit.seen:
        return f"prompt {edit.target} does not say what it said when this was written; look at it and write again"
    return OBJECTIONS[edit.kind](population, edit, config)


def _objection_to_retiring(population: Population, edit: Edit, config) -> str:
    if edit.target in population.retired:
        return f"prompt {edit.target} has retired already"
    if len(population.alive) == 1:
        return f"prompt {edit.target} is the last that is alive; add another one first"
    return ""


def _objection_to_pin(population: Population, edit: Edit, config) -> str:
    if edit.target in population.retired:
        return f"prompt {edit.target} has retired; add a child that says the same and pin that"
    return f"prompt {edit.target} is pinned already" if edit.target in population.pinned else ""


def _objection_to_unpin(population: Population, edit: Edit, config) -> str:
    return "" if edit.target in population.pinned else f"prompt {edit.target} is not pinned"


def _objection_to_child(population: Population, edit: Edit, config) -> str:
    """People's texts obey the limits that the model's obey: a run must be able to sample under them."""
    genome = edit.genome
    if genome.kind != edit.seen.kind:
        return f"the text is a genome of kind {genome.kind!r}, but the population's are {edit.seen.kind!r}"
    if (other := twin(population, genome)) is not None:
        return f"the text is that of prompt {other.id}"
    limit = config.max_document_words if genome.kind == "document" else config.max_principle_words
    field = "evolution.max_document_words" if genome.kind == "document" else "evolution.max_principle_words"
    if len(genome.principles) > config.max_principles:
        return f"the text has {len(genome.principles)} principles, evolution.max_principles is {config.max_principles}"
    for text in genome.principles or (genome.document,):
        if (words := count_words(text)) > limit:
            return f"{text[:40]!r}... has {words} words, {field} is {limit}; shorten it"
        if text and not has_words(text):
            return f"{text[:40]!r} holds no word; leave it out"
        if found := control_marks(text):
            return f"{text[:40]!r}... {found}; leave it out"
    return ""


def _add(population: Population, edit: Edit, step: int, config) -> tuple[Population, int]:
    rating = child_rating_mutation(population[edit.target].rating, config.sigma_inflation)
    child = Prompt(UNBORN, edit.genome, rating, (edit.target,), OPERATOR, step)
    population, child = add_child(population, child, config.max_population)
    return population, child.id


def _retire(population: Population, edit: Edit, step: int, config) -> tuple[Population, int]:
    del step, config
    retired, pinned = population.retired | {edit.target}, population.pinned - {edit.target}
    return replace(population, retired=retired, pinned=pinned), edit.target


def _pin(population: Population, edit: Edit, step: int, config) -> tuple[Population, int]:
    del step, config
    return replace(population, pinned=population.pinned | {edit.target}), edit.target


def _unpin(population: Population, edit: Edit, step: int, config) -> tuple[Population, int]:
    del step, config
    return replace(population, pinned=population.pinned - {edit.target}), edit.target


KINDS: dict[str, Callable[..., tuple[Population, int]]] = {"add": _add, "retire": _retire, "pin": _pin, "unpin": _unpin}
OBJECTIONS: dict[str, Callable[..., str]] = {
    "add": _objection_to_child, "retire": _objection_to_retiring, "pin": _objection_to_pin, "unpin": _objection_to_unpin,
}  # fmt: skip


def to_json(edit: Edit) -> dict[str, Any]:
    """The edit as JSON values."""
    return asdict(edit)


def from_json(data: Mapping[str, Any]) -> Edit:
    """The edit that `to_json` wrote. Raises ValueError for anything else."""
    try:
        return Edit(
            kind=data["kind"],
            target=int(data["target"]),
            seen=_genome(data["seen"]),
            genome=None if data["genome"] is None else _genome(data["genome"]),
            note=str(data["note"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not an edit as espl_jax.prompts writes it ({type(error).__name__}: {error})") from error


def _genome(data: Mapping[str, Any]) -> Genome:
    return Genome(data["kind"], tuple(data["principles"]), data["document"])
