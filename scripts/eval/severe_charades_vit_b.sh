#!/usr/bin/env bash
# Fine-tunes ViT-B on Charades, with several labels a video, and tests it with 10 clips x 3 crops.
#
# Cells      severe, Charades, ViT-B: SIGMA-DINO 23.3, SIGMA-MLP 20.1, VideoMAE 12.6
# 8 GPUs     DATA_PATH=lists/charades CHECKPOINT=pretrained.pth bash scripts/eval/severe_charades_vit_b.sh
# 1 GPU      DATA_PATH=lists/charades CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/severe_charades_vit_b.sh
# Batch      128 = 8 GPUs x 16 videos, learning rate 5e-4
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the authors' settings for this cell are not public.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=128 BATCH_SIZE=${BATCH_SIZE:-16}
finetune \
    --data_set Charades --nb_classes 157 --task multilabel --mixup 0 --cutmix 0 --model vit_base_patch16_224 --sampling_rate 16 \
    --test_num_segment 10 --test_num_crop 3 --num_sample 2 --epochs 50 --save_ckpt_freq 10 --layer_decay 0.75 --drop_path 0.1 \
    "$@"
