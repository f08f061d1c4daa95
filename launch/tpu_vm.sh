#!/usr/bin/env bash
# E-SPL on a Cloud TPU slice of one or many hosts, through gcloud.
#
#   ./launch/tpu_vm.sh create --name=NAME --zone=ZONE --accelerator=v6e-8 [--spot]
#   ./launch/tpu_vm.sh run    --name=NAME --zone=ZONE --accelerator=v6e-8 [--spot] --workdir=gs://BUCKET/DIR [--detach] -- FLAGS
#   ./launch/tpu_vm.sh resume ...as run: makes the slice again first if it is gone or was preempted
#   ./launch/tpu_vm.sh status --name=NAME --zone=ZONE
#   ./launch/tpu_vm.sh delete --name=NAME --zone=ZONE
#
# create makes the slice and installs the last commit of this checkout on every worker. run starts espl_jax.main with FLAGS on
# all of them and then keeps watch: a preempted slice is deleted and made again, and the run goes on from gs://, which every
# worker mounts with gcsfuse. Each starts its process again when it ends with 75 (supervise.sh). --detach leaves after starting;
# resume takes up the watch.
#
#   --project=P       Google Cloud project (default: gcloud's)
#   --version=V       TPU software version (default: the one that goes with the accelerator)
#   --poll=60         seconds between two looks while keeping watch
#   --max-restarts=20 of each worker's process, without a newer checkpoint between
#   --dry-run         prints the commands and does nothing
#
# Nothing secret is sent: a token for gated models must be on the workers already (huggingface-cli login).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/arguments.sh

name="" zone="" project="" accelerator="" version="" spot="" workdir="" detach="" poll=60 max_restarts=20
ARCHIVE=build/espl_jax.tar.gz
UNFINISHED=""  # not empty when making the slice again failed half way

# tpu VERB NAME WORDS: one gcloud command about the slice.
tpu() {
  local verb=$1 place=$2
  shift 2
  perform gcloud compute tpus tpu-vm "$verb" "$place" --zone="$zone" ${project:+"--project=$project"} "$@"
}

on_workers() {
  tpu ssh "$name" --worker=all --command="$*"
}

# Versions: https://cloud.google.com/tpu/docs/runtimes
version_of() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--accelerator is $(quote "$1"); use v4-N, v5litepod-N, v5p-N or v6e-N, or give --version too" ;;
  esac
}

# Chained by &&: keep_watch tries again what fails, and bash ignores set -e meanwhile.
create() {
  tpu create "$name" --accelerator-type="$accelerator" --version="$version" ${spot:+--spot} &&
    note "The last commit of this checkout goes to every worker, which then installs it." &&
    perform mkdir -p build &&
    perform git archive --format=tar.gz --output="$ARCHIVE" HEAD &&
    tpu scp "$ARCHIVE" "$name:espl_jax.tar.gz" --worker=all &&
    on_workers "mkdir -p espl_jax && tar -xzf espl_jax.tar.gz -C espl_jax && cd espl_jax && ./launch/worker.sh set-up --tpu"
}

delete() {
  tpu delete "$name" --quiet
}

state() {
  tpu describe "$name" --format='value(state)' 2>/dev/null || echo ABSENT
}

start() {
  local flags
  flags=$(quote --max-restarts="$max_restarts" --workdir="$workdir" -- "${MAIN[@]}")
  on_workers "cd espl_jax && ./launch/worker.sh start $flags"
}

# What the workers say of their processes, one word or two each; nothing when they cannot be asked.
progress() {
  on_workers "cd espl_jax && ./launch/worker.sh status" 2>/dev/null | grep -E '^(running|ended [0-9]+|not started)$' || true
}

recreate() {
  note "The slice is gone or was preempted: it is made again, and the run goes on from $workdir."
  UNFINISHED=1
  if [ "$1" != ABSENT ]; then delete || return 1; fi
  create && start && UNFINISHED=""
}

# Brings a slice in any state to where all workers run.
bring_up() {
  local now
  if [ -n "$DRY_RUN" ]; then
    tpu describe "$name" --format='value(state)'
    note "A dry run cannot ask for the state: what follows is for a slice that was preempted."
    note "One that is READY is only started (the last command), one that is absent is not deleted first."
    recreate PREEMPTED
    return
  fi
  now=$(state)
  case $now in
    READY) if [ -n "$UNFINISHED" ]; then recreate READY; else start; fi ;;
    PREEMPTED | TERMINATED | STOPPED | ABSENT) recreate "$now" ;;
    *) note "the slice is $now; waiting" ;;
  esac
}

# Looks after the run until all workers have ended well, or none runs any more.
keep_watch() {
  local said code
  if [ -n "$detach" ]; then return; fi
  if [ -n "$DRY_RUN" ]; then
    note "Then, every $poll s until the run has ended (--detach leaves it alone): the state of the slice as with resume, and"
    on_workers "cd espl_jax && ./launch/worker.sh status"
    return
  fi
  while true; do
    sleep "$poll"
    if [ "$(state)" != READY ] || [ -n "$UNFINISHED" ]; then
      bring_up || note "that failed; trying again in $poll s"
      continue
    fi
    said=$(progress)
    case $said in
      *"not started"* | *"ended 75"*) start || true ;; # a worker that was booted again, or told to end
      "" | *running*) ;;
      *)
        code=$(sed -n 's/^ended //p' <<<"$said" | sort -n | tail -n 1)
        note "all workers have ended, the worst with exit code $code"
        exit "$code"
        ;;
    esac
  done
}

status() {
  tpu describe "$name" --format='value(state)'
  on_workers "cd espl_jax && ./launch/worker.sh status"
}

command=${1:-}
case $command in
  create | run | resume | status | delete) shift ;;
  *) fail "the command is $(quote "$command"); use create, run, resume, status or delete" ;;
esac
read_flags "name zone project accelerator version spot! workdir detach! poll max-restarts" "$@"
check name '[a-z]([-a-z0-9]{0,61}[a-z0-9])?' "use lower-case letters, digits and hyphens, 63 at the most, a letter first"
check zone '[a-z]+-[a-z]+[0-9]+-[a-z]' "give the zone of the slice, for example us-east5-b"
check project '[-a-z0-9:.]*' "give the id of a Google Cloud project"
check version '[-a-z0-9.]*' "give a TPU software version, for example v2-alpha-tpuv6e"
check poll '[1-9][0-9]*' "give seconds, 1 or more"
check max-restarts '[0-9]+' "give a number, 0 or more"
case $command in
  create | run | resume)
    check accelerator 'v[0-9]+[a-z]*-[1-9][0-9]*' "give the kind and size of the slice, for example v6e-8"
    [ -n "$version" ] || version=$(version_of "$accelerator")
    ;;
esac
case $command in
  run | resume)
    check workdir 'gs://[^/]+/.+' "give a directory on Cloud Storage, gs://BUCKET/DIR: all need it, and may be preempted"
    check_main
    ;;
esac
case $command in
  run) start ;;
  resume) bring_up ;;
  *) "$command" ;;
esac
case $command in
  run | resume) keep_watch ;;
esac
