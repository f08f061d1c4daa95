"""Whole runs of gepa on a tiny random model: its own count against our ledger, its sets, resuming, a failing editor."""

from unittest import mock

import pytest

from espl_jax import finished, report
from espl_jax.baselines import gepa_run
from espl_jax.fingerprint import fingerprint
from espl_jax.records import artifacts, ledger, metrics
from espl_jax.records.logbook import Logbook
from tests import tiny_run

STEPS = 6
# An evaluation after every step, since each samples three problems or more.
CHANGES = {
    "method": "gepa", "num_steps": STEPS, "task.num_problems": 1, "task.num_samples": 3, "evolution.num_prompts": 1,
    "gepa.num_pareto": 4, "task.num_train": 12, "model.max_length": 2048,
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tiny_qwen3, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gepa") / "run"
    state = tiny_run.run(tiny_qwen3, workdir, **CHANGES)
    return workdir, state


def files(workdir, name):
    return [artifacts.read_rows(path) for path in sorted(workdir.glob(f"steps/*/{name}"))]


def test_gepas_count_of_metric_calls_is_our_ledgers_of_requests(done):
    """After every step, to the last one; and both are the trajectories that are recorded."""
    workdir, state = done
    rows = metrics.read(workdir)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    requests = 0.0
    recorded = [len(a) + len(b) for a, b in zip(files(workdir, "rollouts.jsonl"), files(workdir, "acceptance_mutation.jsonl"))]
    for row, trajectories in zip(rows[1:], recorded, strict=True):
        requests += row["ledger/rollout/requests"]
        assert row["gepa/metric_calls"] == requests and row["ledger/rollout/requests"] == trajectories
    assert state.counters["ledger/rollout/requests"] == requests == rows[-1]["gepa/metric_calls"]
    calls = sum(len(one["calls"]) for step in files(workdir, "reflections.jsonl") for one in step)
    assert sum(row["ledger/reflection/requests"] for row in rows[1:]) == calls > 0


def test_children_are_kept_who_did_better_on_the_same_problems(done):
    """mu is the mean reward on the Pareto set, recorded as it was sampled."""
    workdir, state = done
    population = state.population
    assert len(population.prompts) > 1, "no child was kept in this run: choose another seed for the test"
    pareto: dict[int, dict[str, float]] = {}
    for row in (row for step in files(workdir, "rollouts.jsonl") for row in step):
        pareto.setdefault(row["prompt"], {}).setdefault(row["problem"], row["reward"])
    root = files(workdir, "rollouts.jsonl")[0][:4]
    assert population.prompts[0].rating.mu == sum(row["reward"] for row in root) / 4
    for prompt in population.prompts[1:]:
        own = [pareto[prompt.id][row["problem"]] for row in root]
        assert prompt.rating.mu == sum(own) / 4 and prompt.rating.sigma == 0.0
        [reflection] = artifacts.read_rows(artifacts.step_folder(workdir, prompt.born) / "reflections.jsonl")
        assert reflection["child"]["id"] == prompt.id and reflection["parents"] == list(prompt.parents)
        tried = artifacts.read_rows(artifacts.step_folder(workdir, prompt.born) / "acceptance_mutation.jsonl")
        before = {row["problem"]: row["reward"] for row in artifacts.read_rows(
            artifacts.step_folder(workdir, prompt.born) / "rollouts.jsonl") if row["prompt"] == prompt.parents[0]}  # fmt: skip
        assert sum(row["reward"] for row in tried) > sum(before[row["problem"]] for row in tried)


def test_nothing_is_chosen_by_what_is_held_out(done):
    workdir, _ = done

    def problems(name):
        return {row["problem"] for step in files(workdir, name) for row in step}

    tried, held_out = problems("acceptance_mutation.jsonl"), problems("evaluation_validation.jsonl")
    assert held_out and not held_out & (tried | problems("rollouts.jsonl"))
    pareto = {row["problem"] for row in files(workdir, "rollouts.jsonl")[0][:4]}
    assert len(pareto) == 4 and tried and not tried & pareto


def test_the_run_reads_like_any_other(done):
    workdir, state = done
    run = finished.read(workdir)
    assert finished.choose(run, "best").rating.mu == max(prompt.rating.mu for prompt in state.population.prompts)
    assert report.write(workdir).stat().st_size > 4_000_000


def test_a_killed_run_goes_on_to_the_same_end_without_sampling_again(done, tiny_qwen3, tmp_path):
    """Killed after four steps were recorded and three saved; the package itself would begin with other random numbers."""
    commit, killed = Logbook.commit, tmp_path / "run"

    def die(self, step):
        commit(self, step)
        if step.state.step == 4:
            raise KeyboardInterrupt

    with mock.patch.object(Logbook, "commit", die), pytest.raises(KeyboardInterrupt):
        tiny_run.run(tiny_qwen3, killed, **CHANGES | {"records.checkpoint_every": 3})
    assert finished.read(killed).step == 3
    with mock.patch.object(gepa_run, "sample", wraps=gepa_run.sample) as sampled:
        tiny_run.run(tiny_qwen3, killed, **CHANGES)
    again = sum(len(call.args[2][0].requests) for call in sampled.call_args_list)
    after = sum(row["ledger/rollout/requests"] for row in metrics.read(killed)[4:])
    assert again == after > 0
    assert fingerprint(killed) == fingerprint(done[0])


def test_a_budget_ends_the_run_after_the_step_that_reaches_it(done, tiny_qwen3, tmp_path):
    rows = metrics.read(done[0])
    spent = [ledger.spent(row, "budget_tokens") for row in rows]
    budget = int(sum(spent[:3])) - 1
    state = tiny_run.run(tiny_qwen3, tmp_path / "run", **CHANGES | {"budget_tokens": budget, "num_steps": 1000})
    assert state.step == 2 and ledger.spent(state.counters, "budget_tokens") == budget + 1


def test_an_editor_that_fails_ends_the_run(tiny_qwen3, tmp_path):
    """The package would go on without the reply."""

    def broken(*_):
        def edit(chats):
            raise OSError("the server is gone")

        return edit

    with mock.patch.dict(gepa_run.EDITORS, reference=broken), pytest.raises(OSError, match="the server is gone"):
        tiny_run.run(tiny_qwen3, tmp_path / "run", **CHANGES)
