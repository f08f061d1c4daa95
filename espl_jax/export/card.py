"""README.md of an export: what it is, how it scored, where its prompt comes from."""

import json
from typing import Any

from espl_jax.evolution.render import render_genome
from espl_jax.policy import adapter_files
from espl_jax.records import metrics
from espl_jax.structs import Population, Prompt

LICENCES = {"embedded": "apache-2.0"}  # of base models, where we know them
KINDS = {"merged": "merged weights in {}", "adapter": "a LoRA adapter in PEFT's format"}
LOADING = {
    "merged": """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("OUT")
model = AutoModelForCausalLM.from_pretrained("OUT", dtype="auto")""",
    "adapter": """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("OUT")
model = AutoPeftModelForCausalLM.from_pretrained("OUT")""",
}
ASKING = """
chat = [{"role": "user", "content": "What is 12 + 30?"}]
tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**tokens)[0]))"""


def text(source: Any, findings: Any) -> str:
    """The whole file. source: write.Source. findings: check.Findings."""
    parts = [front(source), summary(source), usage(source), prompt_text(source), scores(source), lineage(source)]
    return "\n\n".join([*parts, settings(source), checks(source, findings), licence(source)]) + "\n"


def front(source: Any) -> str:
    """What the hub reads."""
    base = adapter_files.base_name(source.run.config.model.path)
    lines = [f"license: {_licence(source)}", f"base_model: {json.dumps(base)}", "pipeline_tag: text-generation"]
    lines.append(f"library_name: {'peft' if source.form == 'adapter' else 'transformers'}")
    return "\n".join(["---", *lines, "tags: [espl_jax, evolutionary-system-prompt-learning]", "---"])


def _licence(source: Any) -> str:
    path = source.run.config.model.path
    return LICENCES[path] if path in LICENCES else "other"


def summary(source: Any) -> str:
    """What this is, in a few lines."""
    run, base = source.run, adapter_files.base_name(source.run.config.model.path)
    return "\n".join([
        f"# {base.rsplit('/', 1)[-1]} after {run.step} steps of E-SPL",
        "",
        f"{base}, trained by Evolutionary System Prompt Learning (Zhang, Chen, Stadie, arXiv 2602.14697) with espl_jax, method "
        f"`{run.config.method}`: {KINDS[source.form].format(source.dtype)}, and a tokenizer whose chat template begins every "
        f"conversation that has no system turn of its own with prompt {source.prompt.id} of the run's population.",
    ])  # fmt: skip


def usage(source: Any) -> str:
    return f"## Use\n\n```python\n{LOADING[source.form]}{ASKING}\n```"


def prompt_text(source: Any) -> str:
    """The prompt as the model reads it."""
    said = render_genome(source.prompt.genome)
    if not said:
        return "## Prompt\n\nThe prompt is empty: the chat template is the base model's."
    place = "system turn" if source.run.config.evolution.layout == "system" else "first user turn, behind the question"
    return f"## Prompt\n\nIn the {place}:\n\n" + "\n".join(f"    {line}" for line in said.splitlines())


def scores(source: Any) -> str:
    """Held-out scores as the run recorded them: before training, and last up to this step."""
    rows = [row for row in metrics.read(source.run.workdir) if row["step"] <= source.run.step and "evaluation/prompt" in row]
    if not rows:
        return "## Scores\n\nThe run evaluated nothing."
    first, last = rows[0], rows[-1]
    names = [name for name in last if name.endswith("/pass@1")]
    table = [f"| {name} | {_number(first, name)} | {_number(last, name)} |" for name in names]
    head = [f"| | step {first['step']} | step {last['step']} |", "|---|---|---|"]
    used = int(last["evaluation/prompt"])
    note = "" if used == source.prompt.id else f"\n\nThey were measured under prompt {used}, not the one that is exported."
    return "\n".join(["## Scores", "", *head, *table]) + note


def _number(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.4f}" if name in row and row[name] is not None else "-"


def lineage(source: Any) -> str:
    """The prompt and all that it descends from."""
    rows = []
    for one in ancestry(source.run.population, source.prompt):
        parents, rating = ", ".join(map(str, one.parents)) or "-", f"{one.rating.mu:.2f} ± {one.rating.sigma:.2f}"
        rows.append(f"| {one.id} | {one.operator} | {parents} | {one.born} | {rating} |")
    head = ["| prompt | made by | from | in step | rating (TrueSkill) |", "|---|---|---|---|---|"]
    return "\n".join(["## Lineage", "", *head, *rows])


def ancestry(population: Population, prompt: Prompt) -> list[Prompt]:
    """The prompt, its parents, theirs and so on, each once, newest first."""
    known, waiting = {prompt.id: prompt}, list(prompt.parents)
    while waiting:
        parent = population[waiting.pop()]
        if parent.id not in known:
            known[parent.id] = parent
            waiting += parent.parents
    return sorted(known.values(), key=lambda one: -one.id)


def settings(source: Any) -> str:
    """What decides a run, from its configuration."""
    run, config, task = source.run, source.run.config, source.run.config.task
    trained = f"LoRA, rank {config.rl.lora_rank}, alpha {config.rl.lora_alpha:g}" if config.rl.lora_rank else "all weights"
    rows = {
        "base model": f"{config.model.path} ({config.model.revision})",
        "before that": config.model.adapter or "-",
        "trained": trained if config.method in ("espl", "rl") else "nothing (prompts only)",
        "seed": config.seed,
        "steps": run.step,
        "task": f"{task.name} {task.gym_dataset or task.train}",
        "a step": f"{config.evolution.num_prompts} prompts, {task.num_problems} problems, {task.num_samples} samples",
        "loss, learning rate": f"{config.rl.loss}, {config.rl.learning_rate:g}",
        "evaluation": f"temperature {config.evaluation.temperature:g}, top-p {config.evaluation.top_p:g}",
    }
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["## How it was made", "", "| | |", "|---|---|", *table])


def checks(source: Any, findings: Any) -> str:
    """What was found when this was read back."""
    learned = "" if findings.learned is None else f" (what was learned: up to {findings.learned:.2g})"
    return (
        f"## Checked\n\nRead back after writing: {findings.chats} chats are rendered as the run does, token for token, and "
        f"over {findings.tokens} positions no token's log-probability differs from the run's policy in float32 by more than "
        f"{findings.difference:.2g}; {findings.tolerance:g} was let pass{learned}."
    )


def licence(source: Any) -> str:
    known = source.run.config.model.path in LICENCES
    what = "that of the base model, Apache-2.0" if known else "that of the base model; look there, and at those of the data"
    return f"## Licence\n\nThe weights' licence is {what}."
