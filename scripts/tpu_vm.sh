#!/usr/bin/env bash
# Makes a Cloud TPU slice, installs this checkout on its workers and runs a command on all of them.
# Keeps to bash 3.2, which macOS has. The second part of it runs on the workers.
set -euo pipefail

usage() {
  cat <<'END'
scripts/tpu_vm.sh WHAT --name=NAME --zone=ZONE [OPTION...] [-- ...]

  create       makes the slice; goes on if it is there, makes it anew if it was preempted
  install      copies this checkout to ~/cxr-embeddings on all workers, with an environment
  run -- CMD   starts CMD on all workers; it goes on when the connection ends
  watch        shows the slice and each worker's last lines and exit code, once
  up -- CMD    create, install, run, then watch until CMD has ended; after a preemption all again
  collect      fetches log and exit code of each worker; after -- paths of more files
  delete       deletes the slice, if this script made it

  --name=NAME          of the slice
  --zone=ZONE          such as us-west4-a
  --project=PROJECT    unset: the one that gcloud is configured for
  --type=TYPE          to make: such as v5litepod-64 (16 workers) or v6e-256 (64 workers)
  --version=VERSION    software of the workers; unset: the usual one of the type
  --queued             wait in line, as a queued resource
  --spot               cheaper, and may be preempted
  --wait-minutes=N     to wait for the slice at most (60)
  --repo=URL, --ref=REF  clone this on the workers; unset: copy the files that git tracks here
  --to=FOLDER          of collect (NAME-logs)
  --dry-run            print the commands, call nothing

For example (docs/cloud_tpu.md), and the same again after whatever stopped it:

  scripts/tpu_vm.sh up --name=films --zone=us-west4-a --type=v5litepod-64 --queued --spot -- \
      bash -c 'gcloud storage cp --recursive --no-clobber gs://BUCKET/elixr-c ~/ &&
          python scripts/embed.py --config configs/mimic.py --config.distributed=true \
              --config.input.path=gs://BUCKET/mimic_cxr/1.0.0 --config.batch_size=64 \
              --config.encoder.weights=$HOME/elixr-c --config.output.path=gs://BUCKET/embeddings'
  scripts/tpu_vm.sh delete --name=films --zone=us-west4-a

CXR_POLL_SECONDS in the environment: between two looks (30).

Exit codes: 0 done; 1 something else, gcloud says what; 2 wrong usage; 3 still running; 4 the
command failed on a worker or was never started; 5 no quota; 6 no free capacity; 7 the slice was
preempted or failed; 8 a worker cannot be reached; 9 the slice is not this script's to delete; 10
gcloud is missing, or without login, project or rights; 11 the slice is not ready; 12 no Python
3.11 to 3.13 on the workers; 13 there is no such slice.
END
}

readonly USAGE=2 RUNNING=3 FAILED=4 QUOTA=5 CAPACITY=6 GONE=7 WORKER=8 FOREIGN=9 GCLOUD=10 LATE=11
readonly PYTHON=12 ABSENT=13
readonly OWNER=cxr-embeddings # value of the label created-by on what this script makes
readonly SCRIPT=cxr-embeddings/source/scripts/tpu_vm.sh # on a worker, from its home folder

say() { printf '%s\n' "$*" >&2; }

fail() { # EXIT_CODE SENTENCE...
  local code=$1
  shift
  say "error: $*"
  exit "$code"
}

# Words as every shell reads them back.
quote() {
  local word apostrophe="'" escaped="'\\''" space=''
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) word="'${word//$apostrophe/$escaped}'" ;;
    esac
    printf '%s%s' "$space" "$word"
    space=' '
  done
}

# Prints a gcloud command and runs it. Where it fails this program ends, with a sentence.
call() {
  say "+ $(quote gcloud compute tpus "$@")"
  [[ -z $dry_run ]] || return 0
  { gcloud compute tpus "$@" 2>&1 >&3 3>&- | tee "$stderr" >&2; } 3>&1 || explain $?
}

# As call, but shows gcloud's chatter only if it fails; prints nothing where there is no slice.
ask() {
  local code=0
  say "+ $(quote gcloud compute tpus "$@")"
  [[ -z $dry_run ]] || return 0
  gcloud compute tpus "$@" 2>"$stderr" || code=$?
  ((code == 0)) || said NOT_FOUND || { cat "$stderr" >&2 && explain $code; }
}

said() { grep -qiE -e "$1" "$stderr"; }

# Ends with the sentence that fits what gcloud said when it failed.
explain() { # EXIT_CODE_OF_GCLOUD
  local tried install='sudo apt-get update && sudo apt-get install -y python3.11 python3.11-venv'
  if said 'no more capacity|insufficient .*capacity|ZONE_RESOURCE_POOL_EXHAUSTED|stockout'; then
    fail $CAPACITY "no free ${type:-TPU} in $zone now: run the same later, wait in line with" \
      "--queued, or take another --zone or a smaller --type"
  elif said 'quota .*(exceeded|exhausted)|RESOURCE_EXHAUSTED'; then
    fail $QUOTA "the project has no quota for this: ask for more of the one named above" \
      "(console.cloud.google.com/iam-admin/quotas), or take a smaller --type, another --zone or" \
      "--spot, which has a quota of its own"
  elif said 'gcloud auth login|active account|reauthenticat|invalid_grant'; then
    fail $GCLOUD "gcloud is not logged in: run \`gcloud auth login\`, then the same again"
  elif said 'property \[(core/)?project\] is not'; then
    fail $GCLOUD "no project is chosen: say --project=PROJECT or run \`gcloud config set project\`"
  elif said 'PERMISSION_DENIED|SERVICE_DISABLED'; then
    fail $GCLOUD "the account may not do this, or the Cloud TPU API is off: enable" \
      "tpu.googleapis.com and ask for the role TPU Admin (roles/tpu.admin)"
  elif said 'key is not present in the SSH agent'; then
    fail $GCLOUD "an ssh agent must hold the key for several workers: run" \
      "\`eval \"\$(ssh-agent)\" && ssh-add ~/.ssh/google_compute_engine\`, then the same again"
  elif said "$SCRIPT: No such file"; then
    fail 1 "nothing is installed on $name: run \`install\` first"
  elif (($1 == PYTHON)); then
    fail $PYTHON "the workers have no Python 3.11 to 3.13 and could not fetch one: take another" \
      "--version, or install one: $(quote gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" \
        --worker=all --command="$install")"
  elif (($1 == 255)) || said 'return code \[255\]|has (terminal )?state'; then
    tried=$(sed -n 's/.*to worker \([0-9]*\)\.\.\.$/\1/p' "$stderr" | sort -n | uniq -d | xargs)
    expect_ready # a slice that was preempted does not answer either
    fail $WORKER "worker ${tried:-?} of $name cannot be reached; what runs on the workers goes" \
      "on: run the same later, and if that does not help delete the slice"
  fi
  fail 1 "gcloud failed with exit code $1; above it says why"
}

# Sets state (none, waiting, ready, leaving, deleting, dead), seen, ours, workers, queue and reason.
look() {
  local found node='' health='' node_owner='' made_by='' queue_owner=''
  local value='--format=value[separator=","]'
  local machine='state,health,labels.created-by,networkEndpoints.len(),queuedResource'
  local request='state.state,tpu.nodeSpec[0].node.labels.created-by,state.failedData.error.message'
  state=none seen='it is not there' ours=yes queue='' reason=''
  found=$(ask tpu-vm describe "$name" "${where[@]}" "$value($machine)") || exit
  IFS=, read -r node health node_owner workers made_by <<<"${found:-,,,1,}"
  if [[ -z $node || -n $made_by ]]; then
    found=$(ask queued-resources describe "$name" "${where[@]}" "$value($request)") || exit
    IFS=, read -r queue queue_owner reason <<<"$found"
  fi
  [[ -z $dry_run ]] || state=ready queue=$queued
  [[ -n $queue$node && -z $dry_run ]] || return 0
  case $queue:$node:$health in # states of a queued resource and of a node in the Cloud TPU API v2
    FAILED:* | SUSPENDED:* | *:PREEMPTED:* | *:TERMINATED:* | *:FAILED:* | *:SUSPENDED:*)
      state=dead
      ;;
    DELETING:* | :DELETING:*) state=deleting ;;
    SUSPENDING:* | *:DELETING:*) state=leaving ;;
    *:READY:UNHEALTHY_MAINTENANCE) state=waiting ;;
    :READY:* | ACTIVE:READY:*) state=ready ;;
    *) state=waiting ;;
  esac
  seen="${queue:+queued resource $queue, }${node:-no node yet}${health:+, $health}"
  if [[ -n $queue && $queue_owner != "$OWNER" ]] || [[ -n $node && $node_owner != "$OWNER" ]]; then
    ours=''
  fi
}

expect_ready() {
  look
  case $state in
    ready) ;;
    waiting) fail $LATE "$name is not ready ($seen): \`create\` waits for it" ;;
    none | deleting) fail $ABSENT "there is no $name in $zone ($seen): \`create\` makes it" ;;
    *) fail $GONE "$name is gone ($seen): \`create\` or \`up\` makes it anew" ;;
  esac
}

pause() {
  ((SECONDS < deadline)) || fail $LATE "$name is not ready after $wait_minutes minutes ($seen):" \
    "the same command goes on waiting, \`delete\` gives up"
  say "$name: $seen; looking again in $poll s"
  sleep "$poll"
}

make_slice() {
  [[ -n $type ]] || fail $USAGE "there is no $name in $zone: say of which --type to make it"
  local shape=("${where[@]}" --accelerator-type="$type" --labels="created-by=$OWNER")
  [[ -z $spot ]] || shape+=(--spot)
  if [[ -n $queued ]]; then
    call queued-resources create "$name" --node-id="$name" --runtime-version="$version" \
      "${shape[@]}"
  else
    call tpu-vm create "$name" --version="$version" "${shape[@]}"
  fi
}

remove_slice() {
  [[ -n $ours ]] || fail $FOREIGN "$name in $zone has no label created-by=$OWNER: this script did" \
    "not make it and does not delete it. Choose another --name, or delete it by hand"
  if [[ -n $queue ]]; then
    call queued-resources delete "$name" --force "${where[@]}"
  else
    call tpu-vm delete "$name" "${where[@]}"
  fi
}

create() {
  local made=''
  [[ -z $dry_run ]] || { look && make_slice && return; }
  while look; do
    case $state:$made in
      ready:*)
        say "$name: $seen, $workers workers"
        return
        ;;
      none:)
        make_slice
        made=yes
        ;;
      dead:)
        say "$name: $seen: it is deleted and made anew"
        remove_slice
        ;;
      dead:yes)
        printf '%s\n' "$reason" | tee "$stderr" >&2
        [[ -z $reason ]] || explain 1
        fail $GONE "$name was made, and now: $seen. The same command tries again"
        ;;
      *) pause ;;
    esac
  done
}

on_workers() { # call|ask COMMAND
  "$1" tpu-vm ssh "$name" "${where[@]}" --worker=all --ssh-flag=-oConnectTimeout=20 --command="$2"
}

copy() { # WORKER FROM... TO
  call tpu-vm scp "${@:2}" "${where[@]}" --worker="$1" --scp-flag=-oConnectTimeout=20
}

count() { grep -cE "^worker [^ ]+: $1" <<<"$report" || true; } # of the workers in a report

# Sets busy to the number of workers on which the last command is running: none or all.
look_for_busy() {
  local report
  report=$(on_workers ask "[ ! -e $SCRIPT ] || bash $SCRIPT on-worker status") || exit
  busy=$(count running)
  ((busy == 0 || busy == workers)) || fail $RUNNING "on $busy of $workers workers the last" \
    "command is still running. They end about two minutes after the others: run the same then"
}

install() {
  expect_ready
  look_for_busy
  local incoming='mkdir -p cxr-embeddings && cd cxr-embeddings && rm -rf incoming'
  if ((busy)); then
    say "$name: the command is running, so what is installed stays as it is"
    return
  elif [[ -n $repo ]]; then
    incoming+=" && git clone --quiet $(quote "$repo") incoming"
    [[ -z $ref ]] || incoming+=" && git -C incoming checkout --quiet $(quote "$ref")"
  else
    if [[ -z $dry_run ]]; then
      git -C "$root" ls-files -z >"$scratch/files" || fail 1 "$root is no git checkout: say --repo"
      COPYFILE_DISABLE=1 tar -C "$root" -czf "$scratch/$OWNER.tgz" --null -T "$scratch/files" ||
        fail 1 "the files of $root cannot be packed: tar says above why"
    fi
    copy all "$scratch/$OWNER.tgz" "$name:"
    incoming+=" && mkdir incoming && tar -xzf ../$OWNER.tgz -C incoming"
  fi
  on_workers call "$incoming && bash incoming/scripts/tpu_vm.sh on-worker install"
}

run() { # COMMAND...
  expect_ready
  look_for_busy
  on_workers call "bash $SCRIPT on-worker start $(quote "$@")"
}

watch() {
  expect_ready
  local report good
  report=$(on_workers ask "bash $SCRIPT on-worker status") || exit
  [[ -z $dry_run ]] || return 0
  printf '%s\n' "$name: $seen" "$report"
  good=$(count 'ended with exit code 0$')
  if (($(count '') != workers)); then
    fail $WORKER "$(count '') of $workers workers answered: run the same again"
  elif (($(count running))); then
    say "running on $(count running) of $workers workers"
    exit $RUNNING
  elif ((good < workers)); then
    fail $FAILED "on $((workers - good)) of $workers workers the command failed or was never" \
      "started: \`collect\` fetches their logs, and \`up\` or \`run\` goes on from what is done"
  fi
  say "done on all workers; the slice is still there, and paid for, until \`delete\`"
}

step() { # WHAT [-- COMMAND...]: does it, and again as long as something is still running
  local code=$RUNNING
  while ((code == RUNNING)); do
    code=0
    "$BASH" "$0" "$1" "${given[@]}" "${@:2}" || code=$?
    ((code != RUNNING)) || sleep "$poll"
  done
  return $code
}

up() { # COMMAND...
  local code
  while true; do
    code=0
    step create || code=$?
    ((code == 0 || code == GONE)) || exit $code
    ((code)) || { step install && step run -- "$@" && step watch; } || code=$?
    ((code == GONE || code == LATE)) || exit $code # LATE: under maintenance
    sleep "$poll"
  done
}

collect() { # FILE...
  expect_ready
  local worker file from=("$name:cxr-embeddings/run") missing=''
  for file; do from+=("$name:$file"); done
  for ((worker = 0; worker < workers; worker++)); do
    [[ -n $dry_run ]] || mkdir -p "$to/worker-$worker"
    (copy "$worker" --recurse "${from[@]}" "$to/worker-$worker") || missing+=" $worker"
  done
  [[ -z $missing ]] || fail $WORKER "not all came from worker$missing, gcloud says above why;" \
    "what came of the others is in $to"
  say "$to has a folder for each worker: run/log, run/command and, once ended, run/exit_code"
}

delete() {
  look
  while [[ $state == leaving || $state == deleting ]]; do
    pause
    look
  done
  [[ $state == none ]] && say "there is no $name in $zone: nothing to delete" && return
  remove_slice
}

check() { # OPTION VALUE PATTERN EXAMPLE
  [[ $2 =~ ^($3)$ ]] || fail $USAGE "--$1 is $(quote "$2"); expected something like $4"
}

main() { # WHAT OPTION... [-- ...]
  local what=${1-} word option
  given=()
  shift || true
  while (($#)); do
    word=$1
    shift
    case $word in
      --) break ;;
      -h | --help) what=--help ;;
      --dry-run | --queued | --spot)
        option=${word#--}
        printf -v "${option//-/_}" yes
        ;;
      --name=* | --zone=* | --project=* | --type=* | --version=* | --wait-minutes=* | --repo=* | \
        --ref=* | --to=*)
        option=${word%%=*}
        option=${option#--}
        printf -v "${option//-/_}" %s "${word#*=}"
        ;;
      *) fail $USAGE "$(quote "$word") is no option; expected --OPTION or --OPTION=VALUE, as" \
        "--help lists them, and a command after --" ;;
    esac
    given+=("$word")
  done
  case $what:$# in
    --help:* | -h:* | help:*) usage && return ;;
    run:0 | up:0) fail $USAGE "$what needs a command after --" ;;
    create:0 | install:0 | run:* | watch:0 | up:* | collect:* | delete:0) ;;
    create:* | install:* | watch:* | delete:*) fail $USAGE "$what takes nothing after --" ;;
    *) fail $USAGE "$(quote "$what") is nothing to do; expected create, install, run, watch, up," \
      "collect or delete: see --help" ;;
  esac
  check name "$name" '[a-z]([-a-z0-9]{0,60}[a-z0-9])?' 'films-1 (small letters, digits, dashes)'
  check zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' us-west4-a
  check project "$project" '|[a-z][-a-z0-9.:]*[a-z0-9]' my-project
  check type "$type" '|[a-z][a-z0-9]*-[0-9]+' 'v5litepod-64 or v6e-256'
  check version "$version" '|[a-z][-a-z0-9.]*' v2-alpha-tpuv6e
  check wait-minutes "$wait_minutes" '0|[1-9][0-9]{0,4}' 60
  check repo "$repo" '|[A-Za-z0-9][^[:space:]]*' https://github.com/me/cxr-embeddings
  check ref "$ref" '|[A-Za-z0-9_.][-A-Za-z0-9_./]*' main
  case $type:$version in # the usual ones: https://cloud.google.com/tpu/docs/runtimes
    v6e-*:) version=v2-alpha-tpuv6e ;;
    v5p-*:) version=v2-alpha-tpuv5 ;;
    v5litepod-*:) version=v2-alpha-tpuv5-lite ;;
    v[234]-*:) version=tpu-ubuntu2204-base ;;
    ?*:) fail $USAGE "the usual software of a $type is not known here: say --version" ;;
  esac
  where=(--zone="$zone" --quiet)
  [[ -z $project ]] || where+=(--project="$project")
  to=${to:-$name-logs}
  [[ -n $dry_run ]] || command -v gcloud >/dev/null || fail $GCLOUD "gcloud is not installed: see" \
    "https://cloud.google.com/sdk/docs/install, then run \`gcloud auth login\`"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  stderr=$scratch/stderr
  deadline=$((SECONDS + 60 * wait_minutes))
  "$what" "$@"
}

# ---- On a worker: ~/cxr-embeddings has source/, venv/ and run/ with lock, command, log, exit_code

# Whether the command runs: it holds the lock, whatever ends it.
running() { [[ -e run/lock ]] && ! flock --nonblock 9 9<run/lock; }

on_worker_install() {
  rm -rf source
  mv incoming source
  local suits='import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
  local python='' candidate
  [[ -x venv/bin/pip ]] || rm -rf venv # begun and broken off
  for candidate in venv/bin/python python3.13 python3.12 python3.11 python3; do
    "$candidate" -c "$suits" 2>/dev/null && python=$candidate && break
  done
  if [[ -z $python ]]; then
    echo "worker $HOSTNAME: the image has $(python3 --version); needed is 3.11 to 3.13 with venv:" \
      "fetching 3.12 with uv"
    python3 -m pip install --quiet --user uv &&
      python3 -m uv venv --quiet --seed --python 3.12 venv || exit $PYTHON
  elif [[ $python != venv/bin/python ]]; then
    "$python" -m venv venv
  fi
  cd source
  ../venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[tpu,gcs]'
  echo "worker $HOSTNAME: installed"
}

on_worker_start() { # COMMAND...
  mkdir -p run
  exec 9>>run/lock
  if ! flock --timeout 1 9; then # `running` holds it for a moment, too
    [[ $(<run/command) == "$(quote "$@")" ]] ||
      fail 1 "worker $HOSTNAME is running another command: $(<run/command)"
    echo "worker $HOSTNAME: running already, not started again"
    return
  fi
  rm -f run/exit_code
  quote "$@" >run/command
  nohup bash source/scripts/tpu_vm.sh on-worker job "$@" </dev/null >/dev/null 2>&1 &
  echo "worker $HOSTNAME: started"
}

on_worker_job() { # COMMAND...; holds the lock by file descriptor 9
  local code=0 run="$PWD/run"
  export PATH="$PWD/venv/bin:$PATH" PYTHONUNBUFFERED=1
  cd source
  { echo "$(date -u +%FT%TZ) $(quote "$@")" && "$@"; } >>"$run/log" 2>&1 9>&- || code=$?
  echo $code >"$run/exit_code.new"
  mv "$run/exit_code.new" "$run/exit_code"
}

on_worker_status() {
  local how='nothing was started' lines=8 text=''
  if running; then # first: its exit code is there before it lets the lock go
    how=running lines=1
  elif [[ -e run/exit_code ]]; then
    how="ended with exit code $(<run/exit_code)"
  elif [[ -e run/log ]]; then
    how='ended without an exit code: killed, or the worker was restarted'
  fi
  if [[ -e run/log ]]; then # a progress bar writes \r
    text=$(tail -c 4000 run/log | tr '\r' '\n' | tail -n $lines | cut -c 1-300 | sed 's/^/    /')
  fi
  printf '%s\n' "worker $HOSTNAME: $how${text:+$'\n'$text}" # one write, so its lines stay together
}

if [[ ${1-} == on-worker ]]; then
  cd ~/cxr-embeddings
  "on_worker_$2" "${@:3}"
else
  name='' zone='' project='' type='' version='' repo='' ref='' to='' wait_minutes=60
  dry_run='' queued='' spot='' poll=${CXR_POLL_SECONDS:-30}
  root=$(cd "$(dirname "$0")/.." && pwd)
  main "$@"
fi
