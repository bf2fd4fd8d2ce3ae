#!/usr/bin/env bash
# Trains a linear probe on a frozen ViT-B, on Something-Something v2, and tests it with 2 clips x 3 crops.
#
# Cells      linear, SSv2, ViT-B: SIGMA-DINO 20.8, SIGMA-MLP 19.9, VideoMAE 17.5
# 8 GPUs     DATA_PATH=lists/ssv2 CHECKPOINT=pretrained.pth bash scripts/finetune/ssv2_linear_vit_b.sh
# 1 GPU      DATA_PATH=lists/ssv2 CHECKPOINT=pretrained.pth GPUS=1 bash scripts/finetune/ssv2_linear_vit_b.sh
# Batch      384 = 8 GPUs x 24 videos, accumulated 2 times, learning rate 1.5e-3
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the frozen encoder is in evaluation mode here; in the released code its stochastic depth stayed on.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=384 BATCH_SIZE=${BATCH_SIZE:-24}
finetune \
    --data_set SSV2 --nb_classes 174 --model vit_base_patch16_224 --linear_probing \
    --sampling_rate 2 --test_num_segment 2 --test_num_crop 3 --num_sample 2 --epochs 30 --save_ckpt_freq 10 \
    "$@"
