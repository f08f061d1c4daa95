"""Principles are followed to the oldest prompt that has them, and to the reply that stated them."""

import json
from dataclasses import replace

from espl_jax.comparison.origins import origins
from espl_jax.structs import Genome, Population, Prompt, Rating

RATING = Rating(25.0, 8.0)


def prompt(number, lines, parents=(), operator="mutation", born=0):
    return Prompt(number, Genome("principles", tuple(lines)), RATING, parents, operator, born)


# 0 -> 1 (step 1: A by a critique, then B by consolidation) -> 2 (step 4: C by another critique); 3: crossover of 2 and 0, D
POPULATION = Population((
    prompt(0, ["Given."], operator="root"),
    prompt(1, ["Given.", "A a.", "B."], (0,), born=1),
    prompt(2, ["Given.", "A  a.", "B.", "C."], (1,), born=4),
    prompt(3, ["B.", "D.", "Nobody said this."], (0, 2), "crossover", born=5),
))  # fmt: skip


def call(stage, problem, *operations):
    made = [{"op": "add", "targets": [], "text": text, "fate": fate} for text, fate in operations]
    return {"stage": stage, "problem_id": problem, "operations": made}


def record(workdir, step, *attempts):
    folder = workdir / "steps" / f"{step:06d}"
    folder.mkdir(parents=True)
    rows = [{"child": None if child is None else {"id": child}, "calls": calls} for child, calls in attempts]
    (folder / "reflections.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def reflections(workdir):
    first = [
        call("critique", "p1", ("A a.", "applied"), ("B.", "repeats G0")),
        call("critique", "p2", ("B0.", "applied"), ("B1.", "applied")),
        call("consolidation", "", ("B.", "applied")),
    ]
    record(workdir, 1, (None, [call("critique", "p9", ("A a.", "applied"))]), (1, first))
    record(workdir, 4, (2, [call("critique", "p3", ("C.", "applied"))]))
    record(workdir, 5, (3, [call("crossover", "", ("D.", "applied"))]), (4, [call("critique", "p4", ("D.", "applied"))]))


def test_each_principle_leads_to_the_reply_that_stated_it(tmp_path):
    reflections(tmp_path)
    told = [one.told for one in origins(tmp_path, POPULATION, POPULATION[2])]
    assert told == ["root", "step 1, critique of p1", "step 1, consolidation", "step 4, critique of p3"]
    assert [one.prompt for one in origins(tmp_path, POPULATION, POPULATION[2])] == [0, 1, 1, 2]


def test_a_line_of_parents_ends_where_none_has_the_principle(tmp_path):
    reflections(tmp_path)
    told = [one.told for one in origins(tmp_path, POPULATION, POPULATION[3])]
    assert told == ["step 1, consolidation", "step 5, crossover", "step 5, crossover"], "unsaid: the operator alone is known"


def test_a_document_and_lost_records_say_what_they_can(tmp_path):
    document = replace(POPULATION[3], genome=Genome("document", document="B."))
    assert origins(tmp_path, POPULATION, document) == ()
    assert [one.told for one in origins(tmp_path, POPULATION, POPULATION[2])][1] == "step 1, mutation"
