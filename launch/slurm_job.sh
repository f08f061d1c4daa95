#!/usr/bin/env bash
# The batch script that slurm.sh submits; its arguments are supervise.sh's. It runs on the job's first node, from the checkout
# that it was submitted in.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?this is a batch script; submit it with launch/slurm.sh}" || exit 1
source launch/supervise.sh

code=0
supervise "$@" || code=$?
# 75 means that SIGTERM came, since supervise restarts on it otherwise. A job whose time is nearly up is RUNNING still and goes
# back into the queue; one that was cancelled is not, and one that was preempted is put there by SLURM itself.
if [ "$code" = 75 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
