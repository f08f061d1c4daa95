"""The page of one run: its sections in their order, and the data that its scripts read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from espl_jax.evolution import population as populations
from espl_jax.report import charts, choosing, learning, lineage, page, reading, trimming
from espl_jax.report.evolution import link, operations_section, rewards_section, tree_section
from espl_jax.report.learning import NO_PROMPT
from espl_jax.report.page import Assets, Section
from espl_jax.report.reading import MAX_TEXT, Asked, Attempt, RunRecord, StepRecord, Transcript
from espl_jax.structs import Rating
from experiments import base

# Bytes of text on the page; with plotly.js (4.8 MB) and the numbers it stays below 10 MB.
REFLECTION_BYTES = 1_700_000
TRANSCRIPT_BYTES = 1_100_000
PROMPT_BYTES = 700_000


class Texts:
    """Texts of the page, each kept once; what refers to one has its place in the list."""

    def __init__(self):
        self._places: dict[str, int] = {}
        self._kept: list[str] = []
        self.cuts: list[str] = []

    def place(self, text: str) -> int:
        """The place of a text of the present part; one that an earlier part has is not kept again."""
        return self._places.setdefault(text, len(self._places))

    def close(self, budget: int, what: str, where: str) -> None:
        """Ends a part: makes its texts fit `budget` bytes, and notes what was cut."""
        part = list(self._places)[len(self._kept) :]
        trimmed = trimming.trim(part, budget)
        self._kept += trimmed.texts
        if trimmed.cut:
            self.cuts.append(
                f"{trimmed.cut:,} of {len(part):,} texts of {what} are longer than {trimmed.limit:,} bytes and are shown "
                f"without their middle; they are whole in {where}."
            )

    def all(self) -> list[str]:
        """Every text, at its place."""
        return self._kept


def run_page(record: RunRecord) -> str:
    """The whole file."""
    histories = lineage.histories(record)
    texts = Texts()
    data = {
        "prompts": prompts_json(record, histories, texts),
        "matches": [[m.step, m.prompt_ids, [charts.rounded(s) for s in m.scores], m.ranks] for m in record.population.matches],
        "best": populations.best(record.population).id,
    }
    texts.close(PROMPT_BYTES, "prompts", "population.json")
    data["attempts"] = [_attempt_json(attempt, texts) for attempt in record.attempts]
    texts.close(REFLECTION_BYTES, "reflections", "steps/*/reflections.jsonl")
    data["transcripts"] = transcripts_json(record, texts)
    shown = {group["problem"] for entry in data["transcripts"] for group in entry["groups"]}
    shown |= {call.problem for attempt in record.attempts for call in attempt.calls}
    known = sorted(shown & set(record.problems))
    data["problems"] = {name: [texts.place(text) for text in record.problems[name]] for name in known}
    texts.close(TRANSCRIPT_BYTES, "transcripts", "steps/*/rollouts.jsonl and steps/*/evaluation_*.jsonl")
    data["texts"] = texts.all()
    data["metrics"] = {"steps": [row["step"] for row in record.metrics], "columns": _columns(record)}
    sections = [
        learning.learning_section(record),
        tree_section(record, histories),
        rewards_section(record),
        _transcripts_section(),
        operations_section(record),
        learning.diagnostics_section(record),
        learning.cost_section(record),
        _config_section(record),
        _left_out_section(record, texts.cuts),
    ]
    return page.page(record.workdir.absolute().name, sections, _header(record), Assets(("run.js",), ("run.css",), data))


def _columns(record: RunRecord) -> dict[str, list[float | None]]:
    return {
        name: [charts.rounded(row[name]) if name in row else None for row in record.metrics] for name in learning.names(record)
    }


def prompts_json(record: RunRecord, histories: Mapping[int, list[tuple[int, Rating]]], texts: Texts) -> dict[int, Any]:
    """Everything about each prompt but its matches and the reflection that made it, which are elsewhere in the data."""
    population = record.population
    known = {prompt.id: prompt for prompt in population.prompts}
    maker = {attempt.child: index for index, attempt in enumerate(record.attempts) if attempt.child >= 0}
    offspring = lineage.children(population)
    return {
        prompt.id: {
            "kind": prompt.genome.kind,
            "lines": [texts.place(line) for line in lineage.lines_of(prompt.genome)],
            "parents": prompt.parents,
            "children": offspring[prompt.id],
            "operator": prompt.operator,
            "born": prompt.born,
            "retired": prompt.id in population.retired,
            "pinned": prompt.id in population.pinned,
            "history": [[step, round(r.mu, 3), round(r.sigma, 3)] for step, r in histories[prompt.id]],
            "changes": [[parent, lineage.difference(known[parent].genome, prompt.genome)] for parent in prompt.parents],
            "attempt": maker[prompt.id] if prompt.id in maker else -1,
            "note": record.notes[prompt.id] if prompt.id in record.notes else "",
        }
        for prompt in population.prompts
    }


def _attempt_json(attempt: Attempt, texts: Texts) -> dict[str, Any]:
    return {
        "step": attempt.step, "operator": attempt.operator, "parents": attempt.parents, "child": attempt.child,
        "reason": attempt.reason, "calls": [_call_json(call, texts) for call in attempt.calls],
    }  # fmt: skip


def _call_json(call: Asked, texts: Texts) -> dict[str, Any]:
    return {
        "stage": call.stage, "problem": call.problem, "error": call.error, "finish": call.finish,
        "tokens": [call.prompt_tokens, call.generated_tokens],
        "turns": [[role, texts.place(text)] for role, text in call.turns],
        "operations": [_operation_json(operation, texts) for operation in call.operations],
    }  # fmt: skip


def _operation_json(operation: Mapping[str, Any], texts: Texts) -> dict[str, Any]:
    """An edit; empty fields are left out."""
    whole = {name: texts.place(operation[name]) for name in ("text", "search", "evidence") if operation[name]}
    return {"op": operation["op"], "targets": operation["targets"], "fate": operation["fate"]} | whole


def transcripts_json(record: RunRecord, texts: Texts) -> list[dict[str, Any]]:
    """What can be chosen to be read: held-out problems before and after, then each step of training that was kept."""
    entries = [entry for entry in (_held_out_entry(record, name, texts) for name in _bases(record)) if entry]
    for step in record.steps:
        if step.transcripts:
            entries.append({"title": f"training, step {step.step}", "groups": _groups(step.transcripts, texts)})
    return entries


def _bases(record: RunRecord) -> list[str]:
    """The held-out sets, those without a prompt beside those with."""
    return list(dict.fromkeys(name.removesuffix(NO_PROMPT) for step in record.steps for name in step.evaluation_transcripts))


def _held_out_entry(record: RunRecord, name: str, texts: Texts) -> dict[str, Any] | None:
    kept = [step for step in record.steps if any(step.evaluation_transcripts.get(n) for n in (name, name + NO_PROMPT))]
    if not kept:
        return None
    ends = {step.step: step for step in (kept[0], kept[-1])}
    columns = [labelled for step in ends.values() for labelled in _evaluated(step, name)]
    title = f"{learning.words(name)}, step {kept[0].step} and step {kept[-1].step}"
    return {"title": title, "groups": _groups(columns, texts)}


def _evaluated(step: StepRecord, name: str) -> Iterable[Transcript]:
    for which in (name, name + NO_PROMPT):
        for transcript in step.evaluation_transcripts.get(which, ()):
            yield replace(transcript, label=f"step {step.step}")


def _groups(transcripts: Iterable[Transcript], texts: Texts) -> list[dict[str, Any]]:
    by_problem: dict[str, list[Transcript]] = {}
    for transcript in transcripts:
        by_problem.setdefault(transcript.problem, []).append(transcript)
    return [
        {"problem": problem, "columns": [_transcript_json(transcript, texts) for transcript in found]}
        for problem, found in by_problem.items()
    ]


def _transcript_json(transcript: Transcript, texts: Texts) -> dict[str, Any]:
    return {
        "label": transcript.label, "prompt": transcript.prompt, "sample": transcript.sample,
        "reward": charts.rounded(transcript.reward), "finish": transcript.finish, "tokens": transcript.tokens,
        "extracted": transcript.extracted[:200], "note": transcript.note[:400],
        "turns": [[role, texts.place(text)] for role, text in transcript.turns],
    }  # fmt: skip


def _transcripts_section() -> Section:
    body = Markup(
        '<div class="explorer"><div class="bar"><label>from <select id="where"></select></label>'
        '<button id="earlier" type="button" aria-label="earlier">&larr;</button><button id="later" type="button" '
        'aria-label="later">&rarr;</button></div><div id="conversations"></div></div>'
    )
    return Section("transcripts", "Transcripts side by side", body + page.paragraph(choosing.RULE), nav="Transcripts")


def _header(record: RunRecord) -> Markup:
    config = record.config
    spent = reading.budget_spent(config, record.metrics)
    done = f"step {record.last_step}" + (f", {spent:.0%} of its budget" if spent else f" of {config['num_steps']}")
    state = "finished" if record.finished else "still going on, or stopped"
    line = Markup('<p class="sub"><b>{}</b> &middot; {} &middot; {} &middot; {}, {}</p>').format(
        config["method"], config["model"]["path"], config["task"]["name"], done, state
    )
    best = populations.best(record.population)
    rating = f"rating {best.rating.mu:.1f} ± {best.rating.sigma:.1f}"
    prompts = [
        ("best prompt", link(best.id), rating),
        ("prompts born", str(len(record.population.prompts) - 1), f"{len(record.population.alive)} alive"),
    ]
    facts = learning.facts(record)
    trouble = page.joined(page.paragraph(f"Left out: {sentence}", "notice bad") for sentence in record.unreadable)
    return line + page.tiles([*facts[:-1], *prompts, facts[-1]]) + trouble


def _config_section(record: RunRecord) -> Section:
    usual = dict(_flat(base.get_config().to_dict()))
    now = dict(_flat(record.config))
    absent = object()
    changed = [(name, _shown(value), _shown(usual[name]) if name in usual else "(no such field)")
               for name, value in now.items() if _listed(usual.get(name, absent)) != _listed(value)]  # fmt: skip
    body = page.table(("field", "here", "default"), changed, caption="Differs from experiments/base.py", kind="narrow")
    everything = page.table(("field", "value"), [(name, _shown(value)) for name, value in now.items()], kind="narrow")
    return Section("config", "Configuration", body + page.folded(f"All {len(now)} fields", everything))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else repr(value) if value == "" else str(value)


def _left_out_section(record: RunRecord, cuts: Sequence[str]) -> Section:
    sentences = [
        f"Trajectories: {choosing.RULE} All of them are in steps/*/rollouts.jsonl and steps/*/evaluation_*.jsonl.",
        f"Texts of reflections and transcripts longer than {MAX_TEXT:,} characters are shown without their middle.",
        *cuts,
        *record.unreadable,
        f"Everything lies in {record.workdir.absolute()} on the machine that wrote this page.",
    ]
    listed = page.joined(Markup("<li>{}</li>").format(sentence) for sentence in sentences)
    return Section("left-out", "What this page leaves out", Markup("<ul>{}</ul>").format(listed), nav="Left out")
