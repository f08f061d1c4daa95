"""Dry runs of the launchers, in the form that goldens and docs have: a line "$ command", then what it prints.

`python -m tests.launch.dry_run` writes tests/goldens/launch/*.txt and the blocks of docs/launch.md anew; look at what changed.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens" / "launch"
DOCS = ROOT / "docs" / "launch.md"
BLOCK = re.compile(r"(?<=^```console\n)\$ \./launch/.*?(?=^```$)", re.DOTALL | re.MULTILINE)

_SLICE = "--dry-run --name=espl --zone=us-east5-b"
_WORKLOAD = "--cluster=pod --zone=us-east5-b --name=espl --image=us-docker.pkg.dev/p/r/espl_jax:1 --accelerator=v5p-32"
_FLAGS = "-- --config=experiments/beyondaime.py --config.seed=1"
_HOSTILE = (
    "-- --config=experiments/beyondaime.py '--config.model.chat_template_arguments={\"a\": \"b\"}' "
    "'--config.task.question_suffix= It'\\''s `id` $HOME & more; #!*?~\\' --config.records.wandb_project="
)
# name of the golden -> command
CASES = {
    "tpu_vm_create_on_demand": f"./launch/tpu_vm.sh create {_SLICE} --accelerator=v5litepod-16 --project=my-project",
    "tpu_vm_create_other_version": f"./launch/tpu_vm.sh create {_SLICE} --accelerator=v4-8 --version=tpu-vm-base --spot",
    "tpu_vm_run_detached": f"./launch/tpu_vm.sh run {_SLICE} --accelerator=v6e-8 --workdir=gs://b/run --detach {_FLAGS}",
    "tpu_vm_run_hostile": f"./launch/tpu_vm.sh run {_SLICE} --accelerator=v6e-8 --detach '--workdir=gs://b/my $run' {_HOSTILE}",
    "gke_create_spot": "./launch/gke.sh create --dry-run --cluster=c --zone=us-east5-b --accelerator=v5p-32 --bucket=b1 --spot",
    "gke_run_hostile": f"./launch/gke.sh run --dry-run {_WORKLOAD} '--workdir=gs://b/my $run' {_HOSTILE}",
    "slurm_run_per_node": f"./launch/slurm.sh run --dry-run --name=a --time=4:00:00 --processes=node --workdir=/s/run {_FLAGS}",
    "slurm_run_hostile": f"./launch/slurm.sh run --dry-run --name=a --time=1-0 --gpus=1 '--workdir=/s/my $run' {_HOSTILE}",
}


def shown(command: str) -> str:
    """The command and what it prints, both output streams. Raises CalledProcessError when it fails."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, text=True, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
    )  # fmt: skip
    return f"$ {command}\n{done.stdout}"


def command_of(block: str) -> str:
    """The command of a block; it may be continued with backslashes at the ends of lines."""
    return re.match(r"\$ ((?:.*\\\n)*.*)\n", block)[1]


def main() -> None:
    GOLDENS.mkdir(parents=True, exist_ok=True)
    for name, command in CASES.items():
        (GOLDENS / f"{name}.txt").write_text(shown(command), encoding="utf-8")
    text = DOCS.read_text(encoding="utf-8")
    DOCS.write_text(BLOCK.sub(lambda block: shown(command_of(block[0])), text), encoding="utf-8")


if __name__ == "__main__":
    main()
