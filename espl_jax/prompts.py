"""Look at a run's prompts and correct them by hand, while it runs or before it goes on.

  python -m espl_jax.prompts list   --workdir=DIR
  python -m espl_jax.prompts show   ID --workdir=DIR           what prompt ID says, where it comes from, how it fared
  python -m espl_jax.prompts diff   ID [OTHER] --workdir=DIR   what it changed against its parent, or against OTHER
  python -m espl_jax.prompts origins ID --workdir=DIR          which reflection wrote each of its lines
  python -m espl_jax.prompts add    --workdir=DIR [--parent=ID] [--file=TEXT]   a child with this text (or standard input)
  python -m espl_jax.prompts edit   ID --workdir=DIR           a child with the text that $EDITOR leaves
  python -m espl_jax.prompts retire ID --workdir=DIR           the prompt competes no more; it stays in the lineage
  python -m espl_jax.prompts pin    ID --workdir=DIR           the prompt competes in every step, whatever selection says
  python -m espl_jax.prompts unpin  ID --workdir=DIR           it competes like any other again
  python -m espl_jax.prompts export FILE --workdir=DIR [--form=own|authors]   the population, for another program or run
  python -m espl_jax.prompts import FILE --workdir=DIR [--parent=ID]   a child of ID for each living prompt of such a file

ID is a number, "best" (highest mu) or "newest". Principles are written one a line. Nothing that the run has saved is changed:
what is written waits in DIR/edits until the run takes it in between two steps, as a child with the operator "human" and the
rating of a mutant; `list` shows what became of it. Files of both forms are read (evolution/exchange.py): population.json, and
the evolution_pool.json of the method's authors. Runs on the host alone, without a device.
"""

import difflib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from espl_jax.evolution import exchange, human
from espl_jax.evolution import population as populations
from espl_jax.evolution.human import Edit
from espl_jax.evolution.render import bulleted, parse_genome
from espl_jax.records import inbox, json_files, origins
from espl_jax.structs import Genome, Population, Prompt

_BEGINNING = 60  # characters of a prompt that a listing shows


class PromptsError(ValueError):
    """What was asked for cannot be done; the message says in one sentence why and what to do."""


def load(workdir: str | Path) -> Population:
    """The population as the run last recorded it. Raises PromptsError when there is none."""
    path = Path(workdir) / "population.json"
    if not path.exists():
        raise PromptsError(f"--workdir is {str(workdir)!r}, where no run has recorded a population; give a run's directory")
    return populations.from_json(json.loads(path.read_bytes()))


def evolution_config(workdir: str | Path) -> ConfigDict:
    """config.evolution of the run, which has the limits that a text must obey."""
    return ConfigDict(json.loads((Path(workdir) / "config.json").read_bytes())["evolution"])


def find(population: Population, name: str) -> Prompt:
    """The prompt of an id, or "best" or "newest". Raises PromptsError for another word and for ids that are not there."""
    if name in NAMED:
        return NAMED[name](population)
    if not name.isdigit():
        raise PromptsError(f"the prompt is {name!r}; give a number, {' or '.join(NAMED)}")
    try:
        return population[int(name)]
    except KeyError as error:
        raise PromptsError(f"there is no prompt {name}; `list` shows those that are") from error


NAMED = {"best": populations.best, "newest": populations.newest}


def add(workdir: str | Path, text: str, parent: str = "best", note: str = "") -> str:
    """Asks the run for a child of `parent` that says `text`; returns the name of the edit.

    Raises PromptsError when the population has such a text already, or when it breaks a limit of config.evolution.
    """
    population = load(workdir)
    target = find(population, parent)
    genome = parse_genome(target.genome.kind, text)
    return _ask(workdir, population, Edit("add", target.id, target.genome, genome, note))


def retire(workdir: str | Path, name: str, note: str = "") -> str:
    """Asks the run to let a prompt compete no more; returns the name of the edit. Raises PromptsError if it cannot be."""
    return mark(workdir, "retire", name, note)


def mark(workdir: str | Path, kind: str, name: str, note: str = "") -> str:
    """Asks the run for an edit without a text: retire, pin or unpin; returns its name. Raises PromptsError if it cannot be."""
    population = load(workdir)
    target = find(population, name)
    return _ask(workdir, population, Edit(kind, target.id, target.genome, None, note))


def export(workdir: str | Path, path: str | Path, form: str = "own") -> Path:
    """Writes the population as a file of a form of exchange.FORMS. Raises PromptsError for a file that is there."""
    path = Path(path)
    if path.exists():
        raise PromptsError(f"{path} is there already; give another name, or move it away")
    data = exchange.FORMS[form](load(workdir), evolution_config(workdir).max_population)
    json_files.write_atomic(path, json_files.dumps(data, indent=2) + "\n")
    return path


def take(workdir: str | Path, path: str | Path, parent: str = "best", note: str = "") -> dict[int, str]:
    """Asks the run for a child of `parent` for each living prompt of a file; {its number there: name of the edit, or why not}.

    Raises PromptsError for a file that is no population.
    """
    population = load(workdir)
    target, outcome = find(population, parent), {}
    try:
        found = exchange.genomes(json.loads(Path(path).read_bytes()))
    except ValueError as error:
        raise PromptsError(f"{path} cannot be imported: {error}") from error
    for number, genome in found:
        edit = Edit("add", target.id, target.genome, genome, note or f"imported: prompt {number} of {Path(path).name}")
        try:
            outcome[number] = _ask(workdir, population, edit)
        except PromptsError as reason:
            outcome[number] = f"left out: {reason}"
    return outcome


def _ask(workdir: str | Path, population: Population, edit: Edit) -> str:
    if reason := human.objection(population, edit, evolution_config(workdir)):
        raise PromptsError(reason)
    return inbox.write(workdir, edit)


def listing(workdir: str | Path) -> str:
    """A table of all prompts ever born, then the edits of people and their fates."""
    population = load(workdir)
    best = populations.best(population).id
    rows = [f"{'id':>4}   {'mu':>6} {'sigma':>6}  {'born':>4}  {'operator':<10} {'parents':<10} text"]
    for prompt in population.prompts:
        rating, parents = prompt.rating, ",".join(map(str, prompt.parents)) or "-"
        marks = {"*": prompt.id == best, "x": prompt.id in population.retired, "p": prompt.id in population.pinned}
        mark = "".join(letter for letter, holds in marks.items() if holds).ljust(2)
        rows.append(
            f"{prompt.id:>4}{mark} {rating.mu:>6.2f} {rating.sigma:>6.2f}  {prompt.born:>4}  {prompt.operator:<10} "
            f"{parents:<10} {_beginning(prompt.genome)}"
        )
    rows.append("* the best; x retired; p pinned")
    fates = inbox.fates(workdir)
    for name, edit in inbox.edits(workdir).items():
        asked = edit if isinstance(edit, str) else f"{edit.kind} {edit.target}: {_beginning(edit.genome or edit.seen)}"
        rows.append(f"edit {name}  {asked}\n     {_fate(fates.get(name))}")
    return "\n".join(rows)


def _fate(fate: inbox.Fate | None) -> str:
    if fate is None:
        return "waits for the run to go on"
    return f"refused: {fate.refused}" if fate.refused else f"taken in after step {fate.step}: prompt {fate.id}"


def _beginning(genome: Genome) -> str:
    text = " ".join(bulleted(genome).split())
    return text if len(text) <= _BEGINNING else text[: _BEGINNING - 3] + "..."


def description(population: Population, prompt: Prompt) -> str:
    """What a prompt says, where it comes from and how it fared."""
    children = [other.id for other in population.prompts if prompt.id in other.parents]
    matches = [match for match in population.matches if prompt.id in match.prompt_ids]
    won = sum(match.ranks[match.prompt_ids.index(prompt.id)] == 0 for match in matches)
    return "\n".join([
        f"prompt {prompt.id}: {prompt.operator} of {list(prompt.parents)}, born in step {prompt.born}, children {children}",
        f"rating {prompt.rating.mu:.2f} +- {prompt.rating.sigma:.2f}; first or equal in {won} of {len(matches)} matches"
        + ("; retired" if prompt.id in population.retired else "")
        + ("; pinned" if prompt.id in population.pinned else ""),
        "",
        bulleted(prompt.genome),
    ])  # fmt: skip


def difference(old: Prompt, new: Prompt) -> str:
    """A unified diff of what two prompts say."""
    before, after = bulleted(old.genome).splitlines(), bulleted(new.genome).splitlines()
    lines = difflib.unified_diff(before, after, f"prompt {old.id}", f"prompt {new.id}", n=99, lineterm="")
    return "\n".join(lines) or f"prompts {old.id} and {new.id} say the same"


def edited(genome: Genome) -> str:
    """The text that $EDITOR leaves when it is given the genome's. Raises PromptsError without an editor, or if it fails."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompt.txt"
        path.write_text("\n".join(genome.principles) if genome.kind == "principles" else genome.document, encoding="utf-8")
        try:
            subprocess.run([*editor, str(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise PromptsError(f"EDITOR is {editor[0]!r}, which failed ({error}); set another, or use `add --file`") from error
        return path.read_text(encoding="utf-8")


def _show(workdir: str, arguments: list[str]) -> str:
    population = load(workdir)
    return description(population, find(population, *arguments))


def _diff(workdir: str, arguments: list[str]) -> str:
    population = load(workdir)
    new = find(population, arguments[0])
    if len(arguments) == 1 and not new.parents:
        raise PromptsError(f"prompt {new.id} has no parent; name another to compare it with")
    return difference(find(population, arguments[1]) if len(arguments) == 2 else population[new.parents[0]], new)


def _origins(workdir: str, arguments: list[str]) -> str:
    population = load(workdir)
    found = origins.origins(workdir, population, find(population, *arguments))
    return "\n".join(f"{one.line}\n    {one}" for one in found) or "the prompt is empty"


def _add(workdir: str, arguments: list[str]) -> str:
    del arguments
    path = flags.FLAGS.file
    text = Path(path).read_text(encoding="utf-8") if path else sys.stdin.read()
    return _written(workdir, add(workdir, text, flags.FLAGS.parent, flags.FLAGS.note))


def _edit(workdir: str, arguments: list[str]) -> str:
    [name] = arguments
    parent = find(load(workdir), name)
    return _written(workdir, add(workdir, edited(parent.genome), str(parent.id), flags.FLAGS.note))


def _marking(kind: str) -> Callable[[str, list[str]], str]:
    return lambda workdir, arguments: _written(workdir, mark(workdir, kind, *arguments, flags.FLAGS.note))


def _export(workdir: str, arguments: list[str]) -> str:
    return f"written: {export(workdir, *arguments, flags.FLAGS.form)}"


def _import(workdir: str, arguments: list[str]) -> str:
    outcome = take(workdir, *arguments, flags.FLAGS.parent, flags.FLAGS.note)
    lines = [f"prompt {number}: {said}" for number, said in outcome.items()]
    written = sum(not said.startswith("left out") for said in outcome.values())
    return "\n".join([*lines, f"{written} of {len(outcome)} prompts wait in {Path(workdir) / inbox.FOLDER}"])


def _written(workdir: str, name: str) -> str:
    return (
        f"written: {Path(workdir) / inbox.FOLDER / name}.json; a run takes it in after its current step, one that has ended "
        "when it goes on (raise --config.num_steps if it is done)"
    )


# command -> what it does with (workdir, arguments), and how many arguments it takes
COMMANDS = {
    "list": (lambda workdir, arguments: listing(workdir), (0,)),
    "show": (_show, (1,)),
    "diff": (_diff, (1, 2)),
    "origins": (_origins, (1,)),
    "add": (_add, (0,)),
    "edit": (_edit, (1,)),
    "retire": (_marking("retire"), (1,)),
    "pin": (_marking("pin"), (1,)),
    "unpin": (_marking("unpin"), (1,)),
    "export": (_export, (1,)),
    "import": (_import, (1,)),
}


def main(argv: list[str]) -> None:
    """Runs one command; what a user can mend ends in one sentence."""
    if len(argv) < 2 or argv[1] not in COMMANDS:
        raise app.UsageError(f"the command is {argv[1:2]}; use one of {', '.join(COMMANDS)}")
    command, counts = COMMANDS[argv[1]]
    if len(argv) - 2 not in counts:
        raise app.UsageError(f"{argv[1]} takes {' or '.join(map(str, counts))} arguments, but got {argv[2:]}")
    try:
        sys.stdout.write(command(flags.FLAGS.workdir, argv[2:]) + "\n")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Work directory of the run.", required=True)
    flags.DEFINE_string("parent", "best", "add, import: whose child the text is; a number, best or newest.")
    flags.DEFINE_enum("form", "own", list(exchange.FORMS), "export: a population.json, or the authors' evolution_pool.json.")
    flags.DEFINE_string("file", "", "add: a file with the text; standard input if not given.")
    flags.DEFINE_string("note", "", "Why, in a sentence; it is kept with the edit.")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
