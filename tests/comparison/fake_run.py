"""Stands in for espl_jax.main in tests of comparisons: leaves what a run leaves, without a model. python fake_run.py FLAGS.

Each step costs COST[method] tokens until the budget is spent; rewards of the two held-out problems rise by RISE[method] a step.
An environment variable FAKE_FAIL=method makes that method's runs fail; each start adds a line to DIR/starts.
"""

import json
import os
import sys
from pathlib import Path

COST = {"rl": 100, "evolution": 250, "espl": 300}
RATED = (0, 20.0, 0.25), (1, 30.0, 0.5), (2, 25.0, 0.75)
RISE = {"rl": 0.05, "evolution": 0.02, "espl": 0.2}
NOT_EVALUATED = ("espl", 3)


def main(flags: dict[str, str]) -> None:
    workdir, method, seed = Path(flags["workdir"]), flags["config.method"], int(flags["config.seed"])
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "starts", "a", encoding="utf-8") as starts:
        starts.write("start\n")
    if os.environ.get("FAKE_FAIL") == method:
        raise SystemExit("error: no such luck")
    budget, spent, step = float(flags["config.budget_tokens"]), 0, 0
    genome = {"kind": "document", "principles": [], "document": f"best of {method}"}
    prompt = {"id": 0, "genome": genome, "rating": {"mu": 1.0, "sigma": 1.0}, "parents": [], "operator": "root", "born": 0}
    (workdir / "population.json").write_text(json.dumps({"version": 1, "prompts": [prompt], "matches": [], "retired": []}))
    with open(workdir / "metrics.jsonl", "w", encoding="utf-8") as rows:
        first = {"step": 0, "validation/reward": 0.1, "ledger/evaluation/prompt_tokens": 50, "evolution/rules_known": 0.0}
        rows.write(json.dumps(first) + "\n")
        evaluate(workdir, 0, seed, 0.1)
        while spent < budget:
            step, spent = step + 1, spent + COST[method]
            cost = {"ledger/rollout/prompt_tokens": COST[method] - 40, "ledger/rollout/generated_tokens": 40}
            row = {"step": step, "time/step": 2.0, "evolution/children": 1, "ledger/evaluation/generated_tokens": 7} | cost
            row["evolution/rules_known"] = RISE[method] * step
            if (method, step) != NOT_EVALUATED:
                evaluate(workdir, step, seed, 0.1 + RISE[method] * step)
            rows.write(json.dumps(row) + "\n")
    if method == "espl":
        learn(workdir, step)


def learn(workdir: Path, step: int) -> None:
    """What the task could have said, a child that a critique of step 1 has given a principle, and three prompts, the best rated
    of which is second on test."""
    population = json.loads((workdir / "population.json").read_text())
    genome = {"kind": "principles", "principles": ["best of espl"], "document": ""}
    child = population["prompts"][0] | {"id": 1, "genome": genome, "parents": [0], "operator": "mutation", "born": 1}
    child["rating"] = {"mu": 2.0, "sigma": 1.0}
    population["prompts"][0]["genome"] = genome | {"principles": []}
    population["prompts"].append(child)
    (workdir / "population.json").write_text(json.dumps(population))
    edit = {"op": "add", "text": "best of espl", "fate": "applied"}
    said = {"stage": "critique", "problem_id": "a", "operations": [edit]}
    attempt = {"child": {"id": 1}, "calls": [said]}
    (workdir / "steps" / "000001" / "reflections.jsonl").write_text(json.dumps(attempt) + "\n")
    (workdir / "steps" / "000000" / "rulebooks.json").write_text(json.dumps({"validation": "- one | two\n- three"}))
    rated = [{"prompt": i, "mu": mu, "sigma": 1.0, "matches": 4, "reward": reward} for i, mu, reward in RATED]
    (workdir / "steps" / f"{step:06d}" / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rated))


def evaluate(workdir: Path, step: int, seed: int, reward: float) -> None:
    folder = workdir / "steps" / f"{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    samples = [{"problem": f"{seed}-{name}", "reward": reward + shift} for name, shift in (("a", 0.0), ("b", 0.02 * seed))]
    (folder / "evaluation_validation.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))


if __name__ == "__main__":
    main(dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:]))
