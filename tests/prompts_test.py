"""The command line for people's edits, and that a run takes them in, keeps them and is the same run after a kill."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from espl_jax import prompts
from espl_jax.fingerprint import fingerprint
from espl_jax.records import inbox
from tests import tiny_run

ROOT = Path(__file__).parents[1]
SMALL = {"evaluation.every": 0}


def command(workdir, *arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "espl_jax.prompts", *arguments, f"--workdir={workdir}"]
    environment = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(line, cwd=ROOT, input=text, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def two_steps(tiny_qwen3, tmp_path_factory) -> Path:
    """A run of 2 steps; copy it before changing it."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    tiny_run.run(tiny_qwen3, workdir, num_steps=2, **SMALL)
    return workdir


@pytest.fixture()
def workdir(two_steps, tmp_path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "run"))


def files(workdir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(workdir)): path.read_bytes() for path in sorted(workdir.rglob("*")) if path.is_file()}


def test_a_run_takes_edits_in_and_a_resumed_one_is_the_same(workdir, tiny_qwen3):
    before = files(workdir)
    prompts.add(workdir, "Count the letters.\nAdd one if odd.", parent="0", note="by hand")
    prompts.retire(workdir, "0")
    after = files(workdir)
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 2, "nothing saved may change"
    assert prompts.listing(workdir).count("waits for the run to go on") == 2

    born = len(prompts.load(workdir).prompts)
    state = tiny_run.run(tiny_qwen3, workdir, num_steps=3, **SMALL)
    child = state.population[born]
    assert child.genome.principles == ("Count the letters.", "Add one if odd.")
    assert (child.operator, child.parents, child.born) == ("human", (0,), 2) and 0 in state.population.retired
    competed = [json.loads(line)["id"] for line in (workdir / "steps/000003/prompts.jsonl").read_text().splitlines()]
    assert child.id in competed and 0 not in competed
    assert list(inbox.fates(workdir).values()) == [inbox.Fate(2, child.id), inbox.Fate(2, 0)]
    assert prompts.listing(workdir).count("taken in after step 2") == 2

    # Killed after step 3 was recorded and before its checkpoint: it goes on from step 2 and takes the edits in again.
    whole = fingerprint(workdir)
    shutil.rmtree(workdir / "checkpoints" / "3")
    assert tiny_run.run(tiny_qwen3, workdir, num_steps=3, **SMALL).population == state.population
    assert fingerprint(workdir) == whole


def test_the_command_line_from_writing_to_showing(workdir):
    (workdir / "text.txt").write_text("1. Count 'twice'.\n\n- $HOME is \"quoted\".\n", encoding="utf-8")
    done = command(workdir, "add", f"--file={workdir / 'text.txt'}", "--parent=0", "--note=a test")
    assert done.returncode == 0 and "written: " in done.stdout, done.stderr
    done = command(workdir, "add", text="From standard input.\n")
    assert done.returncode == 0, done.stderr
    editor = workdir / "editor.py"
    editor.write_text("import sys\nopen(sys.argv[1], 'a').write('\\nEdited.\\n')\n")
    done = command(workdir, "edit", "0", EDITOR=shlex.join([sys.executable, str(editor)]))
    assert done.returncode == 0, done.stderr
    by_file, by_stdin, by_editor = inbox.edits(workdir).values()
    assert by_file.genome.principles == ("Count 'twice'.", '$HOME is "quoted".') and by_file.note == "a test"
    assert by_stdin.genome.principles == ("From standard input.",)
    assert by_editor.genome.principles == (*by_editor.seen.principles, "Edited.")
    listed = command(workdir, "list").stdout
    assert listed.count("waits for the run to go on") == 3 and "root" in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "77"], "there is no prompt 77"),
        (["show", "worst"], "the prompt is 'worst'"),
        (["diff", "0"], "prompt 0 has no parent"),
        (["retire", "newest", "--workdir=/nowhere"], "'/nowhere', where no run has recorded a population"),
        (["edit", "0", "EDITOR=false"], "EDITOR is 'false', which failed"),
    ],
)
def test_mistakes_are_one_sentence(two_steps, arguments, said):
    environment = dict(argument.split("=") for argument in arguments if argument.startswith("EDITOR"))
    arguments = [argument for argument in arguments if not argument.startswith("EDITOR")]
    if any(argument.startswith("--workdir") for argument in arguments):
        workdir = "/nowhere"
    else:
        workdir = two_steps
    done = command(workdir, *arguments, **environment)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_show_and_diff_say_what_changed(two_steps):
    population = prompts.load(two_steps)
    child = population.prompts[-1]
    assert child.parents, "no child was born in 2 steps; the test needs another seed"
    shown = prompts.description(population, child)
    assert f"prompt {child.id}: {child.operator} of {list(child.parents)}, born in step {child.born}" in shown
    changed = prompts.difference(population[child.parents[0]], child).splitlines()
    new = [text for text in child.genome.principles if text not in population[child.parents[0]].genome.principles]
    assert [line[3:] for line in changed if line.startswith("+- ")] == new
    assert prompts.difference(child, child) == f"prompts {child.id} and {child.id} say the same"


def test_writing_needs_no_device(two_steps):
    """Importing the module must not start JAX's backends: a run may hold the accelerator."""
    code = "import sys, espl_jax.prompts; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_pins_exports_and_imports_from_the_command_line(workdir, tiny_qwen3):
    done = command(workdir, "pin", "0")
    assert done.returncode == 0 and "written: " in done.stdout, done.stderr
    assert command(workdir, "unpin", "0").stderr.strip() == "error: prompt 0 is not pinned", "not yet"

    pool = workdir / "evolution_pool.json"
    assert command(workdir, "export", str(pool), "--form=authors").returncode == 0
    assert "is there already" in command(workdir, "export", str(pool)).stderr
    data = json.loads(pool.read_text())
    alive = len(prompts.load(workdir).alive)
    assert len(data["evolution_pool"]) == alive
    data["evolution_pool"].append({"program_id": 40, "principles": {"C0": "Count the\n letters.", "C7": "Add them."}})
    pool.write_text(json.dumps(data))
    done = command(workdir, "import", str(pool), "--parent=0")
    assert done.returncode == 0 and done.stdout.count("left out: the text is that of prompt") == alive, done.stderr
    assert f"1 of {alive + 1} prompts wait" in done.stdout
    done = command(workdir, "import", str(workdir / "config.json"))
    assert done.returncode == 1 and "cannot be imported: it is neither a population.json nor" in done.stderr

    state = tiny_run.run(tiny_qwen3, workdir, num_steps=3, **SMALL)
    child = next(p for p in state.population.prompts if p.genome.principles == ("Count the letters.", "Add them."))
    assert child.operator == "human" and child.parents == (0,) and state.population.pinned == {0}
    competed = [json.loads(line)["id"] for line in (workdir / "steps/000003/prompts.jsonl").read_text().splitlines()]
    assert competed[0] == 0
    assert command(workdir, "list").stdout.splitlines()[1].split()[0].endswith("p")
