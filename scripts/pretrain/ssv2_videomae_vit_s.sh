#!/usr/bin/env bash
# Pre-trains VideoMAE, ViT-S, 2400 epochs, on Something-Something v2.
#
# Row        VideoMAE, ViT-S, SSv2, 2400 epochs
# Numbers    66.8 after fine-tuning on SSv2 (paper, top-1)
# 8 GPUs     DATA_PATH=lists/ssv2/train.csv bash scripts/pretrain/ssv2_videomae_vit_s.sh
# 1 GPU      DATA_PATH=lists/ssv2/train.csv GPUS=1 bash scripts/pretrain/ssv2_videomae_vit_s.sh
# Batch      2048 = 64 GPUs x 32 clips in the original, learning rate 1.2e-3
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       batch and epochs of the script in MCG-NJU/VideoMAE; its comment speaks of 32 GPUs, its command of 64
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=2048 BATCH_SIZE=${BATCH_SIZE:-32}
pretrain \
    --model pretrain_videomae_small_patch16_224 --mask_type tube \
    --target_type pixel --loss_func L2 --normalize_target True \
    --sampling_rate 2 --epochs 2401 --warmup_epochs 40 --save_ckpt_freq 20 --lr 1.5e-4 \
    "$@"
