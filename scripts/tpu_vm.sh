#!/usr/bin/env bash
# Makes a Cloud TPU slice and runs a command of this checkout on all of its workers. Needs bash 3.2.
set -euo pipefail

usage() {
  cat <<'END'
scripts/tpu_vm.sh VERB --name=NAME --zone=ZONE [OPTION...] [-- COMMAND...]

  create    makes the slice and waits until it is ready; a preempted one is made anew
  run       copies this checkout to all workers, installs it and starts COMMAND there
  watch     shows the last lines and the exit code of each worker, once
  collect   fetches the log and the exit code of each worker
  delete    deletes the slice, if this script made it

  --name=NAME, --zone=ZONE  of the slice, such as films and us-west4-a
  --type=TYPE        of create: such as v5litepod-8 (1 worker) or v5litepod-64 (16 workers)
  --version=VERSION  of create: software of the workers (default: the usual one of the type)
  --queued, --spot   of create: wait in line for capacity; cheaper, but may be preempted
  --project=PROJECT  default: the one that gcloud is configured for
  --to=FOLDER        of collect (default: NAME-logs)
  --dry-run          print the commands and call nothing

COMMAND goes on when the connection ends. docs/cloud_tpu.md has the whole way. For example:

  scripts/tpu_vm.sh create --name=films --zone=us-west4-a --type=v5litepod-64 --queued --spot
  scripts/tpu_vm.sh run --name=films --zone=us-west4-a -- \
      python scripts/embed.py --config configs/mimic.py --config.distributed=true ...

Exit codes: 0 done; 1 gcloud failed and says why; 2 wrong usage; 3 still running; 4 the command
failed on a worker or was not started; 5 the slice is not ready; 6 this script did not make it.
END
}

fail() { # EXIT_CODE SENTENCE...
  echo "error: ${*:2}" >&2
  exit "$1"
}

call() { # prints a gcloud command, and runs it unless --dry-run is given
  set -- gcloud compute tpus "$@" --zone="$zone" ${project:+--project="$project"} --quiet
  { printf '+' && printf ' %q' "$@" && echo; } >&2
  [[ -n $dry_run ]] || "$@"
}

describe() { # tpu-vm|queued-resources FIELDS; prints nothing where there is none of this name
  local said
  if said=$(call "$1" describe "$name" --format="value[separator=\",\"]($2)" 2>&1); then
    tail -n 1 <<<"$said"
  elif [[ $said != *NOT_FOUND* ]]; then
    fail 1 "gcloud cannot describe $name:"$'\n'"$said"
  fi
}

look() { # sets state (of the Cloud TPU API, or NONE), owner, workers and queued
  local node request
  state=READY owner=cxr-embeddings workers=1
  [[ -z $dry_run ]] || return 0
  request=$(describe queued-resources 'state.state,tpu.nodeSpec[0].node.labels.created-by')
  node=$(describe tpu-vm 'state,labels.created-by,networkEndpoints.len()')
  queued=$request state=NONE
  [[ -z $request$node ]] || IFS=, read -r state owner workers <<<"${node:-$request,1}"
}

expect_ready() {
  look
  [[ $state == READY ]] || fail 5 "$name in $zone is $state: \`create\` makes it and waits for it"
}

create() {
  local new made=''
  case $type:$version in # the usual ones: https://cloud.google.com/tpu/docs/runtimes
    v6e-*:) version=v2-alpha-tpuv6e ;;
    v5p-*:) version=v2-alpha-tpuv5 ;;
    v5litepod-*:) version=v2-alpha-tpuv5-lite ;;
    ?*:?*) ;;
    *) fail 2 "--type is '$type'; expected such as v5litepod-8. Give --version for another kind" ;;
  esac
  new=(queued-resources create "$name" --node-id="$name" --runtime-version="$version")
  [[ -n $queued ]] || new=(tpu-vm create "$name" --version="$version")
  new+=(--accelerator-type="$type" --labels=created-by=cxr-embeddings ${spot:+--spot})
  [[ -z $dry_run ]] || { call "${new[@]}" && return; }
  while look; do
    case $state:$made in
      READY:*) echo "$name is ready, with $workers workers" && return ;;
      NONE:) made=yes && call "${new[@]}" ;;
      PREEMPTED: | TERMINATED: | FAILED: | SUSPENDED:) delete ;;
      PREEMPTED:* | TERMINATED:* | FAILED:* | SUSPENDED:*)
        fail 5 "$name was made, and is $state now: run the same again later"
        ;;
      *) echo "$name is $state: looking again in $poll s" >&2 && sleep "$poll" ;;
    esac
  done
}

run() { # COMMAND...
  (($#)) || fail 2 "run needs a command after --"
  expect_ready
  local packed=cxr-embeddings.tgz
  git -C "$root" ls-files -z >"$scratch/files" || fail 1 "$root is no git checkout"
  COPYFILE_DISABLE=1 tar -C "$root" -czf "$scratch/$packed" --null -T "$scratch/files"
  call tpu-vm scp "$scratch/$packed" "$name:" --worker=all
  call tpu-vm ssh "$name" --worker=all --command="mkdir -p cxr-embeddings/run &&
    cd cxr-embeddings && exec 9>>run/lock &&
    { flock --nonblock 9 || { echo \"worker \$HOSTNAME: a command is running already\"; exit 3; }; } &&
    rm -rf source && mkdir source && tar -xzf ../$packed -C source &&
    bash source/scripts/tpu_vm.sh on-worker$(printf ' %q' "$@")"
}

on_worker() { # COMMAND...; in ~/cxr-embeddings, where file descriptor 9 holds the lock
  local candidate
  for candidate in python3.13 python3.12 python3.11; do # an environment that was broken off is lost
    [[ -x venv/bin/pip ]] || "$candidate" -m venv --clear venv 2>/dev/null || true
  done
  if [[ ! -x venv/bin/pip ]]; then
    echo "worker $HOSTNAME: the image has no Python 3.11 to 3.13: fetching 3.12 with uv"
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --clear --seed --python 3.12 venv
  fi
  venv/bin/pip install --quiet --constraint source/constraints.txt --editable './source[tpu,gcs]'
  rm -f run/exit_code
  nohup bash -c 'cd source && PATH="$PWD/../venv/bin:$PATH" PYTHONUNBUFFERED=1 "$@" 9>&-
    echo $? >../run/exit_code' job "$@" >>run/log 2>&1 </dev/null &
  echo "worker $HOSTNAME: started"
}

watch() {
  expect_ready
  local report
  report=$(call tpu-vm ssh "$name" --worker=all --command='cd cxr-embeddings/run 2>/dev/null
    how="$( (flock --nonblock 9 || echo running) 9<lock 2>/dev/null || true)"
    [ -n "$how" ] || how="ended with exit code $(cat exit_code 2>/dev/null || echo unknown)"
    echo "worker $HOSTNAME: $how
$(tail -c 4000 log 2>/dev/null | tr "\r" "\n" | tail -n 5 | cut -c 1-300 | sed "s/^/    /")"')
  echo "$report"
  [[ -z $dry_run ]] || return 0
  ! grep -q '^worker .*: running$' <<<"$report" || exit 3
  [[ $(grep -c '^worker .*: ended with exit code 0$' <<<"$report") == "$workers" ]] ||
    fail 4 "not all of $workers workers ended well: \`collect\` fetches their logs"
}

collect() {
  expect_ready
  local worker
  for ((worker = 0; worker < workers; worker++)); do
    [[ -n $dry_run ]] || mkdir -p "$to/worker-$worker"
    call tpu-vm scp --recurse "$name:cxr-embeddings/run" "$to/worker-$worker" --worker="$worker"
  done
  echo "$to has a folder for each worker: run/log and, once it has ended, run/exit_code"
}

delete() {
  look
  [[ $state != NONE ]] || { echo "there is no $name in $zone: nothing to delete" && return; }
  [[ $owner == cxr-embeddings ]] || fail 6 "$name has no label created-by=cxr-embeddings: this" \
    "script did not make it and does not delete it. Choose another --name, or delete it by hand"
  if [[ -n $queued ]]; then
    call queued-resources delete "$name" --force
  else
    call tpu-vm delete "$name"
  fi
}

verb=${1:---help} name='' zone='' project='' type='' version='' to='' dry_run='' queued='' spot=''
shift || true
[[ $verb != on-worker ]] || { on_worker "$@" && exit; }
poll=${CXR_POLL_SECONDS:-30} root=$(cd "$(dirname "$0")/.." && pwd) scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    --dry-run | --queued | --spot) option=${1#--} && printf -v "${option//-/_}" yes ;;
    --name=?* | --zone=?* | --project=?* | --type=?* | --version=?* | --to=?*)
      option=${1%%=*} && printf -v "${option#--}" %s "${1#*=}"
      ;;
    *) fail 2 "$1 is no option: --help lists them, and a command stands after --" ;;
  esac
  shift
done
shift || true
to=${to:-$name-logs}
case $verb in
  -h | --help | help) usage ;;
  create | run | watch | collect | delete)
    [[ $name =~ ^[a-z][-a-z0-9]*$ && $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
      fail 2 "--name is '$name' and --zone is '$zone'; expected such as films and us-west4-a"
    [[ -n $dry_run ]] || command -v gcloud >/dev/null ||
      fail 1 "gcloud is not installed: see https://cloud.google.com/sdk/docs/install"
    "$verb" "$@"
    ;;
  *) fail 2 "$verb is nothing to do; expected create, run, watch, collect or delete" ;;
esac
