# Sourced by the recipes: `launch SCRIPT FLAGS` starts an entry script under torchrun, with the recipe's total batch. Under slurm:
# scripts/slurm/pretrain.sbatch and finetune.sbatch.
#
# The recipe sets RECIPE (its name), TOTAL_BATCH and the default of BATCH_SIZE; the user may set BATCH_SIZE, GPUS, OUTPUT_DIR,
# DATA_ROOT and, for several machines, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT. Where there are fewer GPUs than the total batch
# was made for, batches are accumulated.
ROOT=$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$ROOT/.venv/bin:$PATH
GPUS=${GPUS:-8} NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0}
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/output/$RECIPE}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

launch() {
    local script=$1 at_once=$((BATCH_SIZE * GPUS * NNODES))
    shift
    if [ "$at_once" -lt 1 ] || [ $((TOTAL_BATCH % at_once)) -ne 0 ]; then
        echo "error: BATCH_SIZE $BATCH_SIZE x GPUS $GPUS x NNODES $NNODES does not divide the total batch of $TOTAL_BATCH" >&2
        exit 2
    fi
    local start=(torchrun --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}")
    [ -z "${ONE_OF_SEVERAL:-}" ] || start=(python) # all processes have been started already: scripts/slurm/job.sh
    exec "${start[@]}" "$ROOT/$script" \
        --data_path "$DATA_PATH" --data_root "${DATA_ROOT:-}" --output_dir "$OUTPUT_DIR" --log_dir "$OUTPUT_DIR" \
        --batch_size "$BATCH_SIZE" --update_freq $((TOTAL_BATCH / at_once)) "$@"
}
