"""Where the lines of a prompt come from, by records made by hand, and by those of a run."""

import pytest

from espl_jax import prompts
from espl_jax.records import artifacts
from espl_jax.records.origins import lines, oldest_with, origins
from espl_jax.structs import Genome, Population, Prompt, Rating
from tests import tiny_run


def prompt(i, parents, operator, born, *principles):
    return Prompt(i, Genome("principles", principles), Rating(25.0, 8.0), parents, operator, born)


# 1 adds "a", 2 modifies it to "b", 3 is a person's, 4 crosses 2 with 3, 5 adds a line with another's help.
POPULATION = Population((
    prompt(0, (), "root", 0, "told"),
    prompt(1, (0,), "mutation", 1, "told", "a"),
    prompt(2, (1,), "mutation", 3, "told", "b"),
    prompt(3, (0,), "human", 3, "told", "mine"),
    prompt(4, (2, 3), "crossover", 4, "told", "b", "mine", "c"),
))  # fmt: skip


def edit(op, text, fate="applied"):
    return {"op": op, "targets": [], "text": text, "search": "", "evidence": "", "fate": fate}


def call(stage, problem_id, *operations):
    return {"stage": stage, "problem_id": problem_id, "operations": list(operations)}


def reflection(child, *calls):
    return {"operator": "", "parents": [], "calls": list(calls), "child": child and {"id": child}, "reason": ""}


@pytest.fixture
def workdir(tmp_path):
    steps = {
        1: [reflection(1, call("critique", "p1", edit("add", "a"), edit("add", "b", "repeats G0")))],
        3: [
            reflection(None, call("critique", "p9", edit("add", "b"))),
            reflection(2, call("critique", "p2", edit("add", "b, but longer")), call("consolidation", "", edit("modify", "b"))),
        ],
        4: [reflection(4, call("crossover", "", edit("add", "c")))],
    }
    for step, rows in steps.items():
        artifacts.write_step(tmp_path, step, {"reflections.jsonl": rows})
    return tmp_path


def test_a_line_is_followed_to_the_forebear_that_first_had_it(workdir):
    found = {one.line: one for one in origins(workdir, POPULATION, POPULATION[4])}
    assert {line: one.prompt.id for line, one in found.items()} == {"told": 0, "b": 2, "mine": 3, "c": 4}
    assert str(found["told"]) == "prompt 0, step 0, root"
    assert str(found["b"]) == "prompt 2, step 3, mutation of 1: modify, by the consolidation"
    assert str(found["mine"]) == "prompt 3, step 3, human"
    assert str(found["c"]) == "prompt 4, step 4, crossover of 2, 3: add, by the crossover"
    [_, first] = origins(workdir, POPULATION, POPULATION[1])
    assert str(first) == "prompt 1, step 1, mutation of 0: add, by the critique of problem p1"


def test_a_line_that_was_lost_and_written_anew_is_the_later_ones():
    again = prompt(5, (2,), "mutation", 6, "a")
    assert oldest_with(Population((*POPULATION.prompts, again)), again, "a").id == 5


def test_a_document_has_the_lines_that_say_something():
    assert lines(Genome("document", document="# Head\n\n  one \n")) == ["# Head", "one"] and lines(Genome("principles")) == []


def test_every_line_that_a_run_wrote_is_traced_to_an_edit(tiny_qwen3, tmp_path):
    state = tiny_run.run(tiny_qwen3, tmp_path / "run", num_steps=6, **{"evaluation.every": 0})
    written = [prompt for prompt in state.population.prompts if prompt.parents]
    assert written, "no child was born in 6 steps; the test needs another seed"
    for child in written:
        found = origins(tmp_path / "run", state.population, child)
        assert [one.line for one in found] == list(child.genome.principles)
        assert all(one.op and one.stage and one.prompt.operator in ("mutation", "crossover") for one in found)
        shown = prompts._origins(str(tmp_path / "run"), [str(child.id)])
        assert shown.count(": add, by the critique of problem ") + shown.count("modify") >= 1
