"""The evolutionary tree: how each prompt's rating went, what it changed against its parents, where it stands in the drawing."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espl_jax.report.reading import RunRecord
from espl_jax.structs import Genome, Match, Population, Prompt, Rating

_WORD = re.compile(r"\s+|[^\s]+")
MAX_LANES = 40  # beyond which the tree uses lanes again sooner
SIMILAR = 0.5  # two principles with at least this ratio (difflib) are shown as one that was changed


def histories(record: RunRecord) -> dict[int, list[tuple[int, Rating]]]:
    """Each prompt's rating over time: (step, rating) from its birth, one entry after each match.

    A rating changes only in matches; what it was before each is recorded in the step's prompts.jsonl, what it is after the
    last in population.json. So no rule of rating or birth is assumed, and a run of any strategy is read alike.
    """
    played: dict[int, list[int]] = {}
    for match in record.population.matches:
        for prompt_id in match.prompt_ids:
            played.setdefault(prompt_id, []).append(match.step)
    before = {step.step: step.ratings for step in record.steps}
    newborn = {attempt.child: attempt.rating for attempt in record.attempts if attempt.rating is not None}
    found = {}
    for prompt in record.population.prompts:
        # A prompt that has competed was rated before its first match as it was born; else its rating is still that.
        steps = played.get(prompt.id, [])
        known = [before.get(step, {}).get(prompt.id) for step in steps]
        birth = next(iter(known), newborn.get(prompt.id, prompt.rating)) or newborn.get(prompt.id, prompt.rating)
        after = [*known[1:], prompt.rating] if steps else []
        found[prompt.id] = [(prompt.born, birth)] + [(step, rating) for step, rating in zip(steps, after) if rating]
    return found


def best_over_time(record: RunRecord) -> list[tuple[int, int, Rating]]:
    """(step, id, rating) of the best prompt as the metrics of each step have it."""
    names = ("evolution/best_id", "evolution/best_mu", "evolution/best_sigma")
    rows = [row for row in record.metrics if all(name in row and row[name] is not None for name in names)]
    return [(row["step"], int(row[names[0]]), Rating(row[names[1]], row[names[2]])) for row in rows]


def lines_of(genome: Genome) -> list[str]:
    """What a genome is made of: its principles, or the lines of its document."""
    return list(genome.principles) if genome.kind == "principles" else genome.document.splitlines()


def difference(old: Genome, new: Genome) -> list[list[Any]]:
    """What became of the lines of `old`, in the order of `new`, by index so that no text is repeated.

    ["=", j]: line j of `new` is unchanged. ["-", i]: line i of `old` is gone. ["+", j]: line j is new. ["~", i, j, spans]:
    line i became line j; spans are [kind, words] with the kinds of before.
    """
    before, after = lines_of(old), lines_of(new)
    found: list[list[Any]] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            found += [["=", j] for j in range(j1, j2)]
        else:
            found += _changed(before, after, range(i1, i2), range(j1, j2))
    return found


def _changed(before: Sequence[str], after: Sequence[str], gone: range, came: range) -> list[list[Any]]:
    """Lines that were replaced: each new one beside the old one that it resembles most, if any does."""
    left, found = list(gone), []
    for j in came:
        likeness = {i: difflib.SequenceMatcher(None, before[i], after[j]).ratio() for i in left}
        i = max(likeness, key=likeness.get, default=None)
        if i is None or likeness[i] < SIMILAR:
            found.append(["+", j])
            continue
        left.remove(i)
        found.append(["~", i, j, _spans(before[i], after[j])])
    return [["-", i] for i in left] + found


def _spans(old: str, new: str) -> list[list[str]]:
    """The two lines as runs of words that stayed, went and came."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    spans = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            spans.append(["=", "".join(after[j1:j2])])
            continue
        spans += [["-", "".join(before[i1:i2])]] if i2 > i1 else []
        spans += [["+", "".join(after[j1:j2])]] if j2 > j1 else []
    return spans


@dataclass(frozen=True)
class Place:
    """Where a prompt stands in the drawing: its step from left to right, its lane from top to bottom."""

    step: int
    lane: int


def places(prompts: Sequence[Prompt], gap: int) -> dict[int, Place]:
    """A place for each prompt, oldest first: a child goes on in its first parent's lane if that parent is the last there, else
    in the nearest other lane in which nobody was born since that parent was, so that no line runs behind prompts of its lane;
    beyond MAX_LANES in the nearest that is free. In a lane, neighbours are at least `gap` steps apart."""
    ends: list[Prompt] = []  # the last prompt in each lane
    found: dict[int, Place] = {}
    for prompt in prompts:
        first = prompt.parents[0] if prompt.parents else None
        home = found[first].lane if first in found else 0
        since = found[first].step if first in found else prompt.born
        free = [lane for lane, last in enumerate(ends) if last.id == first or (lane != home and last.born <= since)]
        if not free and len(ends) >= MAX_LANES:
            free = [lane for lane in range(len(ends)) if lane != home]
        free = [lane for lane in free if ends[lane].born + gap <= prompt.born]
        lane = min(free, key=lambda lane: (abs(lane - home), lane), default=len(ends))
        ends[lane : lane + 1] = [prompt]
        found[prompt.id] = Place(prompt.born, lane)
    return found


def children(population: Population) -> dict[int, list[int]]:
    """The ids of each prompt's children."""
    found: dict[int, list[int]] = {prompt.id: [] for prompt in population.prompts}
    for prompt in population.prompts:
        for parent in prompt.parents:
            found[parent].append(prompt.id)
    return found


def record_of(matches: Sequence[Match]) -> Mapping[int, tuple[int, int]]:
    """prompt id -> (matches that it was first or equal first in, matches)."""
    found: dict[int, tuple[int, int]] = {}
    for match in matches:
        for prompt_id, rank in zip(match.prompt_ids, match.ranks):
            won, played = found.get(prompt_id, (0, 0))
            found[prompt_id] = (won + (rank == 0), played + 1)
    return found
