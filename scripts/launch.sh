# Sourced by the recipes: `launch SCRIPT FLAGS` runs an entry script with torchrun and the recipe's total batch. For slurm see
# scripts/slurm/pretrain.sbatch and finetune.sbatch.
#
# The recipe sets RECIPE (its name), TOTAL_BATCH and the default BATCH_SIZE; the user may set BATCH_SIZE, GPUS, OUTPUT_DIR,
# DATA_ROOT and, for multi-node training, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT. With fewer GPUs than the recipe assumes,
# gradients are accumulated.
ROOT=$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$ROOT/.venv/bin:$PATH
GPUS=${GPUS:-8} NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0}
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/output/$RECIPE}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Compiled kernels, on a disk of the node: many processes that write them to a shared home folder wait for one another.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/triton_$(id -un)}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/torchinductor_$(id -un)}

launch() {
    local script=$1 step_batch=$((BATCH_SIZE * GPUS * NNODES))
    shift
    if [ "$step_batch" -lt 1 ] || [ $((TOTAL_BATCH % step_batch)) -ne 0 ]; then
        echo "error: BATCH_SIZE $BATCH_SIZE x GPUS $GPUS x NNODES $NNODES does not divide the total batch of $TOTAL_BATCH" >&2
        exit 2
    fi
    local start=(torchrun --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}")
    [ -z "${ONE_OF_SEVERAL:-}" ] || start=(python) # srun or torchrun launched all processes already: scripts/slurm/job.sh
    exec "${start[@]}" "$ROOT/$script" \
        --data_path "$DATA_PATH" --data_root "${DATA_ROOT:-}" --output_dir "$OUTPUT_DIR" --log_dir "$OUTPUT_DIR" \
        --batch_size "$BATCH_SIZE" --update_freq $((TOTAL_BATCH / step_batch)) "$@"
}
