#!/usr/bin/env bash
# Starts a command again for as long as it ends by asking for that, and gets somewhere meanwhile.
#
#   ./launch/supervise.sh --workdir=DIR [--max-restarts=20] [--restart-on=75] [--delay=10] -- COMMAND ...
#
# A run of espl_jax.main ends with 75 when its state is saved and the same command would go on: it was told to end (SIGTERM), or
# another of its processes is gone. The command is started again `delay` seconds later; after max-restarts times without a newer
# checkpoint in DIR that ends, with exit code 1. Any other exit code (but those of --restart-on) is passed on.
# SIGTERM and SIGINT are passed on to the command as SIGTERM; it is not started again then, and its exit code is passed on.
# slurm_job.sh sources this file for the function `supervise`, with the same arguments.

SUPERVISED=""   # the process id of the command
TOLD_TO_END=""  # not empty once a signal came
INTERRUPTED=""

_tell_to_end() {
  TOLD_TO_END=1
  INTERRUPTED=1
  [ -z "$SUPERVISED" ] || kill -TERM "$SUPERVISED" 2>/dev/null || true
}

# The exit code of the command, however often a signal interrupts the waiting.
_wait_for_command() {
  local code
  while true; do
    INTERRUPTED=""
    code=0
    wait "$SUPERVISED" || code=$?
    [ -n "$INTERRUPTED" ] || return "$code"
  done
}

_newest_step() {
  local python=.venv/bin/python
  [ -x "$python" ] || python=python3
  "$python" launch/newest_step.py "$1" || echo unknown
}

supervise() {
  local workdir="" max_restarts=20 restart_on=75 delay=10 without_progress=0 code before after
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
      --workdir=?*) workdir=${1#*=} ;;
      --max-restarts=*) max_restarts=${1#*=} ;;
      --restart-on=?*) restart_on=${1#*=} ;;
      --delay=*) delay=${1#*=} ;;
      *) echo "error: supervise has no flag $1; use --workdir, --max-restarts, --restart-on or --delay" >&2 && return 2 ;;
    esac
    shift
  done
  [[ $max_restarts =~ ^[0-9]+$ ]] || { echo "error: --max-restarts is '$max_restarts'; give a number" >&2 && return 2; }
  [ -n "$workdir" ] || { echo "error: --workdir is missing; give the work directory of the run" >&2 && return 2; }
  [ $# -gt 1 ] || { echo "error: there is no command behind --; give one" >&2 && return 2; }
  shift
  trap _tell_to_end TERM INT
  before=$(_newest_step "$workdir")
  while true; do
    [ -z "$TOLD_TO_END" ] || return 75
    "$@" &
    SUPERVISED=$!
    [ -z "$TOLD_TO_END" ] || kill -TERM "$SUPERVISED" # the signal came between these two lines
    code=0
    _wait_for_command || code=$?
    SUPERVISED=""
    case ",$restart_on," in *",$code,"*) ;; *) return "$code" ;; esac
    [ -z "$TOLD_TO_END" ] || return "$code"
    after=$(_newest_step "$workdir")
    without_progress=$((without_progress + 1))
    if [ "$after" != "$before" ]; then without_progress=0; fi
    if [ "$without_progress" -gt "$max_restarts" ]; then
      echo "error: ended with $code after step $after; $max_restarts restarts gave no newer checkpoint, so this is the end" >&2
      return 1
    fi
    echo "ended with $code after step $after; starting again in $delay s ($without_progress of $max_restarts)" >&2
    before=$after
    sleep "$delay" &
    wait $! || true
  done
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -uo pipefail
  cd "$(dirname "$0")/.." || exit 2
  supervise "$@"
  exit $?
fi
