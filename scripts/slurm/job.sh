# Sourced by the templates: `job KIND SCRIPT FLAGS` runs an entry script, or a recipe of scripts/KIND that calls it, as a job step
# with one process per GPU. The variables below can be set before sbatch.
#
# Two launchers; with both, the run saves a checkpoint on USR1 and resumes after it:
#   LAUNCHER=srun      (default) srun launches every process, and signals reach them directly
#   LAUNCHER=torchrun  srun launches one torchrun per node. Without --signals-to-handle torchrun dies on USR1 and leaves its workers
#                      running; without --shutdown-timeout it kills them 30 seconds after TERM.
cd "${SLURM_SUBMIT_DIR:?submit this file with sbatch, from the root of the repository}"

LAUNCHER=${LAUNCHER:-srun}
VENV=${VENV:-$PWD/.venv}                      # Python environment (INSTALL.md)
SETUP=${SETUP:-}                              # shell commands to run first: SETUP="module load cuda; ulimit -n 65536"
DEVICE=${DEVICE:-cuda}                        # cuda: a node with a failed GPU is an error, not a fallback to the CPU
RECIPE=${RECIPE:-}                            # RECIPE=ssv2_vit_b runs scripts/finetune/ssv2_vit_b.sh; with the variables of launch.sh
OUTPUT_DIR=${OUTPUT_DIR:-output/$SLURM_JOB_NAME}
SEEDS=${SEEDS:-}                              # sweep: SEEDS="0 1 2" LRS="1e-3 5e-4" sbatch --array=0-5 ...
LRS=${LRS:-}
SHUTDOWN_TIMEOUT=${SHUTDOWN_TIMEOUT:-90}      # torchrun: seconds to save a checkpoint; less than --signal=USR1@

eval "$SETUP"
PATH=$VENV/bin:$PATH
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONUNBUFFERED=1
# Compiled kernels, on a disk of the node: many processes that write them to a shared home folder wait for one another.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/triton_$(id -un)}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/torchinductor_$(id -un)}
export SIGMA_REQUEUE=${SIGMA_REQUEUE:-1}      # 1: requeue the job after USR1 if training is not finished
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0    if the default network interface is the wrong one

fail() {
    echo "error: $*" >&2
    exit 2
}

# Sweep: flags and output folder of this array task.
sweep_flags=()
select_sweep_run() {
    local seeds lrs number=${SLURM_ARRAY_TASK_ID:-0}
    read -ra seeds <<<"$SEEDS"
    read -ra lrs <<<"$LRS"
    local count=$((${#seeds[@]} > 0 ? ${#seeds[@]} : 1))
    if [ "$number" -ge $((count * (${#lrs[@]} > 0 ? ${#lrs[@]} : 1))) ]; then
        fail "task $number of the array, but SEEDS='$SEEDS' and LRS='$LRS' have fewer combinations"
    fi
    if [ ${#lrs[@]} -gt 0 ]; then
        sweep_flags+=(--lr "${lrs[number / count]}")
        OUTPUT_DIR+=/lr${lrs[number / count]}
    fi
    if [ ${#seeds[@]} -gt 0 ]; then
        sweep_flags+=(--seed "${seeds[number % count]}")
        OUTPUT_DIR+=/seed${seeds[number % count]}
    fi
}

job() {
    local cpus=${SLURM_CPUS_PER_TASK:-1} tasks=${SLURM_NTASKS_PER_NODE:-1} nodes=$SLURM_JOB_NUM_NODES
    select_sweep_run
    mkdir -p "$OUTPUT_DIR"
    export OUTPUT_DIR DEVICE NUM_WORKERS=${NUM_WORKERS:-$((cpus > 1 ? cpus - 1 : 0))}
    local program=(python "$2" --device "$DEVICE" --num_workers "$NUM_WORKERS" --output_dir "$OUTPUT_DIR" --log_dir "$OUTPUT_DIR")
    if [ -n "$RECIPE" ]; then
        [ -f "scripts/$1/$RECIPE.sh" ] || fail "RECIPE=$RECIPE: there is no scripts/$1/$RECIPE.sh"
        program=(bash "scripts/$1/$RECIPE.sh")
        export VENV ONE_OF_SEVERAL=1 GPUS=$tasks NNODES=$nodes
    fi
    # NCCL flight recorder: when a collective hangs, the last collectives of every rank are dumped there.
    export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-2000} TORCH_NCCL_DUMP_ON_TIMEOUT=1
    export TORCH_FR_DUMP_TEMP_FILE=$(realpath "$OUTPUT_DIR")/collectives_of_rank_
    set -- "${program[@]}" ${sweep_flags[@]+"${sweep_flags[@]}"} "${@:3}"
    echo "$(date +%FT%T) job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, restarts ${SLURM_RESTART_COUNT:-0}: $*"
    case $LAUNCHER in
        srun) exec srun --kill-on-bad-exit=1 --cpus-per-task="$cpus" "$@" ;;
        torchrun)
            exec srun --kill-on-bad-exit=1 --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task=$((cpus * tasks)) \
                torchrun --nnodes "$nodes" --nproc_per_node "$tasks" --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d \
                --rdzv_endpoint "$(scontrol show hostnames | head -n 1):$((12000 + SLURM_JOB_ID % 20000))" \
                --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout "$SHUTDOWN_TIMEOUT" \
                --no-python "$@"
            ;;
        *) fail "LAUNCHER=$LAUNCHER: srun or torchrun" ;;
    esac
}
