"""What the package gepa is answered, without a model."""

import pytest

from espl_jax import config as configs
from espl_jax.baselines import gepa_run
from espl_jax.baselines.gepa_adapter import COMPONENT, Adapter, Outcome, Reflector, feedback
from espl_jax.baselines.gepa_replay import Recorded, ReplayError
from espl_jax.records import artifacts
from espl_jax.structs import Grade, Problem, Task, text_id
from espl_jax.tasks.grading import Inline
from experiments import base

PROBLEMS = tuple(Problem(text_id(f"{n} + {n}?"), f"{n} + {n}?", str(2 * n)) for n in range(6))
TASK = Task("sums", PROBLEMS, (), (), lambda p: f"What is {p.question}", Inline(lambda *_: Grade(1.0)), "Add.")


def test_feedback_says_what_was_wrong_and_what_is_right():
    problem = PROBLEMS[3]
    assert feedback(Outcome(problem, "6", 1.0, "")) == "Right."
    assert feedback(Outcome(problem, "7", 0.0, "")) == "Wrong. The right answer is: 6"
    assert feedback(Outcome(problem, "?", 0.25, "no number")) == (
        "Worth 0.25 of 1. The grader says: no number. The right answer is: 6"
    )


def test_the_adapter_gives_scores_and_what_to_reflect_on():
    asked = []

    def solve(text, problems):
        asked.append((text, [problem.answer for problem in problems]))
        return [Outcome(problem, "one two three four", float(problem.answer == "2"), "") for problem in problems]

    adapter = Adapter(solve, TASK, max_words=2)
    found = adapter.evaluate(list(PROBLEMS[:2]), {COMPONENT: "Count."}, capture_traces=True)
    assert asked == [("Count.", ["0", "2"])] and found.scores == [0.0, 1.0] and found.num_metric_calls is None
    records = adapter.make_reflective_dataset({COMPONENT: "Count."}, found, [COMPONENT])[COMPONENT]
    assert [record["Feedback"] for record in records] == ["Wrong. The right answer is: 0", "Right."]
    assert records[0]["Inputs"] == "What is 0 + 0?" and records[0]["Generated Outputs"].startswith("one\n[... 2 words left out")
    assert adapter.evaluate([PROBLEMS[0]], {COMPONENT: "Count."}).trajectories is None


def test_the_reflector_takes_a_text_or_messages():
    reflect = Reflector(str.upper)
    assert reflect("ask") == "ASK" and reflect([{"role": "user", "content": "ask"}]) == "ASK"


def test_both_sets_are_parts_of_the_training_problems():
    config = base.get_config()
    feedback_set, pareto = gepa_run.split(TASK, config)
    assert len(pareto) == 3 and sorted(p.id for p in (*feedback_set, *pareto)) == sorted(p.id for p in PROBLEMS)
    config.gepa.num_pareto = 5
    assert len(gepa_run.split(TASK, config)[0]) == 1
    config.gepa.num_pareto = 6
    with pytest.raises(configs.ConfigError, match="gepa.num_pareto is 6, of 6 training problems"):
        gepa_run.split(TASK, config)


def test_an_evaluation_is_due_after_as_many_replies_as_espls_steps_ask_for():
    config = base.get_config()
    config.evaluation.every, config.evolution.num_prompts, config.task.num_problems, config.task.num_samples = 2, 2, 3, 4

    def due(before, after):
        return gepa_run.due(config, 1, *({gepa_run.REQUESTS: float(count)} for count in (before, after)))

    assert [due(0, 47), due(40, 48), due(48, 60), due(90, 200)] == [False, True, False, True]
    assert gepa_run.due(config, config.num_steps, {}, {gepa_run.REQUESTS: 1.0})


def records(workdir, problems=PROBLEMS[:2], prompt="reflect on this"):
    rows = [{"problem": problem.id, "text": "t", "reward": 0.5, "note": ""} for problem in problems]
    call = {"chat": {"messages": [{"role": "user", "content": prompt}]}, "reply": {"text": "new"}}
    artifacts.write_step(workdir, 1, {"rollouts.jsonl": rows, "reflections.jsonl": [{"calls": [call]}]})
    return Recorded(workdir, last=1)


def test_recorded_answers_are_given_again_in_their_order(tmp_path):
    recorded = records(tmp_path)
    assert recorded.begin(1)
    assert [one.problem for one in recorded.outcomes("rollouts.jsonl", PROBLEMS[:1])] == [PROBLEMS[0]]
    assert recorded.outcomes("rollouts.jsonl", PROBLEMS[1:2]) == [Outcome(PROBLEMS[1], "t", 0.5, "")]
    assert recorded.reply("reflect on this") == "new"
    assert not recorded.begin(2)


@pytest.mark.parametrize(
    "ask",
    [
        lambda recorded: recorded.outcomes("rollouts.jsonl", PROBLEMS[1:3]),
        lambda recorded: recorded.outcomes("rollouts.jsonl", PROBLEMS[:3]),
        lambda recorded: recorded.reply("reflect on that"),
        lambda recorded: recorded.begin(2),
    ],
)
def test_a_package_that_asks_for_something_else_is_refused(tmp_path, ask):
    recorded = records(tmp_path)
    recorded.begin(1)
    with pytest.raises(ReplayError, match="asks for something else"):
        ask(recorded)
