#!/usr/bin/env bash
# Pre-trains VideoMAE, ViT-S, 1600 epochs, on Kinetics-400.
#
# Row        VideoMAE, ViT-S, K400, 1600 epochs
# Numbers    79.0 after fine-tuning on K400 (paper, top-1)
# 8 GPUs     DATA_PATH=lists/k400/train.csv bash scripts/pretrain/k400_videomae_vit_s.sh
# 1 GPU      DATA_PATH=lists/k400/train.csv GPUS=1 bash scripts/pretrain/k400_videomae_vit_s.sh
# Batch      1024 = 32 GPUs x 32 clips in the original, learning rate 6e-4
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       batch and epochs of the script in MCG-NJU/VideoMAE
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=1024 BATCH_SIZE=${BATCH_SIZE:-32}
pretrain \
    --model pretrain_videomae_small_patch16_224 --mask_type tube \
    --target_type pixel --loss_func L2 --normalize_target True \
    --sampling_rate 4 --epochs 1601 --warmup_epochs 40 --save_ckpt_freq 20 --lr 1.5e-4 \
    "$@"
