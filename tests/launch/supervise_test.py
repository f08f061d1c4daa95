"""When a command is started again: supervise.sh, the batch script and worker.sh with stand-ins for the run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Appends a line to `calls`, then does what the first line of `script` says: saves a checkpoint, or not, and ends with a code.
RUN = """#!/bin/bash
cd "$(dirname "$0")"
echo "$*" >> calls
read -r act < script; sed -i 1d script
case $act in
  saves-*) mkdir -p "run/checkpoints/$(wc -l < calls)" ;;
  waits-*) trap 'kill $!; exit 75' TERM; sleep 30 & touch waiting; wait ;;
esac
exit "${act#*-}"
"""


@pytest.fixture()
def run(tmp_path) -> Path:
    """A stand-in for the run; `script` next to it says what it does when."""
    path = tmp_path / "run.sh"
    path.write_text(RUN)
    path.chmod(0o755)
    return path


def supervised(run: Path, script: str, *flags: str) -> subprocess.CompletedProcess:
    run.with_name("script").write_text(script.replace(" ", "\n") + "\n")
    line = ["./launch/supervise.sh", f"--workdir={run.parent / 'run'}", "--delay=0", *flags, "--", str(run), "a b"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)


def calls(run: Path) -> list[str]:
    return run.with_name("calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("script", "flags", "code", "times"),
    [
        ("ends-0", [], 0, 1),
        ("ends-75 ends-0", [], 0, 2),
        ("ends-1", [], 1, 1),
        ("saves-75 ends-2", [], 2, 2),
        ("ends-137 ends-0", [], 137, 1),
        ("ends-137 ends-75 ends-0", ["--restart-on=75,137"], 0, 3),
        ("ends-75 ends-75 ends-75 ends-75", ["--max-restarts=2"], 1, 3),
        # A newer checkpoint counts as progress, and the counting begins again.
        ("ends-75 saves-75 ends-75 saves-75 ends-0", ["--max-restarts=1"], 0, 5),
        ("ends-75 saves-75 ends-75 ends-75", ["--max-restarts=1"], 1, 4),
        ("ends-75", ["--max-restarts=0"], 1, 1),
    ],
)
def test_what_is_started_again_and_how_often(run, script, flags, code, times):
    done = supervised(run, script, *flags)
    assert done.returncode == code, done.stderr
    assert calls(run) == ["a b"] * times
    gave_up = code == 1 and "ends-1" not in script.split()
    assert ("gave no newer checkpoint" in done.stderr) == gave_up


def test_a_signal_is_passed_on_and_ends_the_restarts(run):
    run.with_name("script").write_text("waits-0\nends-0\n")
    line = ["./launch/supervise.sh", f"--workdir={run.parent / 'run'}", "--", str(run)]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not run.with_name("waiting").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 75 and len(calls(run)) == 1


@pytest.mark.parametrize(
    ("state", "requeued"),
    [("RUNNING", True), ("COMPLETING", False), ("PREEMPTED", False)],
)
def test_a_slurm_job_goes_back_into_the_queue_only_if_its_time_is_up(run, state, requeued):
    (run.parent / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
    (run.parent / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {run.parent}/scontrolled\n')
    for name in ("squeue", "scontrol"):
        (run.parent / name).chmod(0o755)
    run.with_name("script").write_text("waits-0\n")
    environment = os.environ | {
        "PATH": f"{run.parent}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "17",
    }  # fmt: skip
    line = ["bash", str(ROOT / "launch/slurm_job.sh"), f"--workdir={run.parent / 'run'}", "--", str(run)]
    process = subprocess.Popen(line, cwd="/", env=environment)
    while not run.with_name("waiting").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == (0 if requeued else 75)
    scontrolled = run.with_name("scontrolled")
    assert scontrolled.exists() == requeued and (not requeued or scontrolled.read_text() == "requeue 17\n")


def test_a_slurm_job_restarts_in_place_and_passes_errors_on(run):
    environment = os.environ | {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "17"}
    run.with_name("script").write_text("ends-75\nends-3\n")
    line = ["bash", str(ROOT / "launch/slurm_job.sh"), f"--workdir={run.parent}", "--delay=0", "--", str(run)]
    assert subprocess.run(line, cwd="/", env=environment, timeout=60).returncode == 3
    assert len(calls(run)) == 2


# A Cloud TPU that goes through the states of `states`, whose workers go through those of `answers`.
GCLOUD = """#!/bin/bash
here=$(dirname "$0")
echo "$*" >> "$here/calls"
next() { head -n 1 "$here/$1"; sed -i 1d "$here/$1"; }
case "$*" in
  *describe*) next states ;;
  *worker.sh\\ status*) next answers | tr , '\\n' ;;
  *"tpu-vm create"*) [ ! -e "$here/no-capacity" ] || { rm "$here/no-capacity"; exit 1; } ;;
esac
"""


def watched(folder: Path, command: str, states: str, answers: str) -> tuple[int, list[str]]:
    """The exit code of the launcher and the verbs of the commands that it gave."""
    (folder / "gcloud").write_text(GCLOUD)
    (folder / "git").write_text("#!/bin/sh\n")
    for name in ("gcloud", "git"):
        (folder / name).chmod(0o755)
    (folder / "states").write_text(states.replace(" ", "\n") + "\n")
    (folder / "answers").write_text(answers.replace("; ", "\n") + "\n")
    line = f"./launch/tpu_vm.sh {command} --name=a --zone=us-east5-b --accelerator=v6e-16 --workdir=gs://b/r -- --config=x"
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    (folder / "sleep").write_text("#!/bin/sh\n")
    (folder / "sleep").chmod(0o755)
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    verbs = {"worker.sh start": "start", "worker.sh status": "ask", "set-up": "install"}
    given = [
        next((verb for mark, verb in verbs.items() if mark in call), call.split()[3])
        for call in (folder / "calls").read_text().splitlines()
    ]
    return done.returncode, given


def test_a_run_is_watched_to_its_end(tmp_path):
    code, given = watched(tmp_path, "run", "READY READY", "running,running; ended 0,ended 0")
    assert code == 0 and given == ["start", "describe", "ask", "describe", "ask"]


def test_the_worst_exit_code_is_the_runs(tmp_path):
    code, given = watched(tmp_path, "run", "READY READY", "running,ended 1; ended 0,ended 1")
    assert code == 1 and len(given) == 5


def test_a_preempted_slice_is_made_again_and_the_run_goes_on(tmp_path):
    """Asked twice: once by the watch, once before anything is deleted. The first attempt finds no capacity."""
    (tmp_path / "no-capacity").touch()
    code, given = watched(tmp_path, "run", "PREEMPTED PREEMPTED ABSENT ABSENT READY", "ended 0,ended 0")
    again = ["create", "scp", "install", "start"]
    assert code == 0
    assert given == ["start", *["describe"] * 2, "delete", "create", *["describe"] * 2, *again, "describe", "ask"]


def test_a_worker_that_was_booted_again_is_started(tmp_path):
    code, given = watched(tmp_path, "run", "READY READY", "running,not started; ended 0,ended 0")
    assert code == 0 and given == ["start", "describe", "ask", "start", "describe", "ask"]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ("READY READY", ["describe", "start"]),
        ("PREEMPTED READY", ["describe", "delete", "create", "scp", "install", "start"]),
    ],
)
def test_resume_makes_what_is_missing(tmp_path, states, expected):
    code, given = watched(tmp_path, "resume", states, "ended 0,ended 0")
    assert code == 0 and given == [*expected, "describe", "ask"]


PYTHON = f"""#!/bin/sh
[ "$1" = -m ] || exec {sys.executable} "$@"
echo "$@" >> got
[ ! -e wait ] || exec sleep 30
exit 3
"""


def test_a_worker_runs_in_the_background_and_tells_how_it_ended(tmp_path):
    """In a copy of launch/, with a stand-in for the environment's python."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    worker = tmp_path / "worker"
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    text = (ROOT / "launch" / "worker.sh").read_text().replace('cd "$(dirname "$0")/.."', f"cd {tmp_path}")
    worker.write_text(text)
    worker.chmod(0o755)

    def ask(*words: str) -> str:
        done = subprocess.run([worker, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert ask("status") == "not started\n"
    ask("start", "--workdir=d", "--", "--config=a b")
    while "running" in (said := ask("status")):
        time.sleep(0.05)
    assert said.startswith("ended 3")
    assert (tmp_path / "got").read_text() == "-m espl_jax.main --workdir=d --config=a b --config.hosts.coordinator=auto\n"
    (tmp_path / "wait").touch()
    ask("start", "--workdir=d", "--", "--config=x")
    assert ask("status").startswith("running") and "left alone" in ask("start", "--workdir=d", "--", "--config=x")
    ask("stop")
    while ask("status").startswith("running"):
        time.sleep(0.05)
    assert ask("status").split()[:2] in (["ended", "143"], ["ended", "75"]), "75: it was told before it had begun"
