"""What a comparison starts, and what it refuses."""

import json

import pytest

from espl_jax import config as configs
from espl_jax.comparison import plan as plans
from espl_jax.records import artifacts
from experiments import base


def make(workdir, methods=("rl", "espl"), seeds=("0", "1"), budget="tokens:1000", overrides=None, variants=(), **changes):
    config = base.get_config()
    with config.unlocked():
        config.update_from_flattened_dict(changes | (overrides or {}))
    return plans.make(workdir, config, "experiments/base.py", overrides or {}, methods, seeds, budget, variants)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"methods": ("rl", "sgd")}, "--methods has 'sgd'"),
        ({"methods": ("rl+evolution",)}, "of which the first trains no weights"),
        ({"methods": ("rl", "rl")}, "name each method once"),
        ({"methods": ()}, "name each method once"),
        ({"seeds": ("0", "x")}, "--seeds is '0,x'"),
        ({"seeds": ("1", "1")}, "--seeds is '1,1'"),
        ({"budget": "40000"}, "--budget is '40000'"),
        ({"budget": "tokens:-3"}, "--budget is 'tokens:-3'"),
        ({"budget": "flops:inf"}, "--budget is 'flops:inf'"),
        ({"variants": ("espl=espl,evolution.window=3",)}, "--variant is 'espl=espl,evolution.window=3'"),
        ({"variants": ("a/b=espl,evolution.window=3",)}, "a name that is no method's"),
        ({"variants": ("a=espl",)}, "at least one field"),
        ({"variants": ("a=sgd,evolution.window=3",)}, "--methods has 'sgd'"),
        ({"variants": ("a=espl,evolution.widow=3",)}, "--variant has evolution.widow=3"),
        ({"variants": ("a=espl,evolution.window=three",)}, "--variant has evolution.window=three"),
        ({"variants": ("a=espl,evolution=3",)}, "--variant has evolution=3"),
        ({"variants": ("a=espl,seed=3",)}, "--variant sets seed"),
        ({"variants": ("a=espl,evolution.window=0",)}, "evolution.window is 0"),
        ({"overrides": {"method": "rl"}}, "--config.method is given"),
        ({"overrides": {"budget_flops": 1e9}}, "--config.budget_flops is given"),
        ({"rl.schedule": "cosine"}, "rl.schedule is 'cosine'"),
        ({"evaluation.every": 0}, "evaluation.every is 0"),
        ({"hosts.coordinator": "auto"}, "hosts.coordinator is 'auto'"),
        ({"evolution.window": 0}, "evolution.window is 0"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, asked, said):
    with pytest.raises(configs.ConfigError) as caught:
        make(tmp_path / "new", **asked)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_every_seed_is_run_by_every_method_before_the_next(tmp_path):
    plan = make(tmp_path, methods=("rl", "evolution+rl"))
    assert [(job.method, job.seed) for job in plan.jobs] == [("rl", 0), ("evolution+rl", 0), ("rl", 1), ("evolution+rl", 1)]
    assert plan.jobs[0].workdirs == (tmp_path / "rl" / "seed0",)
    both = tmp_path / "evolution+rl" / "seed1"
    assert plan.jobs[3].workdirs == (both / "1-evolution", both / "2-rl")


def test_a_command_tells_a_run_what_differs(tmp_path):
    plan = make(tmp_path, budget="flops:2e14", overrides={"rl.learning_rate": 1e-3})
    command = plans.command(plan, plan.jobs[3], 0, ["PROGRAM"])
    assert command[:3] == ["PROGRAM", "--config=experiments/base.py", f"--workdir={tmp_path}/espl/seed1"]
    assert command[3:] == [
        "--config.rl.learning_rate=0.001", "--config.method=espl", "--config.seed=1", "--config.budget_tokens=0",
        "--config.budget_flops=200000000000000.0", "--config.budget_rollouts=0", "--config.num_steps=1000000",
    ]  # fmt: skip
    ended = make(tmp_path, overrides={"num_steps": 7}, **{"rl.schedule": "cosine"})
    assert plans.part_config(ended, ended.jobs[0], 0, None).num_steps == 7


def test_a_variant_is_a_method_by_another_name_with_fields_of_its_own(tmp_path):
    wanted = ("newest=espl,evolution.selection=newest,evaluation.test=false", "hot=evolution+rl,rl.learning_rate=1e-3")
    plan = make(tmp_path, methods=("espl",), seeds=("5",), budget="rollouts:60", variants=wanted)
    plain, newest, hot = plan.jobs
    assert [str(job) for job in plan.jobs] == ["espl, seed 5", "newest, seed 5", "hot, seed 5"]
    assert newest.workdirs == (tmp_path / "newest" / "seed5",)
    assert hot.workdirs == (tmp_path / "hot" / "seed5" / "1-evolution", tmp_path / "hot" / "seed5" / "2-rl")
    configurations = [plans.part_config(plan, job, 0, None) for job in plan.jobs]
    assert [config.method for config in configurations] == ["espl", "espl", "evolution"]
    assert [config.evolution.selection for config in configurations] == ["champion", "newest", "champion"]
    assert [config.evaluation.test for config in configurations] == [True, False, True]
    assert [config.budget_rollouts for config in configurations] == [60, 60, 30]
    assert configurations[2].rl.learning_rate == 1e-3
    assert str(plan.budget) == "60 rollouts"
    assert "--config.evolution.selection=newest" in plans.command(plan, newest, 0, ["P"])
    assert "--config.evolution.selection=newest" not in plans.command(plan, plain, 0, ["P"])


def left(workdir, config, spent, step=3):
    """What a run that has spent so much leaves."""
    artifacts.write_json(workdir / "config.json", artifacts.config_json(configs.resolve(config)))
    rows = [{"step": step, "ledger/rollout/generated_tokens": spent, "ledger/evaluation/generated_tokens": 10**6}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_run_is_done_when_its_budget_is_spent(tmp_path):
    """Evaluation, by far the most here, is free."""
    plan = make(tmp_path)
    job = plan.jobs[0]
    assert not plans.is_done(plan, job, 0)
    for spent, done in ((999, False), (1000, True)):
        left(job.workdirs[0], plans.part_config(plan, job, 0, None), spent)
        assert plans.is_done(plan, job, 0) == done
    plans.check_existing(plan)


def test_the_second_of_two_has_what_the_first_left_and_begins_with_its_prompt(tmp_path):
    plan = make(tmp_path, methods=("evolution+rl",), seeds=("0",))
    job = plan.jobs[0]
    first = plans.part_config(plan, job, 0, None)
    assert (first.method, first.budget_tokens, first.evolution.root) == ("evolution", 500, "")
    left(job.workdirs[0], first, spent=620)
    second = plans.settings(plan, job, 1, plans.root_of(job, 1))
    assert (second["method"], second["budget_tokens"]) == ("rl", 380)
    assert second["evolution.genome"] == "document" and second["evolution.root"] == str(job.folder / "prompt.txt")


def test_what_is_there_must_belong_to_the_comparison(tmp_path):
    plan = make(tmp_path)
    job = plan.jobs[0]
    left(job.workdirs[0], plans.part_config(plan, job, 0, None), 1000)
    with pytest.raises(configs.ConfigError, match="rl.learning_rate was 4e-05 and is now 0.1"):
        plans.check_existing(make(tmp_path, **{"rl.learning_rate": 0.1}))
    with pytest.raises(configs.ConfigError, match="started with budget_tokens=1000 and would now have 900"):
        plans.check_existing(make(tmp_path, budget="tokens:900"))
    more = make(tmp_path, budget="tokens:5000")
    plans.check_existing(more)
    assert not plans.is_done(more, more.jobs[0], 0)
