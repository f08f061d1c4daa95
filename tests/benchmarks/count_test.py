"""`benchmarks.iteration --count` on small numbers, by hand."""

import dataclasses

import pytest

from benchmarks import count, iteration, work
from benchmarks.count import Assumptions
from espl_jax.evolution.forms import form_text
from espl_jax.policy.model import ModelSpec
from experiments import beyondaime

SPEC = ModelSpec(
    vocab_size=10, width=4, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=2, mlp_width=5, rope_theta=1e4,
    rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=False, qk_norm=False, max_positions=64,
)  # fmt: skip
BODY, HEAD, SEEN = 16 + 8 + 8 + 16 + 60, 40, 4 * 4
SMALL = Assumptions(
    trajectory_tokens=3, mixed=0.5, problem_words=2, answer_words=1, principles=0, summary_words=4, critique_words=5,
    consolidation_words=6, crossover_words=7, tokens_per_word=1.0,
)  # fmt: skip


@pytest.fixture
def config():
    config = beyondaime.get_config()
    config.evolution.num_prompts, config.task.num_problems, config.task.num_samples = 2, 2, 3
    config.rl.lora_rank = 1
    return config


def test_rollouts_and_update(config):
    prompts, tokens, update = count.rollout_lines(SPEC, config, SMALL, 1, 0.0)
    lora = (4 + 4) * 2 + (4 + 2) * 2 + (4 + 5) * 3
    assert work.lora_weights(SPEC, 1) == lora
    # two problems of two tokens each, shared by six trajectories each
    assert (prompts.calls, prompts.read) == (12, 4)
    assert prompts.flops == 4 * 2 * (BODY + lora) + 2 * SEEN * (1 + 2)
    # of three drawn tokens two are fed again, at positions 2 and 3
    assert tokens.written == 36
    assert tokens.flops == 24 * 2 * (BODY + lora) + 12 * SEEN * (3 + 4) + 36 * 2 * HEAD
    # frozen weights twice, the adapter and attention three times
    attention = 2 * SEEN * 3 + 12 * SEEN * 7
    assert update.flops == 28 * (4 * BODY + 6 * lora) + 3 * attention + 2 * 36 * 2 * HEAD


def test_both_methods_have_as_many_trajectories(config):
    rl, espl = count.count(SPEC, config, SMALL)
    assert [line.calls for line in rl] == [line.calls for line in espl[:3]] == [12, 12, 12]
    assert rl[0].read == 4 and espl[0].read == 8  # each problem once under one prompt, and under two


def test_reflection_calls(config):
    summaries, critiques, consolidation, crossover = count.reflection_lines(SPEC, config, SMALL)
    # half of two problems, with three trajectories
    assert (summaries.calls, critiques.calls, consolidation.calls, crossover.calls) == (3, 1, 1, 0.2)
    assert (summaries.written, critiques.written, consolidation.written) == (12, 5, 6)
    assert crossover.written == pytest.approx(1.4)
    words = count.words
    text = form_text(
        "summary", config.evolution, task=words(40), question=words(2), answer="word", guidance="", grade="wrong",
        attempt=words(3),
    )
    assert summaries.read == 3 * len(text.split())


def test_a_long_trajectory_is_shown_elided(config):
    config.evolution.max_trajectory_words = 100
    shorter = count.reflection_lines(SPEC, config, dataclasses.replace(SMALL, trajectory_tokens=100))[0].read
    assert count.reflection_lines(SPEC, config, dataclasses.replace(SMALL, trajectory_tokens=5000))[0].read == shorter


def test_a_call_reads_its_prompt_and_writes_its_reply():
    line = count.call_line("critiques", SPEC, 2, 3, 2)
    assert (line.read, line.written) == (6, 4)
    assert line.flops == 2 * (2 * BODY * 4 + SEEN * (1 + 2 + 3 + 4) + 2 * 2 * HEAD)


def test_the_table_says_where_the_share_goes(config):
    rl, espl = count.count(SPEC, config, SMALL)
    cells = count.cells(rl, espl)
    assert [row[0] for row in cells if row[1] == "espl"][3:] == [
        "summaries", "critiques", "consolidation", "crossover", "total",
    ]  # fmt: skip
    assert cells[3][0] == "total" and cells[3][-1] == "100.00%"


def test_at_the_authors_settings_evolution_costs_less_than_15_percent(capsys):
    iteration.main(["--count"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert 1.0 < float(last.split()[5]) <= 1.15
