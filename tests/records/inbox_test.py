"""When a run takes in what people wrote."""

import json

import pytest

from espl_jax.evolution.human import Edit
from espl_jax.evolution.population import add_child, root_population
from espl_jax.records import inbox
from espl_jax.records.inbox import Fate
from espl_jax.structs import Genome, Prompt, Rating
from experiments import base

CONFIG = base.get_config().evolution
ROOT = Genome("principles")


def child_of(target, seen, text):
    return Edit("add", target, seen, Genome("principles", (text,)))


def take_in(workdir, population, step):
    population, fates = inbox.carry_out(population, inbox.due(workdir, population, step), step, CONFIG)
    inbox.record(workdir, fates)
    return population


def test_edits_are_taken_in_once_in_the_order_written_and_again_after_the_same_step(tmp_path):
    start = root_population(ROOT, CONFIG)
    first, second = (inbox.write(tmp_path, child_of(0, ROOT, text)) for text in ("One.", "Two."))
    after = take_in(tmp_path, start, 4)
    assert [prompt.genome.principles for prompt in after.prompts[1:]] == [("One.",), ("Two.",)]
    assert inbox.fates(tmp_path) == {first: Fate(4, 1), second: Fate(4, 2)}
    assert take_in(tmp_path, after, 5) == after
    third = inbox.write(tmp_path, child_of(0, ROOT, "Three."))
    assert take_in(tmp_path, after, 6).prompts[3].born == 6
    # The run was killed and goes on from step 3: nothing yet; after step 4 the first two; after step 6 the third.
    assert take_in(tmp_path, start, 3) == start
    assert take_in(tmp_path, start, 4) == after
    assert take_in(tmp_path, after, 6).prompts[3].genome.principles == ("Three.",)
    assert inbox.fates(tmp_path)[third] == Fate(6, 3)


def test_an_edit_waits_for_its_prompt_and_never_lands_on_another(tmp_path):
    start = root_population(ROOT, CONFIG)
    names = [inbox.write(tmp_path, child_of(1, Genome("principles", (seen,)), "New.")) for seen in ("Seen.", "Not seen.")]
    assert take_in(tmp_path, start, 1) == start and inbox.fates(tmp_path) == {}
    child = Prompt(-1, Genome("principles", ("Seen.",)), Rating(25.0, 8.0), (0,), "mutation", 2)
    after = take_in(tmp_path, add_child(start, child, 200)[0], 2)
    assert [prompt.operator for prompt in after.prompts] == ["root", "mutation", "human"]
    fates = inbox.fates(tmp_path)
    assert fates[names[0]] == Fate(2, 2) and "does not say what it said" in fates[names[1]].refused


def test_a_damaged_edit_is_refused_and_the_run_goes_on(tmp_path):
    start = root_population(ROOT, CONFIG)
    inbox.write(tmp_path, child_of(0, ROOT, "Fine."))
    (tmp_path / "edits" / "0.json").write_text("{half")
    (tmp_path / "edits" / "notes.txt").write_text("not an edit")
    assert len(take_in(tmp_path, start, 1).prompts) == 2
    assert "0.json cannot be read" in inbox.fates(tmp_path)["0"].refused


def test_a_damaged_record_of_fates_stops_with_a_remedy(tmp_path):
    inbox.write(tmp_path, child_of(0, ROOT, "Fine."))
    for damaged in ("[", "[]", json.dumps({"x": {"stop": 1}})):
        (tmp_path / "edits" / "taken.json").write_text(damaged)
        with pytest.raises(ValueError, match="taken.json is damaged"):
            inbox.fates(tmp_path)


def test_without_edits_nothing_is_written(tmp_path):
    start = root_population(ROOT, CONFIG)
    assert take_in(tmp_path, start, 0) is start and list(tmp_path.iterdir()) == []
