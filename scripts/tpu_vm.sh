#!/usr/bin/env bash
# Makes a Cloud TPU slice and runs a command of this checkout on all of its workers. Needs bash 3.2.
set -euo pipefail

usage='scripts/tpu_vm.sh VERB --name=NAME --zone=ZONE [OPTION...] [-- COMMAND...]

  create    make the slice and wait until it is ready; a preempted slice is made again
  run       copy this checkout to all workers, install it, and start COMMAND there
  collect   fetch the log of each worker, and show its last lines and its exit code
  delete    delete the slice, if this script made it

  --name=NAME, --zone=ZONE        such as films and us-west4-a
  --type=TYPE, --version=VERSION  create: such as v5litepod-8; default: the usual version
  --queued, --spot                create: wait in line for capacity; may be preempted
  --project=PROJECT, --to=FOLDER  default: that of gcloud; collect: default: NAME-logs
  --dry-run                       print the commands and call nothing

COMMAND goes on when the connection ends. docs/cloud_tpu.md shows the whole way. Exit codes: 0 done;
1 gcloud failed; 2 wrong usage; 3 still running; 4 the command failed on a worker; 5 the slice is
not ready; 6 this script did not make the slice.'

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
  said=$(call "$1" describe "$name" --format="value[separator=\",\"]($2)" 2>&1) ||
    { [[ $said == *NOT_FOUND* ]] && return || fail 1 "gcloud cannot describe $name: $said"; }
  tail -n 1 <<<"$said"
}

look() { # sets state (of the Cloud TPU API, or NONE), owner, workers and queued
  local node
  state=READY owner=cxr-embeddings workers=1
  [[ -z $dry_run ]] || return 0
  queued=$(describe queued-resources 'state.state,tpu.nodeSpec[0].node.labels.created-by')
  node=$(describe tpu-vm 'state,labels.created-by,networkEndpoints.len()')
  IFS=, read -r state owner workers <<<"${node:-${queued:-NONE},1}"
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
  new=(tpu-vm create "$name" --version="$version")
  [[ -z $queued ]] ||
    new=(queued-resources create "$name" --node-id="$name" --runtime-version="$version")
  new+=(--accelerator-type="$type" --labels=created-by=cxr-embeddings ${spot:+--spot})
  [[ -z $dry_run ]] || { call "${new[@]}" && return; }
  while look; do
    case $state:$made in
      READY:*) echo "$name is ready, with $workers workers" && return ;;
      NONE:) made=yes && call "${new[@]}" ;;
      PREEMPTED: | TERMINATED: | FAILED: | SUSPENDED:) delete ;;
      PREEMPTED:* | TERMINATED:* | FAILED:* | SUSPENDED:*) fail 5 "$name is $state: try later" ;;
      *) echo "$name is $state: looking again in $poll s" >&2 && sleep "$poll" ;;
    esac
  done
}

run() { # COMMAND...
  (($#)) || fail 2 "run needs a command after --"
  expect_ready
  git -C "$root" ls-files -z >"$scratch/files" || fail 1 "$root is no git checkout"
  COPYFILE_DISABLE=1 tar -C "$root" -czf "$scratch/cxr.tgz" --null -T "$scratch/files"
  call tpu-vm scp "$scratch/cxr.tgz" "$name:" --worker=all
  call tpu-vm ssh "$name" --worker=all --command="mkdir -p cxr-embeddings/run &&
    cd cxr-embeddings && exec 9>>run/lock &&
    { flock --nonblock 9 || { echo \"worker \$HOSTNAME: a command is running already\"; exit 3; }; } &&
    rm -rf source && mkdir source && tar -xzf ../cxr.tgz -C source &&
    bash source/scripts/tpu_vm.sh on-worker$(printf ' %q' "$@")"
}

on_worker() { # COMMAND...; in ~/cxr-embeddings, where file descriptor 9 holds the lock
  [[ -x venv/bin/pip ]] || python3 -m pip install --quiet --user uv # images may have Python 3.10
  [[ -x venv/bin/pip ]] || python3 -m uv venv --quiet --clear --seed --python '>=3.11' venv
  venv/bin/pip install --quiet --constraint source/constraints.txt --editable './source[tpu,gcs,tensorflow]'
  rm -f run/exit_code
  nohup bash -c 'cd source && PATH="$PWD/../venv/bin:$PATH" PYTHONUNBUFFERED=1 "$@" 9>&-
    echo $? >../run/exit_code' job "$@" >>run/log 2>&1 </dev/null &
  echo "worker $HOSTNAME: started"
}

collect() {
  expect_ready
  local worker run ended code=0
  for ((worker = 0; worker < workers; worker++)); do
    run=$to/worker-$worker/run
    [[ -n $dry_run ]] || { rm -rf "$run" && mkdir -p "${run%/*}"; }
    call tpu-vm scp --recurse "$name:cxr-embeddings/run" "${run%/*}" --worker="$worker"
    [[ -z $dry_run ]] || continue
    tail -c 4000 "$run/log" | tr '\r' '\n' | tail -n 5 | cut -c 1-300 | sed 's/^/    /'
    ended=$(cat "$run/exit_code" 2>/dev/null || true)
    echo "worker $worker: ${ended:+ended with exit code }${ended:-running, or its machine was restarted}"
    case $ended in 0) ;; '') code=3 ;; *) ((code == 3)) || code=4 ;; esac
  done
  echo "the logs are in $to" && return "$code"
}

delete() {
  look
  [[ $state != NONE ]] || { echo "there is no $name in $zone: nothing to delete" && return; }
  [[ $owner == cxr-embeddings ]] || fail 6 "$name has no label created-by=cxr-embeddings: this" \
    "script did not make it and does not delete it. Choose another --name, or delete it by hand"
  local kind=tpu-vm force=''
  [[ -z $queued ]] || { kind=queued-resources && force=--force; }
  call "$kind" delete "$name" $force
}

verb=${1:-help} name='' zone='' project='' type='' version='' to='' dry_run='' queued='' spot=''
shift || true
[[ $verb != on-worker ]] || { on_worker "$@" && exit; }
poll=${CXR_POLL_SECONDS:-30} root=$(cd "$(dirname "$0")/.." && pwd) scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
while (($#)) && [[ $1 != -- ]]; do
  [[ $1 =~ ^--(dry-run|queued|spot|(name|zone|project|type|version|to)=(.+))$ ]] ||
    fail 2 "$1 is no option: --help lists them, and a command stands after --"
  option=${BASH_REMATCH[2]:-${BASH_REMATCH[1]}} value=${BASH_REMATCH[3]:-yes}
  printf -v "${option//-/_}" %s "$value"
  shift
done
shift || true
to=${to:-$name-logs}
case $verb in
  -h | --help | help) echo "$usage" ;;
  create | run | collect | delete)
    [[ $name =~ ^[a-z][-a-z0-9]*$ && $zone =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] ||
      fail 2 "--name is '$name' and --zone is '$zone'; expected such as films and us-west4-a"
    "$verb" "$@"
    ;;
  *) fail 2 "$verb is unknown; expected create, run, collect or delete" ;;
esac
