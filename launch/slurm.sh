#!/usr/bin/env bash
# E-SPL on GPU nodes of a SLURM cluster.
#
#   ./launch/slurm.sh create                       sets up .venv here, for CUDA (on a login node, on a shared disk)
#   ./launch/slurm.sh run    --name=NAME --nodes=2 --gpus=8 --time=04:00:00 --workdir=/SHARED/DIR -- FLAGS of espl_jax.main
#   ./launch/slurm.sh resume ...as run: a job of the same name waits until the one before has ended
#   ./launch/slurm.sh status --name=NAME
#   ./launch/slurm.sh delete --name=NAME
#
# The job is slurm_job.sh. It starts again by itself: in place when a process was lost, and through the queue when its time is
# up (SIGTERM comes --grace seconds before), when it was preempted, or when a node failed.
#
#   --gpus=8          per node
#   --processes=gpu   one process per GPU, which is what jax.distributed makes of SLURM by itself | node: one per node
#   --partition=P --account=A
#   --grace=120       seconds to save the state in (see also config.records.grace)
#   --max-restarts=20 in place, without a newer checkpoint between
#   --dry-run         prints the commands and does nothing
#
# What else a site wants goes through sbatch's own variables: SBATCH_CONSTRAINT=a100 SBATCH_QOS=... ./launch/slurm.sh run ...
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/arguments.sh

name="" nodes=1 gpus=8 processes=gpu time="" partition="" account="" workdir="" grace=120 max_restarts=20

create() {
  note "Sets up .venv with the CUDA extra and fetches the embedded model."
  perform ./launch/worker.sh set-up --cuda
}

# jax.distributed shows a process of SLURM the one GPU with the number of its SLURM_LOCALID, among all GPUs of the node (hence
# --gpus-per-node and no --gpus-per-task), unless JAX_LOCAL_DEVICE_IDS names others.
run() {
  local per_node=$gpus devices=()
  if [ "$processes" = node ]; then
    per_node=1
    devices=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))")
  fi
  perform sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$per_node" --gpus-per-node="$gpus" --time="$time" \
    ${partition:+"--partition=$partition"} ${account:+"--account=$account"} \
    --requeue --signal=B:TERM@"$grace" --dependency=singleton --open-mode=append --output="slurm-$name.log" \
    launch/slurm_job.sh --workdir="$workdir" --max-restarts="$max_restarts" --restart-on=75,137 -- \
    srun --kill-on-bad-exit=1 ${devices[@]+"${devices[@]}"} \
    .venv/bin/python -m espl_jax.main --workdir="$workdir" "${MAIN[@]}"
}

resume() {
  run
}

status() {
  perform squeue --me --name="$name"
}

delete() {
  perform scancel --me --name="$name"
}

command=${1:-}
case $command in
  create | run | resume | status | delete) shift ;;
  *) fail "the command is $(quote "$command"); use create, run, resume, status or delete" ;;
esac
read_flags "name nodes gpus processes time partition account workdir grace max-restarts" "$@"
if [ "$command" != create ]; then
  check name '[A-Za-z0-9][-A-Za-z0-9_.]*' "use letters, digits, hyphens, dots and underscores"
fi
case $command in
  run | resume)
    check nodes '[1-9][0-9]*' "give the number of nodes, 1 or more"
    check gpus '[1-9][0-9]*' "give the number of GPUs of a node, 1 or more"
    check processes 'gpu|node' "use gpu or node"
    check time '([0-9]+-)?[0-9]+(:[0-9]+){0,2}' "give the longest time of the job as sbatch reads it, for example 04:00:00"
    check partition '[A-Za-z0-9_.,-]*' "give the name of a partition (sinfo lists them)"
    check account '[A-Za-z0-9_.-]*' "give the name of an account"
    check grace '[1-9][0-9]*' "give seconds, 1 or more"
    check max-restarts '[0-9]+' "give a number, 0 or more"
    check workdir '/.+' "give an absolute path on a disk that all nodes share"
    check_main
    ;;
esac
"$command"
