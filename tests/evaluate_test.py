"""Held-out evaluation: pass@k against counting, which prompt, and which sets are sampled how often."""

import dataclasses
import itertools

import numpy as np
import pytest

from espl_jax import config as configs
from espl_jax import evaluate as evaluation
from espl_jax.evaluate import NO_PROMPT, choose_prompt, evaluate, pass_at_k, pass_metrics, rated_set
from espl_jax.policy.chat import Tokenizer
from espl_jax.policy.state import make_policy, open_model
from espl_jax.rollout import sample
from espl_jax.structs import Completion, Genome, Grade, Population, Problem, Prompt, Rating, Task, text_id
from espl_jax.tasks.grading import Inline
from experiments import base
from tests.tiny_run import tiny_config


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(n):
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [1] * correct + [0] * (n - correct)
        subsets = list(itertools.combinations(samples, k))
        assert pass_at_k(correct, n, k) == pytest.approx(sum(any(s) for s in subsets) / len(subsets), abs=1e-12)


def test_pass_metrics_by_hand():
    """1 of 4, 2 of 4, none: means over problems; a partial reward is no pass but counts as reward."""
    rewards = np.float32([[1, 0, 0, 0], [1, 0, 1, 0.5], [0, 0.5, 0, 0]])
    ours = pass_metrics(rewards, "validation")
    expected = {
        "validation/pass@1": (1 / 4 + 2 / 4) / 3,
        "validation/pass@2": (1 / 2 + 5 / 6) / 3,
        "validation/pass@3": (3 / 4 + 1) / 3,
        "validation/pass@4": 2 / 3,
        "validation/reward": 4 / 12,
    }
    assert ours == pytest.approx(expected)


def prompt(i, mu, *principles):
    return Prompt(i, Genome("principles", principles), Rating(mu, 1.0), (), "root", 0)


POPULATION = Population((prompt(0, 30.0), prompt(1, 28.0, "Count."), prompt(2, 25.0, "Check.")), retired=frozenset([0]))


def test_the_prompt_that_evaluation_uses():
    assert choose_prompt(POPULATION, "best").id == 1, "0 has retired"
    assert choose_prompt(POPULATION, "newest").id == 2
    assert choose_prompt(POPULATION, "none") is NO_PROMPT
    assert choose_prompt(POPULATION, "0").id == 0
    with pytest.raises(KeyError, match="no prompt has the id 7"):
        choose_prompt(POPULATION, "7")


def problems(name, count):
    questions = [f"{name} {i}" for i in range(count)]
    return tuple(Problem(text_id(question), question, str(i % 2)) for i, question in enumerate(questions))


RIGHT = Inline(lambda problem, text: Grade(float(text == problem.answer), text))
TASK = Task("toy", problems("a", 1), problems("v", 3), problems("t", 2), lambda p: f"{p.question}?", RIGHT, "")


class Parrot:
    """A policy that writes "1", or "0" under a prompt, ends the last request first, and remembers what it was asked."""

    def __init__(self, directory):
        self.tokenizer = Tokenizer(directory, {})
        self.asked = []

    def sampler(self, variables, requests, on_done):
        self.asked.append(requests)
        replies = ["0" if "Count" in self.tokenizer.decode(request.tokens) else "1" for request in requests]
        completions = [self.completion(request, reply) for request, reply in zip(requests, replies)]
        for i in reversed(range(len(requests))):
            on_done(i, completions[i])
        return completions

    def completion(self, request, reply):
        tokens = np.append(self.tokenizer.encode(reply), self.tokenizer.stop_ids[0]).astype(np.int32)
        return Completion(request.id, tokens, *[np.zeros(len(tokens), np.float32)] * 3, "stop")


@pytest.fixture
def parrot(tiny_qwen3):
    return Parrot(tiny_qwen3)


def run(parrot, population=POPULATION, **changes):
    config = base.get_config()
    config.evaluation.update(num_samples=2, temperature=0.8, top_p=0.9, max_new_tokens=7)
    config.evaluation.update(changes)
    return evaluate(parrot, {}, population, TASK, 5, config)[:2]


def test_every_set_is_sampled_with_and_without_the_prompt(parrot):
    metrics, transcripts = run(parrot)
    assert list(transcripts) == ["validation", "validation_no_prompt", "test", "test_no_prompt"]
    assert [len(requests) for requests in parrot.asked] == [6 + 6 + 4 + 4]
    assert metrics["evaluation/prompt"] == 1
    assert metrics["validation/pass@1"] == pytest.approx(2 / 3), "answers 0, 1, 0"
    assert metrics["validation_no_prompt/pass@2"] == pytest.approx(1 / 3)
    assert metrics["test/pass@1"] == metrics["test_no_prompt/pass@1"] == 1 / 2
    rollouts = transcripts["validation"]
    assert rollouts.prompt_ids == (1,) and rollouts.problems == TASK.validation and set(rollouts.texts) == {"0"}
    np.testing.assert_array_equal(rollouts.rewards_PQG, [[[1, 1], [0, 0], [1, 1]]])


def test_requests_carry_the_settings_and_a_counter_of_their_own(parrot):
    run(parrot)
    (requests,) = parrot.asked
    assert len({request.counter for request in requests}) == len(requests) == 20
    assert {(r.temperature, r.top_p, r.max_new_tokens) for r in requests} == {(0.8, 0.9, 7)}
    validation, test = requests[0].counter, requests[12].counter
    assert validation[:3] == (2, 5, 1) and test[:3] == (3, 5, 1), "purpose, step, prompt"
    assert "v 0?" in parrot.tokenizer.decode(requests[0].tokens)
    assert "Count." in parrot.tokenizer.decode(requests[0].tokens)
    assert "Count." not in parrot.tokenizer.decode(requests[6].tokens)


def test_an_empty_prompt_is_not_sampled_twice(parrot):
    metrics, transcripts = run(parrot, Population((prompt(0, 25.0),)))
    assert list(transcripts) == ["validation", "test"] and [len(requests) for requests in parrot.asked] == [6 + 4]
    assert metrics["validation_no_prompt/pass@1"] == metrics["validation/pass@1"] == pytest.approx(1 / 3)


def test_test_and_the_run_without_a_prompt_are_optional(parrot):
    metrics, transcripts = run(parrot, test=False, without_prompt=False)
    assert list(transcripts) == ["validation"]
    assert {name.split("/")[0] for name in metrics} == {"evaluation", "validation"}


def test_an_empty_set_is_left_out(parrot):
    task = Task("toy", TASK.train, TASK.validation, (), TASK.question, RIGHT, "")
    metrics, transcripts, _ = evaluate(parrot, {}, POPULATION, task, 0, base.get_config())
    assert list(transcripts) == ["validation", "validation_no_prompt"] and "test/pass@1" not in metrics


def test_further_sets_come_with_test_and_rulebooks_where_they_are(parrot):
    """A rulebook of its own each; what the chosen prompt knows is measured; without test none but validation is asked."""
    task = dataclasses.replace(
        TASK,
        further={"swap": problems("s", 2)},
        rulebooks={"validation": Genome("principles", ("Count to the end.",)), "swap": Genome("principles", ("Guess.",))},
        measure=lambda genome: {"evolution/rules_known": float(len(genome.principles))},
    )
    metrics, transcripts, _ = evaluate(parrot, {}, POPULATION, task, 0, base.get_config())
    assert list(transcripts) == [
        "validation", "validation_no_prompt", "validation_rulebook", "test", "test_no_prompt", "swap", "swap_no_prompt",
        "swap_rulebook",
    ]  # fmt: skip
    assert metrics["evolution/rules_known"] == 1.0
    assert metrics["validation_rulebook/pass@1"] == pytest.approx(2 / 3), "under Count: answers 0, 1, 0"
    assert metrics["swap_rulebook/pass@1"] == metrics["swap_no_prompt/pass@1"] == pytest.approx(1 / 2)
    (requests,) = parrot.asked
    assert len({request.counter for request in requests}) == len(requests)
    config = base.get_config()
    config.evaluation.test = False
    _, transcripts, _ = evaluate(parrot, {}, Population((prompt(0, 25.0),)), task, 0, config)
    assert list(transcripts) == ["validation", "validation_rulebook"]


def test_rated_prompts_are_asked_about_test_in_the_same_call_but_the_chosen_one_not_twice(parrot):
    """The chosen prompt, 1, is rated too; 0 and 2 come in their order, and the transcripts are the chosen prompt's alone."""
    config = base.get_config()
    config.evaluation.update(num_samples=2, without_prompt=False)
    _, before, nothing = evaluate(parrot, {}, POPULATION, TASK, 5, config)
    _, transcripts, [others] = evaluate(parrot, {}, POPULATION, TASK, 5, config, POPULATION.prompts)
    assert nothing == [] and [len(requests) for requests in parrot.asked] == [6 + 4, 6 + 3 * 4]
    assert others.prompt_ids == (0, 2) and others.problems == TASK.test and others.texts == ("1",) * 8
    assert len({request.counter for request in parrot.asked[1]}) == 18
    assert {name: (found.prompt_ids, found.texts) for name, found in transcripts.items()} == {
        name: (found.prompt_ids, found.texts) for name, found in before.items()
    }
    assert (rated_set(TASK, config), rated_set(dataclasses.replace(TASK, test=()), config)) == ("test", "validation")
    config.evaluation.test = False
    [others] = evaluate(parrot, {}, POPULATION, TASK, 5, config, POPULATION.prompts[2:])[2]
    assert rated_set(TASK, config) == "validation" and others.problems == TASK.validation and others.prompt_ids == (2,)
    assert evaluate(parrot, {}, POPULATION, TASK, 5, config, POPULATION.prompts[1:2])[2] == []


def test_one_call_draws_what_separate_calls_draw(tiny_qwen3, monkeypatch):
    """Sets share slots, prefixes and rows of the cache, and nothing else."""
    config = configs.resolve(tiny_config(tiny_qwen3, **{"task.name": "toy", "evaluation.test": True}))
    policy, state = make_policy(config, *open_model(config))
    variables = policy.variables(state.trainable)
    together, transcripts, _ = evaluate(policy, variables, POPULATION, TASK, 3, config)

    def one_by_one(policy, variables, plans, grader):
        return [rollouts for plan in plans for rollouts in sample(policy, variables, [plan], grader)]

    monkeypatch.setattr(evaluation, "sample", one_by_one)
    apart, separate, _ = evaluate(policy, variables, POPULATION, TASK, 3, config)
    assert together == apart and list(transcripts) == list(separate) and len(transcripts) == 4
    for name, rollouts in transcripts.items():
        assert rollouts.texts == separate[name].texts
        for ours, theirs in zip(rollouts.completions, separate[name].completions):
            np.testing.assert_array_equal(ours.tokens, theirs.tokens)
            np.testing.assert_allclose(ours.behavior, theirs.behavior, atol=1e-5)
