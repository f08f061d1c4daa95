#!/usr/bin/env bash
# What tpu_vm.sh runs on every worker of a slice, in the copy of the checkout there; of use on any machine reached by ssh.
#
#   ./launch/worker.sh set-up [--tpu|--cuda]                       Python if need be, .venv, espl_jax, the embedded model
#   ./launch/worker.sh start --workdir=DIR [--max-restarts=N] -- flags of espl_jax.main     in the background, supervised
#   ./launch/worker.sh status                                      "running", "ended CODE" or "not started"; the log's last line
#   ./launch/worker.sh stop                                        SIGTERM: the run saves its state and ends with 75
#
# The log is runs/worker.log.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/arguments.sh
source launch/environment.sh
source launch/supervise.sh

workdir=""
max_restarts=20

is_running() {
  [ -f runs/worker.pid ] && kill -0 "$(cat runs/worker.pid)" 2>/dev/null
}

# The images of TPU VMs have Ubuntu 22.04, whose Python is 3.10.
set_up() {
  if [ -z "${PYTHON:-}" ] && ! find_python >/dev/null 2>&1; then
    python3 -m pip install --quiet --user uv
    "$HOME/.local/bin/uv" python install 3.12
    PYTHON=$("$HOME/.local/bin/uv" python find 3.12)
  fi
  set_up_environment "$@"
}

# A run appends to its records and renames them, which an object store cannot do: gs://BUCKET/DIR becomes a path below a mount
# of the bucket, with gcsfuse. Nothing is cached there, since other workers write too.
local_path() {
  local bucket=${1#gs://} point
  bucket=${bucket%%/*}
  point=$HOME/buckets/$bucket
  if ! mountpoint -q "$point"; then
    command -v gcsfuse >/dev/null || install_gcsfuse >&2
    mkdir -p "$point"
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=100000 "$bucket" "$point" >&2
  fi
  echo "$point/${1#"gs://$bucket/"}"
}

# https://cloud.google.com/storage/docs/cloud-storage-fuse/install
install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc apt=https://packages.cloud.google.com/apt
  curl -fsSL "$apt/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $apt gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq
  sudo apt-get install -qq -y gcsfuse
}

start() {
  read_flags "workdir max-restarts" "$@"
  check_main
  if is_running; then
    echo "a run is going on here already (process $(cat runs/worker.pid)); it is left alone"
    return
  fi
  case $workdir in gs://*) local_path "$workdir" >/dev/null ;; esac # here, where what goes wrong is seen
  mkdir -p runs
  rm -f runs/worker.exit
  nohup setsid "$0" keep "$@" >>runs/worker.log 2>&1 </dev/null &
  echo $! >runs/worker.pid
}

# The run itself; a worker whose process was killed (137) is as good as one whose peer was.
keep() {
  local code=0
  read_flags "workdir max-restarts" "$@"
  check_main
  case $workdir in gs://*) workdir=$(local_path "$workdir") ;; esac
  supervise --workdir="$workdir" --max-restarts="$max_restarts" --restart-on=75,137 -- \
    .venv/bin/python -m espl_jax.main --workdir="$workdir" ${MAIN[@]+"${MAIN[@]}"} || code=$?
  echo "$code" >runs/worker.exit
}

status() {
  if is_running; then
    echo running
  elif [ -f runs/worker.exit ]; then
    echo "ended $(cat runs/worker.exit)"
  else
    echo "not started"
  fi
  [ ! -f runs/worker.log ] || tail -n 1 runs/worker.log
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  set-up) set_up "$@" ;;
  start | keep | status) "$command" "$@" ;;
  stop) if is_running; then kill -TERM "$(cat runs/worker.pid)"; fi ;;
  *) fail "the command is $(quote "$command"); use set-up, start, status or stop" ;;
esac
