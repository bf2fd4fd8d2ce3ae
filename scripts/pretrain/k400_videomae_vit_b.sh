#!/usr/bin/env bash
# Pre-trains VideoMAE, ViT-B, 800 epochs, on Kinetics-400.
#
# Row        VideoMAE, ViT-B, K400, 800 epochs
# Numbers    80.0 after fine-tuning on K400,
#            68.5 after fine-tuning on SSv2,
#            17.5 linear probe on SSv2 (paper, top-1)
# 8 GPUs     DATA_PATH=lists/k400/train.csv bash scripts/pretrain/k400_videomae_vit_b.sh
# 1 GPU      DATA_PATH=lists/k400/train.csv GPUS=1 bash scripts/pretrain/k400_videomae_vit_b.sh
# Batch      2048 = 64 GPUs x 32 clips in the original, learning rate 1.2e-3
# Hours      44 GPU hours, estimated from 1,226 clips/s of one H200 (bench/GPU.md) for a loader that keeps up
#            its authors report 27 hours on 64 V100 (MCG-NJU/VideoMAE, issue 5)
# Status     not verified: this recipe has not been run to completion
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=2048 BATCH_SIZE=${BATCH_SIZE:-32}
pretrain \
    --model pretrain_videomae_base_patch16_224 --mask_type tube \
    --target_type pixel --loss_func L2 --normalize_target True \
    --sampling_rate 4 --epochs 801 --warmup_epochs 40 --save_ckpt_freq 20 --lr 1.5e-4 \
    "$@"
