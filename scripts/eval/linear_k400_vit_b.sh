#!/usr/bin/env bash
# Trains a linear probe on a frozen ViT-B, on Kinetics-400, and tests it with 5 clips x 3 crops.
#
# Cells      linear, K400, ViT-B: SIGMA-DINO 47.5, SIGMA-MLP 30.7, VideoMAE 20.7
# 8 GPUs     DATA_PATH=lists/k400 CHECKPOINT=pretrained.pth bash scripts/eval/linear_k400_vit_b.sh
# 1 GPU      DATA_PATH=lists/k400 CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/linear_k400_vit_b.sh
# Batch      384 = 8 GPUs x 24 videos, accumulated 2 times, learning rate 1.5e-3
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the authors' settings for this cell are not public: those of their SSv2 script, with the data set's own views.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=384 BATCH_SIZE=${BATCH_SIZE:-24}
finetune \
    --data_set Kinetics-400 --nb_classes 400 --model vit_base_patch16_224 --linear_probing \
    --sampling_rate 4 --test_num_segment 5 --test_num_crop 3 --num_sample 2 --epochs 30 --save_ckpt_freq 10 \
    "$@"
