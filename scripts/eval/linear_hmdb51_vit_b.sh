#!/usr/bin/env bash
# Trains a linear probe on a frozen ViT-B, on HMDB51, and tests it with 5 clips x 3 crops.
#
# Cells      linear, HMDB51, ViT-B: SIGMA-DINO 52.3, SIGMA-MLP 45.0, VideoMAE 37.7
# 8 GPUs     DATA_PATH=lists/hmdb51 CHECKPOINT=pretrained.pth bash scripts/eval/linear_hmdb51_vit_b.sh
# 1 GPU      DATA_PATH=lists/hmdb51 CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/linear_hmdb51_vit_b.sh
# Batch      384 = 8 GPUs x 24 videos, accumulated 2 times, learning rate 1.5e-3
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the authors' settings for this cell are not public: those of their SSv2 script, with the data set's own views and 100 epochs.
#            split 1.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=384 BATCH_SIZE=${BATCH_SIZE:-24}
finetune \
    --data_set HMDB51 --nb_classes 51 --model vit_base_patch16_224 --linear_probing \
    --sampling_rate 4 --test_num_segment 5 --test_num_crop 3 --num_sample 2 --epochs 100 --save_ckpt_freq 10 \
    "$@"
