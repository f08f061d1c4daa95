"""Work directories of runs that never ran, as large as wanted and true to the method: python -m tests.report.synthetic DIR.

Ratings, births and lineage are made by the evolution room's own functions; what "the model" wrote is words drawn at random,
some of it hostile. Everything follows from the seed.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from espl_jax.evolution.population import add_child, best, root_population, to_json
from espl_jax.evolution.rating import child_rating_crossover, child_rating_mutation, rate
from espl_jax.records import json_files
from espl_jax.structs import Call, Chat, Genome, Message, Operation, Population, Prompt, Reflection, Reply
from experiments import base

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror=\"window.hacked = 2\">",
    "<a href=\"https://example.com/steal\">a link</a> & <!-- a comment",
    "{{7*7}} ${window.hacked = 3} \u2028 \u0000 \ud800 end",
)
WORDS = (
    "check each step against the units of the question and write down what is given before you add carry divide estimate the "
    "size of an answer first name every case once look for symmetry try small numbers prefer exact fractions say why it holds"
).split()


POOL = np.random.default_rng(7).choice(WORDS, 20_000).tolist()


def words(rng: np.random.Generator, count: int) -> str:
    """Words of a long random text, from a random place on."""
    start = int(rng.integers(len(POOL) - count))
    return " ".join(POOL[start : start + count])


def write(
    workdir: Path, steps: int = 8, problems: int = 12, per_step: int = 4, samples: int = 3, reply_words: int = 30,
    calls: int = 2, seed: int = 0, num_steps: int = 0, births: float = 1.0,
) -> Population:  # fmt: skip
    """A run of `steps` steps in which a child is born after each with probability `births`; its population."""
    config = base.get_config()
    config.num_steps = num_steps or steps
    config.task.num_problems, config.task.num_samples, config.seed = per_step, samples, seed
    rng = np.random.default_rng(seed)
    asked = [_problem(rng, number) for number in range(problems + 6)]
    population, rows = root_population(Genome("principles"), config.evolution), []
    for step in range(steps + 1):
        files: dict[str, list[dict[str, Any]]] = {}
        if step:
            alive = population.alive
            chosen = [best(population), *(alive[i] for i in rng.permutation(len(alive))[:2] if alive[i] != best(population))]
            files["prompts.jsonl"] = [{"id": p.id, "text": "", "rating": asdict(p.rating)} for p in chosen]
            ids = [p.id for p in chosen]
            some = [asked[i] for i in rng.choice(problems, per_step, replace=False)]
            files["rollouts.jsonl"] = trajectories(rng, ids, some, samples, step / steps, reply_words)
            scores = [float(np.mean([r["reward"] for r in files["rollouts.jsonl"] if r["prompt"] == p])) for p in ids]
            population = rate(population, ids, scores, step, config.evolution)
            parent = ids[int(np.argmax(scores))]
            population, reflection = _reflect(rng, population, parent, ids, step, calls, reply_words, births, config)
            files["reflections.jsonl"] = [asdict(reflection)]
        empty = not best(population).genome.principles
        for name in ("validation",) if empty else ("validation", "validation_no_prompt"):
            held = trajectories(rng, [best(population).id], asked[problems:], samples, step / steps, reply_words)
            files[f"evaluation_{name}.jsonl"] = held
        folder = workdir / "steps" / f"{step:06d}"
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_bytes(json_files.encode(json_files.lines(content)))
        rows.append(_metrics(rng, step, files, population))
    for name, value in (("config.json", config.to_dict()), ("population.json", to_json(population))):
        (workdir / name).write_bytes(json_files.encode(json_files.dumps(value)))
    (workdir / "metrics.jsonl").write_bytes(json_files.encode(json_files.lines(rows)))
    return population


def _problem(rng: np.random.Generator, number: int) -> tuple[str, str, str]:
    text = f"{HOSTILE[number]} what is {number} + 2?" if number < len(HOSTILE) else f"{words(rng, 12)}: {number} + 2?"
    return f"{number:012x}", text, str(number + 2)


def trajectories(rng, ids, asked, samples: int, progress: float, reply_words: int) -> list[dict[str, Any]]:
    """Rows as artifacts.rollout_rows makes them; every fifth is a conversation with a tool."""
    rows = []
    for prompt, (number, (problem, question, answer)), sample in (
        (p, q, g) for p in ids for q in enumerate(asked) for g in range(samples)
    ):
        right = bool(rng.random() < 0.15 + 0.6 * progress + 0.02 * (prompt % 5) - 0.01 * number)
        text = f"{words(rng, reply_words)} {HOSTILE[len(rows) % 4] if len(rows) % 7 == 0 else ''} so {answer if right else '?'}"
        row = {
            "prompt": prompt, "problem": problem, "sample": sample, "question": question, "answer": answer, "text": text,
            "reward": float(right), "extracted": answer if right else "", "note": "" if right else "no answer found",
            "finish": "stop", "advantage": 0.0, "tokens": reply_words, "context_tokens": 40, "logprob": -1.0,
            "behavior_logprob": -1.0,
        }  # fmt: skip
        if len(rows) % 5 == 4:
            call = '<tool_call>{"name": "search"}</tool_call>'
            turns = [("user", question), ("assistant", call), ("tool", f"passage: {HOSTILE[0]}"), ("assistant", text)]
            row["messages"] = [{"role": role, "content": content} for role, content in turns]
        rows.append(row)
    return rows


def _reflect(rng, population, parent, ids, step, calls, reply_words, births, config) -> tuple[Population, Reflection]:
    principle = f"{HOSTILE[step % 4]} {words(rng, 8)}" if step % 6 == 1 else f"{words(rng, 14)} ({step})."
    kept = list(population[parent].genome.principles)
    op = "modify" if kept and step % 3 == 0 else "add"
    if op == "modify":
        kept[-1] = kept[-1].rsplit(" ", 2)[0] + f" {words(rng, 3)}"
    else:
        kept.append(principle)
    done = Operation(op, (len(kept) - 1,) if op == "modify" else (), kept[-1], evidence=words(rng, 9), fate="applied")
    dropped = Operation("add", (), words(rng, 6), fate=f"repeats principle {step} too closely: '{words(rng, 2)}'")
    asked = []
    for number in range(calls):
        chat = Chat(f"mutation/critique/{number}", (Message("user", words(rng, 3 * reply_words)),))
        reply = Reply(chat.id, words(rng, reply_words), "stop", 90, 30)
        asked.append(Call("critique", chat, reply, "", (done, dropped) if number == 0 else (),
                          "" if number < 2 else "the reply holds no JSON"))  # fmt: skip
    if rng.random() >= births:
        return population, Reflection("mutation", (parent,), tuple(asked), reason=f"the child is identical to prompt {parent}")
    crossing = step % 5 == 0 and len(ids) > 1
    parents = (parent, *(other for other in ids if other != parent)) if crossing else (parent,)
    ratings = [population[p].rating for p in parents]
    rating = child_rating_crossover(ratings, 1.0) if crossing else child_rating_mutation(ratings[0], 1.0)
    operator = "crossover" if crossing else "mutation"
    child = Prompt(-1, Genome("principles", tuple(kept[-20:])), rating, parents, operator, step)
    population, child = add_child(population, child, config.evolution.max_population)
    return population, Reflection(operator, parents, tuple(asked), child=replace(child))


def _metrics(rng, step: int, files: dict[str, list[dict[str, Any]]], population: Population) -> dict[str, Any]:
    leader = best(population)
    row: dict[str, Any] = {
        "step": step, "evolution/best_id": float(leader.id), "evolution/best_mu": leader.rating.mu,
        "evolution/best_sigma": leader.rating.sigma, "time/evaluate": 1.0, "time/step": 4.0,
        "tokens/generated_validation": 100.0, "tokens/prompt_validation": 200.0,
    }  # fmt: skip
    held = files["evaluation_validation.jsonl"]
    without = files["evaluation_validation_no_prompt.jsonl"] if "evaluation_validation_no_prompt.jsonl" in files else held
    row["validation/pass@1"] = float(np.mean([r["reward"] for r in held]))
    row["validation_no_prompt/pass@1"] = float(np.mean([r["reward"] for r in without]))
    if step:
        row |= {name: float(rng.random()) for name in ("policy/entropy", "policy/grad_norm", "policy/loss", "policy/ratio_p99")}
        row |= {
            "policy/ratio": 1.0, "policy/kl": None, "nonfinite": {"policy/kl": "nan"}, "policy/logprob_gap": 1e-6,
            "policy/logprob_gap_max": 1e-5, "time/sample": 2.0, "time/update": 1.0, "tokens/generated_rollout": 300.0,
            "tokens/prompt_rollout": 500.0, "tokens/generated_reflection": 60.0, "tokens/prompt_reflection": 180.0,
        }  # fmt: skip
        row["train/reward"] = float(np.mean([r["reward"] for r in files["rollouts.jsonl"]]))
        row["train/reward_best_prompt"] = row["train/reward"] + 0.01
    return row


def large(workdir: Path) -> Population:
    """A run of 200 steps and 200 prompts, 10 problems of 100 a step, 3 x 3 samples of 250 words, 8 calls a reflection."""
    return write(workdir, steps=200, problems=100, per_step=10, samples=3, reply_words=250, calls=8)


if __name__ == "__main__":
    large(Path(sys.argv[1]))
