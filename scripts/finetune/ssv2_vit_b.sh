#!/usr/bin/env bash
# Fine-tunes ViT-B on Something-Something v2 and tests it with 2 clips x 3 crops.
#
# Cells      finetuning, SSv2 2x3, ViT-B: SIGMA-DINO 71.1 from K400, SIGMA-DINO 70.9 from SSv2, SIGMA-MLP 69.8 from K400,
#            SIGMA-MLP 70.4 from SSv2, VideoMAE 68.5 from K400, VideoMAE 69.6 from SSv2,
#            SIGMA-DINO (motion-guided masking) 71.2 from SSv2, SIGMA-MLP (motion-guided masking) 71.2 from SSv2
#            severe, SSv2, ViT-B: SIGMA-DINO 70.9, SIGMA-MLP 69.8, VideoMAE 68.6
# 8 GPUs     DATA_PATH=lists/ssv2 CHECKPOINT=pretrained.pth bash scripts/finetune/ssv2_vit_b.sh
# 1 GPU      DATA_PATH=lists/ssv2 CHECKPOINT=pretrained.pth GPUS=1 bash scripts/finetune/ssv2_vit_b.sh
# Batch      32 = 8 GPUs x 4 videos, learning rate 1.25e-4
# Hours      5 GPU hours of training, estimated from 364 clips/s of one H200 (bench/GPU.md) for a loader that keeps up
# Status     not verified: this recipe has not been run to completion
# Note       batch and learning rate of the released SIGMA script.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=32 BATCH_SIZE=${BATCH_SIZE:-4}
finetune \
    --data_set SSV2 --nb_classes 174 --model vit_base_patch16_224 --sampling_rate 2 --test_num_segment 2 --test_num_crop 3 \
    --num_sample 1 --epochs 40 --save_ckpt_freq 5 --layer_decay 0.75 --drop_path 0.1 \
    "$@"
