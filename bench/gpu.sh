#!/usr/bin/env bash
# Measurements on a GPU, in two runs that can follow one another:
#
#   bash bench/gpu.sh decide [--quick] [FOLDER]     at most 400 s: is it right, and where does the time go?
#   bash bench/gpu.sh report [--quick] [FOLDER]     at most 300 s: the tables of RESULTS.md, with the released code's step
#
# For example, with both in one command:
#
#   bash bench/gpu.sh decide output/bench; bash bench/gpu.sh report output/bench
#
# Needs Python, torch, torchvision, timm and einops, and no video decoder. Two files come about in FOLDER (output/bench):
# RUN.jsonl, with a row for whatever is measured, written at once, and RUN.log, with all that is printed. A part that
# fails or is cut off does not keep the next one from running, and a part may use the time that those before it left. The
# run ends with 1 if a part failed, and at once with 2 where there is no GPU.
#
# --quick is a smoke run on tiny models, whose numbers mean nothing; it needs no GPU, and has six times as long.
# PYTHON names the interpreter (python3); FLAGS, if set, go to every part, for example FLAGS="--device cpu".
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
usage() {
    echo "usage: bash bench/gpu.sh decide|report [--quick] [FOLDER]" >&2
    exit 2
}

run=${1:-}
[[ $run = decide || $run = report ]] || usage
shift
quick=
if [[ ${1:-} = --quick ]]; then
    quick=--quick
    shift
fi
[[ $# -le 1 && ${1:-} != -* ]] || usage
folder=${1:-$root/output/bench}
python=${PYTHON:-python3}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-/tmp/sigma_inductor} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/sigma_triton}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
mkdir -p "$folder" || exit 2
rows=$folder/$run.jsonl
log=$folder/$run.log
ends=0 # seconds since the start at which the part has to be over
failed=()

say() {
    echo "$*" | tee -a "$log"
}

part() { # seconds, name, script, options...
    local limit=$1 name=$2 script=$3 start=$SECONDS left status
    shift 3
    [[ -z $quick ]] || limit=$((6 * limit))
    ends=$((ends + limit))
    left=$((ends - SECONDS))
    if ((left < 5)); then
        say "== $name: no time left"
        failed+=("$name")
        return
    fi
    say "== $name, at most $left s"
    # Not a pipe, which would wait for whatever the part leaves behind.
    # shellcheck disable=SC2086  # flags are words
    timeout -k 5 "$left" "$python" "$root/bench/$script" --rows "$rows" $quick ${FLAGS:-} "$@" > >(tee -a "$log") 2>&1
    status=$?
    say "== $name: status $status after $((SECONDS - start)) s"
    ((status == 0)) || failed+=("$name")
    return $status
}

# Also pays for the first import of torch and for the start of the GPU.
part 20 versions gpu/versions.py
(($? == 2)) && exit 2
if [[ $run = decide ]]; then
    part 120 checks gpu/checks.py
    part 25 sinkhorn gpu/sinkhorn.py
    part 20 attention gpu/attention.py
    part 110 steps gpu/steps.py
    part 35 copies gpu/copies.py
    part 70 ddp gpu/ddp.py
else
    part 110 "step, base" step.py --sizes base --no_compile --baseline --rounds 6
    part 90 "step, base, compiled" step.py --sizes base --no_compile --compile --rounds 6
    part 40 "step, small" step.py --sizes small --no_compile --baseline --rounds 4
    part 25 "memory, base" memory.py --sizes base --tasks dino
fi
if ((${#failed[@]})); then
    say "== FAILED or cut off: $(printf '%s; ' "${failed[@]}")after $SECONDS s"
    exit 1
fi
say "== all parts passed in $SECONDS s"
