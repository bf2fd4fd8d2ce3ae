#!/usr/bin/env bash
# Everything that is measured on a GPU, in one call of less than nine minutes:
#   bash bench/gpu.sh [FOLDER]
# Needs Python, torch, torchvision, timm and einops, no video decoder. Results are written to FOLDER (bench/results),
# each as soon as it is there; a part that takes too long is cut off, and the next one begins.
# PYTHON names the interpreter; FLAGS go to every part, for example FLAGS="--quick --device cpu" for a smoke run.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$root/bench/results}
python=${PYTHON:-python3}
flags=${FLAGS:-}
today=$(date +%F)
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-/tmp/sigma_inductor}
mkdir -p "$folder"
failed=0

part() { # seconds, name, command...
    local limit=$1 name=$2
    shift 2
    echo "== $name"
    # shellcheck disable=SC2086  # flags are words
    timeout "$limit" "$python" "$@" $flags || { echo "$name: ended with $?"; failed=1; }
}

part 30 parts "$root/bench/parts.py" --device cuda --rounds 10 --json "$folder/parts_gpu_$today.json"
part 50 sinkhorn "$root/bench/sinkhorn.py" --device cuda --json "$folder/sinkhorn_gpu_$today.json"
part 180 "step" "$root/bench/step.py" --baseline --rounds 6 --json "$folder/step_gpu_$today.json"
part 150 "step, compiled" "$root/bench/step.py" --compile --sizes base small --rounds 6 --json "$folder/step_gpu_compiled_$today.json"
part 120 memory "$root/bench/memory.py" --tasks dino --sizes base --json "$folder/memory_gpu_$today.json"
exit $failed
