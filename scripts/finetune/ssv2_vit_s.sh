#!/usr/bin/env bash
# Fine-tunes ViT-S on Something-Something v2 and tests it with 2 clips x 3 crops.
#
# Cells      finetuning, SSv2 2x3, ViT-S: SIGMA-DINO 68.7 from K400, SIGMA-DINO 68.6 from SSv2, VideoMAE 66.8 from SSv2
# 8 GPUs     DATA_PATH=lists/ssv2 CHECKPOINT=pretrained.pth bash scripts/finetune/ssv2_vit_s.sh
# 1 GPU      DATA_PATH=lists/ssv2 CHECKPOINT=pretrained.pth GPUS=1 bash scripts/finetune/ssv2_vit_s.sh
# Batch      32 = 8 GPUs x 4 videos, learning rate 1.25e-4
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       no settings were released for ViT-S: these are ViT-B's.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=32 BATCH_SIZE=${BATCH_SIZE:-4}
finetune \
    --data_set SSV2 --nb_classes 174 --model vit_small_patch16_224 --sampling_rate 2 --test_num_segment 2 --test_num_crop 3 \
    --num_sample 1 --epochs 40 --save_ckpt_freq 5 --layer_decay 0.75 --drop_path 0.1 \
    "$@"
