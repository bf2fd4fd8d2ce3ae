#!/usr/bin/env bash
# Trains a linear probe on a frozen ViT-B, on Something-Something v2, and tests it with 2 clips x 3 crops.
#
# Paper row      linear probing, SSv2 column, ViT-B pre-trained on K400
# Paper number   SIGMA-MLP 19.9, VideoMAE 17.5 (paper, top-1)
# Hardware       8 GPUs x 24 videos, accumulated twice = 384, learning rate 1.5e-3
# Hours          not measured
# Status         not verified: this recipe has not been run to completion
# Note           the frozen encoder is in evaluation mode here; in the released code its stochastic depth stayed on.
#
# Usage: DATA_PATH=lists CHECKPOINT=pretrained.pth bash scripts/finetune/ssv2_linear_vit_b.sh [flags]
#   DATA_PATH    folder with train.csv, val.csv and test.csv (required)
#   CHECKPOINT   pre-trained weights, a released file or our own (required); use a new OUTPUT_DIR for other
#                weights, because training resumes from checkpoints in OUTPUT_DIR
#   DATA_ROOT    root of relative paths in the lists (default: see DATASET.md)
#   OUTPUT_DIR   checkpoints and logs (default: output/finetune_ssv2_linear_vit_b)
#   GPUS         GPUs per node (default: 8)
#   BATCH_SIZE   videos per GPU and forward pass (default: 24)
#   Multi-node: NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT; run the same command on every node.
# The total batch stays 384: with fewer GPUs, gradients are accumulated. Flags at the end of the command line override the
# recipe: bash scripts/finetune/ssv2_linear_vit_b.sh --num_workers 4
set -euo pipefail
: "${DATA_PATH:?the folder with train.csv, val.csv and test.csv}"
: "${CHECKPOINT:?the pre-trained weights, for example CHECKPOINT=output/pretrain_k400_sigma_mlp_vit_b/checkpoint-799.pth}"
RECIPE=finetune_ssv2_linear_vit_b TOTAL_BATCH=384 BATCH_SIZE=${BATCH_SIZE:-24}
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

launch run_class_finetuning.py \
    --data_set SSV2 --nb_classes 174 --model vit_base_patch16_224 --finetune "$CHECKPOINT" \
    --linear_probing --num_frames 16 --sampling_rate 2 --test_num_segment 2 --test_num_crop 3 \
    --num_sample 2 --epochs 30 --warmup_epochs 5 --save_ckpt_freq 10 \
    --opt adamw --opt_betas 0.9 0.999 --lr 1e-3 --min_lr 1e-6 --weight_decay 0.05 \
    "$@"
