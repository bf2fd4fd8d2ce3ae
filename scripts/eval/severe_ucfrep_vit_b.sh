#!/usr/bin/env bash
# Fine-tunes ViT-B to count repetitions, on UCFRep, and tests it.
#
# Cells      severe, UCF-RC, ViT-B: SIGMA-DINO 0.169, SIGMA-MLP 0.178, VideoMAE 0.172
# 8 GPUs     DATA_PATH=data/ucfrep CHECKPOINT=pretrained.pth bash scripts/eval/severe_ucfrep_vit_b.sh
# 1 GPU      DATA_PATH=data/ucfrep CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/severe_ucfrep_vit_b.sh
# Batch      32 = 8 GPUs x 4 videos, learning rate 5e-5
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the authors' settings for this cell are not public.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=32 BATCH_SIZE=${BATCH_SIZE:-4}
count \
    --model vit_base_patch16_224 --epochs 100 --lr 4e-4 \
    "$@"
