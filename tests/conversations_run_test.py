"""Conversations of a tiny model with a calculator: whatever its latency, the same tokens; what is learned from; whole runs."""

import dataclasses
import json
import threading
from unittest import mock

import numpy as np
import pytest

from espl_jax import config as configs
from espl_jax import rollout, tasks, train
from espl_jax.conversations import as_text
from espl_jax.fingerprint import fingerprint
from espl_jax.policy import weights
from espl_jax.policy.advantages import advantages, with_signal
from espl_jax.policy.hf_config import read_spec
from espl_jax.policy.sampler import Sampler
from espl_jax.policy.state import make_policy, open_model
from espl_jax.policy.update import make_updater
from espl_jax.structs import Ended, Genome, Prompt, Rating
from tests.tiny import random_params
from tests.tiny_environment import Calculator, calculator_task, naps
from tests.tiny_run import tiny_config

PROMPTS = [
    Prompt(i, Genome("principles", rules), Rating(25.0, 8.0), (), "root", 0) for i, rules in enumerate([(), ("Be brief.",)])
]


@pytest.fixture(scope="module")
def config(tiny_qwen3, tmp_path_factory):
    """A model of one layer: compiling is what takes time here."""
    directory = tmp_path_factory.mktemp("one") / "layer"
    spec = dataclasses.replace(read_spec(tiny_qwen3), num_layers=1)
    params = random_params(spec, 0)
    params["head"][2] *= 5.0  # replies end now and then
    weights.save(directory, spec, params, tiny_qwen3, np.float32)
    config = tiny_config(directory, **{"sampling.top_p": 0.95, "sampling.temperature": 0.7, "sampling.max_new_tokens": 150})
    config.sampling.update(prefill_tokens=128, prefill_chunk=32)
    config.rl.update(micro_batch_tokens=4096)
    config.tools.update(max_turns=3, max_turn_tokens=24)
    config.model.max_length = 320
    return config


@pytest.fixture(scope="module")
def policy_of(config):
    """{lora_rank: (policy, state)}"""
    made = {}
    for rank in (4, 0):
        changed = config.copy_and_resolve_references()
        changed.rl.lora_rank = rank
        made[rank] = make_policy(changed, *open_model(changed))
    return made


def rollouts_of(config, policy, variables, environment, step=1):
    build = calculator_task(environment)
    task = build(config.task, 0, config.tools)
    plan = rollout.plan_groups(
        policy.tokenizer, PROMPTS, task.train[:3], 4, config.sampling, "rollout", step, task, "system", config.tools
    )
    [rollouts] = rollout.sample(policy, variables, [plan], task.grader)
    return rollouts


def changed(config, **tools):
    config = config.copy_and_resolve_references()
    config.tools.update(tools)
    return config


def with_slots(policy, config, slots):
    decoding = config.sampling.copy_and_resolve_references()
    decoding.batch_size = slots
    old = policy.sampler
    sampler = Sampler(old.model, policy.mesh, old.stop_ids, config.seed, decoding, old.max_length)
    return dataclasses.replace(policy, sampler=sampler)


def assert_same(ours, expected, tolerance):
    assert ours.texts == expected.texts and ours.conversations == expected.conversations and ours.grades == expected.grades
    for a, b in zip(ours.completions, expected.completions, strict=True):
        assert a.finish == b.finish and np.array_equal(a.tokens, b.tokens) and np.array_equal(a.own, b.own)
        for name in ("behavior", "tempered", "untempered"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def quick(config, policy_of):
    """What tools that take no time give."""
    policy, state = policy_of[4]
    return rollouts_of(config, policy, policy.variables(state.trainable), Calculator())


def test_a_tiny_model_holds_conversations_of_every_kind(quick, config):
    finishes = {completion.finish for completion in quick.completions}
    turns = [sum(message.role == "assistant" for message in each) for each in quick.conversations]
    assert finishes == {"stop", "length", "turns"} and set(turns) == {1, 2, 3}
    for completion, messages, text in zip(quick.completions, quick.conversations, quick.texts):
        assert np.abs(completion.behavior[completion.own]).max() > 0 and not completion.behavior[~completion.own].any()
        assert len(completion.tokens) <= 150 and text == as_text(messages[1:])


@pytest.mark.parametrize("ahead, slots, tolerance", [(1, 8, 0.0), (0, 8, 1e-5), (2, 3, 1e-5)])
def test_no_token_depends_on_latency_order_or_slots(config, policy_of, quick, ahead, slots, tolerance):
    """And no bit of a log-probability, where answers join at a fixed time."""
    policy, state = policy_of[4]
    if slots != 8:
        policy = with_slots(policy, config, slots)
    environment = Calculator(naps(ahead + slots, 0.05))
    ours = rollouts_of(changed(config, ahead=ahead), policy, policy.variables(state.trainable), environment)
    assert_same(ours, quick, tolerance)


def test_a_slow_tool_holds_up_nobody_else(config, policy_of, quick):
    """The first call ever is answered when all other conversations are over: without them going on it never would be."""
    total, over, first = len(quick.completions), [], threading.Event()
    enough = threading.Semaphore(0)

    class Slow(Calculator):
        def step(self, problem, messages):
            mine = not first.is_set()
            first.set()
            if mine:
                for _ in range(total - 1):
                    assert enough.acquire(timeout=60), "the others wait"
            answer = super().step(problem, messages)
            if isinstance(answer, Ended):
                enough.release()
            over.append(problem)
            return answer

        def cut(self, problem, messages, finish):
            enough.release()
            return super().cut(problem, messages, finish)

    policy, state = policy_of[4]
    ours = rollouts_of(changed(config, ahead=0), policy, policy.variables(state.trainable), Slow())
    assert_same(ours, quick, 1e-5)


@pytest.mark.parametrize("rank", [4, 0], ids=["lora", "full"])
def test_sampler_and_trainer_agree_on_what_the_policy_drew(config, policy_of, rank):
    """Before and after an update; nothing but own tokens is trained on."""
    config = config.copy_and_resolve_references()
    config.rl.lora_rank = rank
    policy, state = policy_of[rank]
    update = make_updater(policy, state, config)
    for step in (1, 2):
        rollouts = rollouts_of(config, policy, policy.variables(state.trainable), Calculator(), step)
        advantages_PQG = advantages(rollouts.rewards_PQG, "prompt", normalize_std=False)
        keep_PQ = with_signal(advantages_PQG)
        used = [rollouts.completions[rollouts.index(*at)] for at in np.ndindex(2, 3, 4) if keep_PQ[at[:2]]]
        assert used and any(not completion.own.all() for completion in used)
        state, learned = update(state, rollouts, advantages_PQG, keep_PQ, np.random.default_rng(0))
        metrics = learned()
        assert metrics["tokens/trained"] == sum(completion.own.sum() for completion in used)
        assert 0 < metrics["policy/logprob_gap"] <= metrics["policy/logprob_gap_max"] < 1e-4
        assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-4)


# -- a whole run -------------------------------------------------------------------------------------------------------


def run(config, workdir, environment, **changes):
    config = config.copy_and_resolve_references()
    lengths = {"model.max_length": 1024, "evaluation.max_new_tokens": 100, "evolution.max_trajectory_words": 20}
    config.update_from_flattened_dict({"task.name": "calculator"} | lengths | changes)
    with mock.patch.dict(tasks.TASKS, calculator=calculator_task(environment)):
        return train.run(config, workdir)


def test_a_run_of_conversations_records_them_and_goes_on_exactly(config, tmp_path):
    run(config, tmp_path / "whole", Calculator(), num_steps=2)
    run(config, tmp_path / "parts", Calculator(naps(0, 0.05)), num_steps=1)
    run(config, tmp_path / "parts", Calculator(naps(1, 0.05)), num_steps=2)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")

    every = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    metrics = every[2]
    folder = tmp_path / "whole" / "steps" / "000002"
    rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    held_out = [json.loads(line) for line in (folder / "evaluation_validation.jsonl").read_text().splitlines()]
    for row in rows + held_out:
        assert [turn["role"] for turn in row["messages"]][:2] == ["user", "assistant"]
        replies = [turn for turn in row["messages"] if turn["role"] == "assistant"]
        assert len(replies) <= 3 and (row["tool_tokens"] > 0) == (len(replies) > 1) and row["tokens"] > 0
    count = len(rows)
    turns = sum(turn["role"] == "assistant" for row in rows for turn in row["messages"])
    assert metrics["train/turns"] == pytest.approx(turns / count)
    assert metrics["tokens/generated_rollout"] == sum(row["tokens"] for row in rows)
    assert metrics["tokens/tool_rollout"] == sum(row["tool_tokens"] for row in rows)
    assert metrics["train/tool_tokens"] == pytest.approx(metrics["tokens/tool_rollout"] / count)
    finishes = {name: np.mean([row["finish"] == name for row in rows]) for name in ("stop", "length", "turns", "calls")}
    assert {name: metrics[f"train/finish_{name}"] for name in finishes} == pytest.approx(finishes)
    assert metrics["policy/logprob_gap_max"] < 1e-4 and sum(row["tokens/tool_validation"] for row in every) > 0


def test_a_conversation_longer_than_the_model_s_context_is_refused_by_name(config, tmp_path):
    with pytest.raises(configs.ConfigError, match="more than model.max_length=320"):
        run(config, tmp_path, Calculator(), **{"sampling.max_new_tokens": 290, "model.max_length": 320})
