# Sourced by every recipe of scripts/pretrain, scripts/finetune and scripts/eval: what they share. A recipe has a header, TOTAL_BATCH
# and BATCH_SIZE where it trains, and one call of `pretrain`, `finetune`, `evaluate`, `probe`, `segment` or `count` with its own flags.
#
#   DATA_PATH=lists/ssv2 CHECKPOINT=pretrained.pth bash scripts/finetune/ssv2_vit_b.sh [flags]
#
# Flags at the end override the recipe's. Variables:
#   DATA_PATH    pre-training: a list, one `path label` or `path` per line; fine-tuning: a folder with train.csv, val.csv and test.csv;
#                images, segmentation and repetitions: the folder of the data set (required)
#   DATA_ROOT    root of relative paths in the lists (default: see DATASET.md)
#   CHECKPOINT   weights to start from or to evaluate, a released file, an https:// address or our own (required except in
#                pre-training); use a new OUTPUT_DIR for other weights, because training resumes from checkpoints in OUTPUT_DIR
#   OUTPUT_DIR   checkpoints, logs and results (default: output/KIND_RECIPE, such as output/finetune_ssv2_vit_b)
#   GPUS         GPUs per node (default: 8)
#   BATCH_SIZE   clips per GPU and forward pass. The total batch stays the recipe's: with fewer GPUs, gradients are accumulated
#   DEVICE, NUM_WORKERS   values of --device and --num_workers (default: those of the script)
#   VALUE        scripts/ablations: of what the recipe changes (required there)
#   VENV         Python environment (default: .venv of the repository)
#   SHOW_COMMAND=1        print the command and end
#   Multi-node: NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT; run the same command on every node. For slurm see scripts/slurm.
set -euo pipefail
ROOT=$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=${VENV:-$ROOT/.venv}/bin:$PATH
recipe=${BASH_SOURCE[1]##*/} kind=$(CDPATH='' cd -- "${BASH_SOURCE[1]%"${BASH_SOURCE[1]##*/}"}." && pwd)
RECIPE=${kind##*/}_${recipe%.sh}
[ "${kind##*/}" != ablations ] || RECIPE+=_${VALUE:-} # a folder for each value of what an ablation changes
GPUS=${GPUS:-8} NNODES=${NNODES:-1} NODE_RANK=${NODE_RANK:-0}
OUTPUT_DIR=${OUTPUT_DIR:-$ROOT/output/$RECIPE}
LISTS=(--data_path "${DATA_PATH:-}" --data_root "${DATA_ROOT:-}")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Compiled kernels, on a disk of the node: many processes that write them to a shared home folder wait for one another.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-${TMPDIR:-/tmp}/triton_${USER:-$(id -un)}}
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-${TMPDIR:-/tmp}/torchinductor_${USER:-$(id -un)}}

require() { # VARIABLE, what it is
    [ -n "${!1:-}" ] || { echo "error: $1 is not set: $2" >&2; exit 2; }
}

# Run an entry script in as many processes as there are GPUs.
launch() { # SCRIPT FLAGS
    local start=(torchrun --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$GPUS"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}")
    [ -z "${ONE_OF_SEVERAL:-}" ] || start=(python) # srun or torchrun launched all processes already: scripts/slurm/job.sh
    set -- "${start[@]}" "$ROOT/$1" "${@:2}"
    if [ -n "${SHOW_COMMAND:-}" ]; then
        printf '%q ' "$@"
        echo
    else
        exec "$@"
    fi
}

# Training, or a test, with the recipe's total batch.
train() { # SCRIPT FLAGS
    local script=$1 step_batch=$((BATCH_SIZE * GPUS * NNODES))
    shift
    if [ "$step_batch" -lt 1 ] || [ $((TOTAL_BATCH % step_batch)) -ne 0 ]; then
        echo "error: BATCH_SIZE $BATCH_SIZE x GPUS $GPUS x NNODES $NNODES does not divide the total batch of $TOTAL_BATCH" >&2
        exit 2
    fi
    launch "$script" --output_dir "$OUTPUT_DIR" --log_dir "$OUTPUT_DIR" \
        --batch_size "$BATCH_SIZE" --update_freq $((TOTAL_BATCH / step_batch)) \
        ${DEVICE:+--device "$DEVICE"} ${NUM_WORKERS:+--num_workers "$NUM_WORKERS"} "$@"
}

pretrain() { # FLAGS
    require DATA_PATH "the list of training videos, for example DATA_PATH=lists/train.csv"
    train run_sigma_pretraining.py "${LISTS[@]}" --decoder_depth 4 --mask_ratio 0.9 --num_frames 16 --augmentation multi_scale_crop \
        --opt adamw --opt_betas 0.9 0.95 --min_lr 1e-5 --weight_decay 0.05 "$@"
}

ablate() { # FLAGS: the pre-training that ablations change one thing of, as far as it is public
    TOTAL_BATCH=96 BATCH_SIZE=${BATCH_SIZE:-12} # 3 GPUs x 32 clips in pretrain/pretrain_mini_ssv2.sh of QUVA-Lab/SIGMA 13e9c17
    pretrain --model pretrain_videomae_small_patch16_224 --mask_type tube --target_type mlp --num_prototypes 4000 --sinkhorn_eps 0.03 \
        --sinkhorn_iterations 10 --sampling_rate 2 --epochs 400 --warmup_epochs 40 --save_ckpt_freq 20 --lr 1.5e-4 "$@"
}

finetune() { # FLAGS
    require DATA_PATH "the folder with train.csv, val.csv and test.csv"
    require CHECKPOINT "the pre-trained weights, for example CHECKPOINT=output/pretrain_k400_sigma_mlp_vit_b/checkpoint-799.pth"
    train run_class_finetuning.py "${LISTS[@]}" --finetune "$CHECKPOINT" --num_frames 16 --warmup_epochs 5 \
        --opt adamw --opt_betas 0.9 0.999 --lr 1e-3 --min_lr 1e-6 --weight_decay 0.05 "$@"
}

evaluate() { # FLAGS: fine-tuned weights, tested again
    require DATA_PATH "the folder with test.csv"
    require CHECKPOINT "the fine-tuned weights, for example CHECKPOINT=output/finetune_k400_vit_b/checkpoint-99.pth"
    train run_class_finetuning.py "${LISTS[@]}" --eval --finetune "$CHECKPOINT" --num_frames 16 "$@"
}

probe() { # FLAGS: a linear layer on features that are kept in OUTPUT_DIR
    require DATA_PATH "the folder of the lists, or of the images"
    require CHECKPOINT "the pre-trained weights, for example CHECKPOINT=output/pretrain_k400_sigma_mlp_vit_b/checkpoint-799.pth"
    launch run_probing.py "${LISTS[@]}" --finetune "$CHECKPOINT" --output_dir "$OUTPUT_DIR" \
        ${DEVICE:+--device "$DEVICE"} ${NUM_WORKERS:+--num_workers "$NUM_WORKERS"} "$@"
}

count() { # FLAGS: repetitions
    require DATA_PATH "the folder of UCFRep, with annotations/train and annotations/val"
    require CHECKPOINT "the pre-trained weights, for example CHECKPOINT=output/pretrain_k400_sigma_mlp_vit_b/checkpoint-799.pth"
    train run_repetition_counting.py --data_root "$DATA_PATH" --finetune "$CHECKPOINT" "$@"
}

segment() { # FLAGS
    require DATA_PATH "the folder with JPEGImages, Annotations and the list of the split"
    require CHECKPOINT "the pre-trained weights, for example CHECKPOINT=output/pretrain_k400_sigma_mlp_vit_b/checkpoint-799.pth"
    launch run_segmentation.py --data_root "$DATA_PATH" --finetune "$CHECKPOINT" --output_dir "$OUTPUT_DIR" \
        ${DEVICE:+--device "$DEVICE"} "$@"
}
