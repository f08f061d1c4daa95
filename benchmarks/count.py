"""What evolution adds to an iteration, counted: tokens and floating-point operations by purpose.

One formula for everything (benchmarks/work.py): 2 operations a weight a token, plus attention. What several trajectories of a
group, or several problems under a prompt, begin with is counted once. The learner goes forward once; backward costs as much
again for a frozen weight, and twice as much for an adapter's weight and for attention. The editor is the reference: no
adapter. Its prompts are the project's own templates, filled with as many words as the assumptions say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.work import attention_flops, body_weights, forward_flops, logits_flops, lora_weights
from espl_jax.evolution.forms import form_text
from espl_jax.evolution.render import fill
from espl_jax.policy.model import ModelSpec

HEADER = ("purpose", "method", "sequences", "tokens read", "tokens written", "TFLOP", "of rl")


@dataclass(frozen=True)
class Assumptions:
    """What a step's sizes are taken to be; words as white space separates them, lengths are means.

    mixed: share of the best prompt's problems with 0 < V < 1, the ones that are reflected on. principles: of each prompt.
    """

    trajectory_tokens: float
    mixed: float
    problem_words: int
    answer_words: int
    principles: int
    summary_words: int
    critique_words: int
    consolidation_words: int
    crossover_words: int
    tokens_per_word: float


@dataclass(frozen=True)
class Line:
    """Some calls of one purpose: how many, tokens that they read and write in all, operations."""

    purpose: str
    calls: float
    read: float
    written: float
    flops: float


def words(count: float) -> str:
    """Filler text."""
    return " ".join(["word"] * round(count))


def tokens_of(text: str, a: Assumptions) -> float:
    """Tokens that a text is taken to have."""
    return len(text.split()) * a.tokens_per_word


def guidance_text(a: Assumptions, config: Any) -> str:
    """Principles as long as they may be."""
    return "\n".join(f"[G{i}] {words(config.evolution.max_principle_words)}" for i in range(a.principles))


def call_line(purpose: str, spec: ModelSpec, calls: float, prompt: float, reply: float) -> Line:
    """`calls` calls of the reference model; a prompt's last token and all but the last of the reply are followed by logits."""
    each = forward_flops(spec, 0, prompt) + forward_flops(spec, prompt, reply - 1) + logits_flops(spec, reply)
    return Line(purpose, calls, calls * prompt, calls * reply, calls * each)


def rollout_lines(spec: ModelSpec, config: Any, a: Assumptions, prompts: int, principles: float) -> list[Line]:
    """Sampling and learning of one step: `prompts` prompts with `principles` tokens each share all of its trajectories."""
    B, G = config.task.num_problems, config.evolution.num_prompts * config.task.num_samples // prompts
    problem, T = a.problem_words * a.tokens_per_word, a.trajectory_tokens
    trajectories, read = prompts * B * G, prompts * (principles + B * problem)
    run = trajectories * (T - 1)
    contexts = prompts * (attention_flops(spec, 0, principles) + B * attention_flops(spec, principles, problem))
    written = trajectories * attention_flops(spec, principles + problem, T - 1)
    body = 2 * (body_weights(spec) + lora_weights(spec, config.rl.lora_rank))
    logits = logits_flops(spec, trajectories * T)
    frozen, adapter = 2 * 2 * body_weights(spec), 3 * 2 * lora_weights(spec, config.rl.lora_rank)
    learn = (read + run) * (frozen + adapter) + 3 * (contexts + written) + 2 * logits
    return [
        Line("rollouts: prompts", trajectories, read, 0, read * body + contexts),
        Line("rollouts: tokens", trajectories, 0, trajectories * T, run * body + written + logits),
        Line("update", trajectories, read + run, 0, learn),
    ]


def reflection_lines(spec: ModelSpec, config: Any, a: Assumptions) -> list[Line]:
    """The calls of a mutation, and of a crossover as often as there is one."""
    evolution, N = config.evolution, config.task.num_samples
    task, question, answer = words(40), words(a.problem_words), words(a.answer_words)
    length = a.trajectory_tokens / a.tokens_per_word
    attempt, summarized = words(min(length, evolution.max_trajectory_words)), length > evolution.summarize_above
    account = a.summary_words if summarized else length
    guidance, edits = guidance_text(a, config), str(evolution.max_edits)
    limit, problems = str(evolution.max_principle_words), a.mixed * config.task.num_problems
    summary = form_text(
        "summary", evolution, task=task, question=question, answer=answer, guidance=guidance, grade="wrong", attempt=attempt
    )
    critique = form_text(
        "critique", evolution, task=task, principles=guidance, question=question, answer=answer, max_edits=edits,
        max_words=limit, attempts=words(N * account),
    )
    proposed = words(problems * evolution.max_edits * evolution.max_principle_words)
    consolidation = form_text(
        "consolidation", evolution, task=task, principles=f"{guidance} {proposed}", max_words=limit
    )
    won = words(a.problem_words * config.task.num_problems / evolution.num_prompts)
    others = [fill("winner", guidance=guidance, problems=won)] * (evolution.num_prompts - 1)
    crossover = form_text(
        "crossover", evolution, task=task, principles=guidance, won=won, others=" ".join(others), max_words=limit
    )
    stages = [
        ("summaries", problems * N * summarized, summary, a.summary_words),
        ("critiques", problems, critique, a.critique_words),
        ("consolidation", 1, consolidation, a.consolidation_words),
        ("crossover", evolution.crossover_probability, crossover, a.crossover_words),
    ]
    return [
        call_line(name, spec, calls, tokens_of(prompt, a), reply * a.tokens_per_word) for name, calls, prompt, reply in stages
    ]


def count(spec: ModelSpec, config: Any, a: Assumptions) -> tuple[list[Line], list[Line]]:
    """The lines of an iteration with rl (one prompt, no principles), and with espl; both of M x B x N trajectories."""
    principles = tokens_of(guidance_text(a, config), a)
    rl = rollout_lines(spec, config, a, 1, 0.0)
    espl = rollout_lines(spec, config, a, config.evolution.num_prompts, principles) + reflection_lines(spec, config, a)
    return rl, espl


def total(lines: Sequence[Line]) -> float:
    """Operations of all lines."""
    return sum(line.flops for line in lines)


def cells(rl: Sequence[Line], espl: Sequence[Line]) -> list[tuple[str, ...]]:
    """Table rows under HEADER, each with its share of rl's total."""
    whole = total(rl)
    found = []
    for method, lines in (("rl", rl), ("espl", espl)):
        for x in lines:
            sizes = (f"{x.calls:,.1f}", f"{x.read:,.0f}", f"{x.written:,.0f}")
            found.append((x.purpose, method, *sizes, f"{x.flops / 1e12:,.0f}", f"{x.flops / whole:.2%}"))
        found.append(("total", method, "", "", "", f"{total(lines) / 1e12:,.0f}", f"{total(lines) / whole:.2%}"))
    return found
