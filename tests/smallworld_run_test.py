"""The small world from end to end on a tiny model: taught, then run from the adapter, its measures at every evaluation."""

import json

import pytest

from espl_jax import main, sft, tasks
from experiments import smallworld, smallworld_sft
from tests.tiny_run import CACHE

SMALL = {
    "num_steps": 2, "model.adapter": "", "records.compilation_cache": CACHE, "records.tensorboard": False,
    "records.report": False, "evaluation.every": 1, "rl.lora_rank": 4, "rl.head_chunk": 32, "rl.warmup_steps": 0,
}  # fmt: skip
RUN = {
    "task.num_train": 8, "task.num_validation": 2, "task.num_test": 2, "task.num_problems": 2, "task.num_samples": 2,
    "task.world.operations": 4, "task.world.drift": 0.5, "task.world.drift_step": 2, "evolution.max_new_tokens": 24,
    "sampling.max_new_tokens": 16, "sampling.batch_size": 8, "evaluation.max_new_tokens": 16, "evaluation.num_samples": 1,
    "evaluation.every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tiny_qwen3, tmp_path_factory):
    """The run's work directory."""
    folder = tmp_path_factory.mktemp("smallworld")
    taught = smallworld_sft.get_config()
    changes = {"model.path": str(tiny_qwen3), "sft.num_demonstrations": 24, "sft.num_validation": 4, "sft.batch_size": 6}
    taught.update_from_flattened_dict(SMALL | changes)
    sft.run(taught, folder / "sft")
    config = smallworld.get_config()
    config.update_from_flattened_dict(SMALL | RUN | {"model.path": str(tiny_qwen3), "model.adapter": str(folder / "sft")})
    root = folder / "root.txt"
    true, other = tasks.build(config.task, config.seed, config.tools).rulebooks["validation"].principles[:2]
    wrong = other.partition(":")[0] + ": add the two numbers, then add 9."
    root.write_text(f"{true}\n{wrong}\n", encoding="utf-8")
    config.evolution.root = str(root)
    main.by_method(config, folder / "run")
    return folder


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_teaching_lowers_the_loss_on_demonstrations_that_are_held_out(workdir):
    losses = [row["sft/validation_loss"] for row in rows(workdir / "sft" / "metrics.jsonl")]
    assert len(losses) == 3 and losses[-1] < losses[0]
    shown = rows(workdir / "sft" / "steps" / "000000" / "demonstrations.jsonl")
    assert len(shown) == 28 and {row["split"] for row in shown} == {"train", "validation"}


def test_every_set_is_measured_under_no_prompt_the_prompt_and_the_rulebook(workdir):
    before, _, after = rows(workdir / "run" / "metrics.jsonl")
    for row in (before, after):
        sets = {name.partition("/")[0] for name in row if name.endswith("/reward") and not name.startswith("train")}
        names = {"validation", "test", "transfer", "swap"}
        assert sets == {f"{name}{under}" for name in names for under in ("", "_no_prompt", "_rulebook")}


def test_the_records_have_the_truth(workdir):
    rulebooks = json.loads((workdir / "run" / "steps" / "000000" / "rulebooks.json").read_text(encoding="utf-8"))
    assert set(rulebooks) == {"validation", "test", "transfer", "swap"}
    assert (workdir / "root.txt").read_text(encoding="utf-8").splitlines()[0] in rulebooks["validation"]


def test_what_the_prompt_knows_changes_when_the_world_does(workdir):
    """The root prompt states two of four meanings, one of them rightly: told at every step, evaluated or not."""
    known = [(row["evolution/rules_known"], row["evolution/rules_wrong"]) for row in rows(workdir / "run" / "metrics.jsonl")]
    before, between, after = known
    assert before == between == (0.25, 0.25)
    assert sum(after) == 0.5 and after[0] in (0.0, 0.25)
    asked = [{row["question"]: row["answer"] for row in rows(workdir / "run" / "steps" / step / "evaluation_validation.jsonl")}
             for step in ("000000", "000002")]
    shared = set(asked[0]) & set(asked[1])
    assert not shared or any(asked[0][question] != asked[1][question] for question in shared)
