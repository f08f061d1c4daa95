#!/usr/bin/env bash
# Sourced by quickstart.sh, test.sh and worker.sh: makes .venv if need be, installs espl_jax there, fetches the embedded model.
#
# PYTHON chooses the interpreter (3.11 or later; the default is the first of python3.13, 3.12, 3.11 and python3 that will do).
# After set_up_environment, REST holds the arguments that are not its own.

EXTRAS=""
REST=()  # expanded as ${REST[@]+...}: bash before 4.4 calls an empty array unset

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13}; do
    if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python of 3.11 or later with venv was found; install one, or name it: PYTHON=/path/to/python $0" >&2
  return 1
}

set_up_environment() {
  local python argument extras=$EXTRAS stamp
  for argument in "$@"; do
    case $argument in
      --cuda | --tpu) extras=${extras:+$extras,}${argument#--} ;;
      *) REST+=("$argument") ;;
    esac
  done
  python=$(find_python)
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  # Installed again only when what is to be installed has changed.
  stamp="$extras $(cat setup.py requirements.txt | cksum)"
  if ! grep -qsxF "$stamp" .venv/espl_jax.stamp; then
    echo "installing espl_jax${extras:+ with $extras} into .venv ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
    echo "$stamp" >>.venv/espl_jax.stamp
  fi
  if [ -z "${JAX_PLATFORMS+x}" ] && ! has_accelerator "$extras"; then
    export JAX_PLATFORMS=cpu  # the tests' extra brings the TPU compiler along, and JAX would look for a TPU at every start
  fi
  .venv/bin/python launch/fetch_model.py
}

# Whether an accelerator is asked for, or can be seen.
has_accelerator() {
  local pattern
  case ",$1," in *,cuda,* | *,tpu,*) return 0 ;; esac
  for pattern in '/dev/accel*' '/dev/vfio/[0-9]*' '.venv/lib/python3*/site-packages/jax_cuda*_plugin'; do
    compgen -G "$pattern" >/dev/null && return 0
  done
  return 1
}
