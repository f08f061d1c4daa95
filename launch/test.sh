#!/usr/bin/env bash
# Sets up everything on a fresh machine and runs the test suite.
#
#   ./launch/test.sh [--cuda|--tpu] [flags of pytest, e.g. -k sampler]
set -euo pipefail
cd "$(dirname "$0")/.."

source launch/environment.sh
EXTRAS=dev
set_up_environment "$@"
exec .venv/bin/python -m pytest --numprocesses=2 --dist=loadfile ${REST[@]+"${REST[@]}"}
