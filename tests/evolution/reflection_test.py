import json

import numpy as np
import pytest

from espl_jax.evolution.forms import edit_chat
from espl_jax.evolution.guards import Library
from espl_jax.evolution.mutation import mutate
from espl_jax.evolution.reflection import best_prompt, drop_echoes, reflection_metrics, reflection_to_json
from espl_jax.structs import Operation, Reflection
from tests.evolution.scripted import by_stage, config, population, principles, problem, rollouts

PROBLEMS = [problem("What is 7 + 5?", "12"), problem("What is 31 + 9?", "40")]


def reflect() -> Reflection:
    """4 summaries, one cut off; 2 critiques, one without JSON; 3 operations, 1 applied; a child."""
    items = '[{"op": "add", "principle": "Carry the tens."}, {"op": "add"}, {"op": "remove", "id": 0}]'
    answers = {PROBLEMS[0].id: items, PROBLEMS[1].id: "no idea"}
    editor = by_stage(
        summary=lambda chat: ("half", "length") if chat.id.endswith("/0") and PROBLEMS[0].id in chat.id else "whole",
        critique=lambda chat: answers[chat.id.rsplit("/")[-1]],
    )
    samples = rollouts((0,), PROBLEMS, [[[1, 0], [0, 1]]])
    state = population(principles("Check."))
    return mutate(state, samples, 0, 3, "Sums.", editor, config(), np.random.default_rng(0), Library(()))


def test_metrics_count_what_became_of_everything():
    unborn = Reflection("crossover", (0,), (), reason="no winner")
    found = reflection_metrics([reflect(), unborn])
    rejected = {name: found.pop(name) for name in list(found) if name.startswith("evolution/rejected_")}
    assert {name: value for name, value in rejected.items() if value} == {
        "evolution/rejected_empty": 1 / 3,
        "evolution/rejected_malformed": 1 / 3,
    }
    assert found == {
        "evolution/reflections": 2.0,
        "evolution/children": 1.0,
        "evolution/calls": 6.0,
        "evolution/prompt_tokens": 600.0,
        "evolution/generated_tokens": 60.0,
        "evolution/replies_cut_off": 1.0,
        "evolution/replies_unparseable": 1.0,
        "evolution/operations_proposed": 3.0,
        "evolution/operations_applied": 1.0,
    }


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        ("Do not repeat names of this problem or its answer.", "repeats the request"),
        ("Write one sentence of NEW advice for the student!", "repeats the request"),
        ("Do not repeat the search; read its answer.", ""),
        ("Write one sentence for the student.", ""),
    ],
)
def test_advice_that_is_the_request_is_dropped(text, fate):
    chat = edit_chat("c", "document_critique", config(edit_form="sentence"), question="q", attempts="a", document="d", task="t")
    [judged] = drop_echoes([Operation("add", (), text)], chat)
    assert judged.fate == fate
    [dropped] = drop_echoes([Operation("add", (), text, fate="has no text")], chat)
    assert dropped.fate == "has no text"


def test_metrics_of_nothing_have_the_same_names():
    assert reflection_metrics([]).keys() == reflection_metrics([reflect()]).keys()
    assert set(reflection_metrics([]).values()) == {0.0}


def test_the_record_holds_everything_and_is_json():
    record = json.loads(json.dumps(reflection_to_json(reflect())))
    assert [call["stage"] for call in record["calls"]] == ["summary"] * 4 + ["critique"] * 2
    assert record["calls"][0]["error"] and "text of prompt 0" in record["calls"][0]["chat"]["messages"][0]["content"]
    assert [operation["fate"] for operation in record["calls"][4]["operations"]] == [
        "applied",
        "has no text",
        "the operation 'remove' is not allowed here",
    ]
    assert record["calls"][5]["reply"]["text"] == "no idea" and "no JSON" in record["calls"][5]["error"]
    assert record["child"]["genome"]["principles"] == ["Check.", "Carry the tens."] and record["reason"] == ""


def test_best_prompt_is_the_first_of_the_highest_mean():
    assert best_prompt(rollouts((5, 3, 8), PROBLEMS, [[[0, 1], [0, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 1]]])) == 3
