#!/usr/bin/env bash
# E-SPL on a TPU slice of a Google Kubernetes Engine cluster, through xpk (pip install xpk) and docker.
#
#   ./launch/gke.sh image  --image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/espl_jax:TAG     builds launch/Containerfile, pushes
#   ./launch/gke.sh create --cluster=C --zone=ZONE --accelerator=v6e-16 --bucket=B [--spot]    the cluster, with the bucket
#   ./launch/gke.sh run    --cluster=C --zone=ZONE --accelerator=v6e-16 --name=NAME --image=IMAGE --workdir=gs://B/DIR -- FLAGS
#   ./launch/gke.sh resume ...as run: takes the workload of that name away, if there is one, and starts it again
#   ./launch/gke.sh status --cluster=C --zone=ZONE
#   ./launch/gke.sh stop   --cluster=C --zone=ZONE --name=NAME                                 takes the workload away
#   ./launch/gke.sh delete --cluster=C --zone=ZONE                                             the cluster, with all in it
#
# Kubernetes itself starts the workload again: on exit code 75 (the state is saved), and, as xpk does by default, on 42 and 127
# to 255, under which are the codes of killed processes and lost nodes; --max-restarts times in all.
#
# A run appends to its records and renames them, which an object store cannot do: create attaches the bucket to the cluster
# (gcsfuse), and the run gets gs://B/DIR as /bucket/DIR.
#
#   --project=P        Google Cloud project (default: gcloud's)
#   --grace=120        seconds between SIGTERM and SIGKILL, to save the state in (see also config.records.grace)
#   --max-restarts=50
#   --dry-run          prints the commands and does nothing
#
# Nothing secret is sent. The nodes' service account must be allowed to write to the bucket.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/arguments.sh

name="" bucket="" cluster="" zone="" project="" accelerator="" image="" spot="" workdir="" grace=120 max_restarts=50

xpk_do() {
  perform xpk "$@" --cluster="$cluster" --zone="$zone" ${project:+"--project=$project"}
}

image() {
  perform docker build --file=launch/Containerfile --build-arg=ACCELERATOR=tpu --tag="$image" .
  perform docker push "$image"
}

create() {
  xpk_do cluster create --tpu-type="$accelerator" --num-slices=1 --enable-gcsfuse-csi-driver \
    "$([ -n "$spot" ] && echo --spot || echo --on-demand)"
  xpk_do storage attach espl-bucket --type=gcsfuse --bucket="$bucket" --mount-point=/bucket --readonly=false --size=1 \
    --auto-mount=false --mount-options=implicit-dirs,metadata-cache:ttl-secs:0,file-system:rename-dir-limit:100000
}

# exec: the signals that xpk's shell gets are for the run.
run() {
  local line path=${workdir#gs://}
  path=/bucket/${path#*/}
  line="exec $(quote python -m espl_jax.main --workdir="$path" "${MAIN[@]}")"
  xpk_do workload create --workload="$name" --tpu-type="$accelerator" --num-slices=1 ${spot:+--spot} --docker-image="$image" \
    --storage=espl-bucket \
    --max-restarts="$max_restarts" --restart-on-exit-codes=75 --termination-grace-period-seconds="$grace" --command="$line"
}

stop() {
  xpk_do workload delete --workload="$name" --force
}

resume() {
  note "What the workload of that name has saved stays in $workdir."
  stop || note "there was none"
  run
}

status() {
  xpk_do workload list
}

delete() {
  xpk_do cluster delete --force
}

command=${1:-}
case $command in
  image | create | run | resume | status | stop | delete) shift ;;
  *) fail "the command is $(quote "$command"); use image, create, run, resume, status, stop or delete" ;;
esac
read_flags "name bucket cluster zone project accelerator image spot! workdir grace max-restarts" "$@"
check project '[-a-z0-9:.]*' "give the id of a Google Cloud project"
check grace '[1-9][0-9]*' "give seconds, 1 or more"
check max-restarts '[0-9]+' "give a number, 0 or more"
case $command in
  image | run | resume)
    check image '[a-z0-9][-a-zA-Z0-9._/:@]+' "give the image's address in a registry, for example \
us-docker.pkg.dev/PROJECT/REPOSITORY/espl_jax:1" ;;
esac
if [ "$command" != image ]; then
  check cluster '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' "use lower-case letters, digits and hyphens, 40 at the most, a letter first"
  check zone '[a-z]+-[a-z]+[0-9]+-[a-z]' "give the zone of the cluster, for example us-east5-b"
fi
case $command in
  create | run | resume)
    check accelerator 'v[0-9]+[a-z]*-[1-9][0-9]*' "give the kind and size of the slice, for example v6e-16" ;;
esac
if [ "$command" = create ]; then check bucket '[a-z0-9][-a-z0-9._]+' "give the bucket that runs will be written to"; fi
case $command in
  run | resume | stop)
    check name '[a-z]([-a-z0-9]{0,38}[a-z0-9])?' "use lower-case letters, digits and hyphens, 40 at the most, a letter first" ;;
esac
case $command in
  run | resume)
    check workdir 'gs://[^/]+/.+' "give a directory on Cloud Storage, gs://BUCKET/DIR: a container's own disk goes with it"
    check_main
    ;;
esac
"$command"
