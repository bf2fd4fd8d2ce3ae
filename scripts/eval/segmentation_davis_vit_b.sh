#!/usr/bin/env bash
# Clusters the tokens of a frozen ViT-B on DAVIS 2017, clips of 16 frames, by as many clusters as labels and by ten.
#
# Cells      segmentation, clustering DAVIS, ViT-B: SIGMA-DINO 30.6, SIGMA-MLP 30.2, VideoMAE 27.2
#            segmentation, overclustering DAVIS, ViT-B: SIGMA-DINO 56.5, SIGMA-MLP 52.9, VideoMAE 50.9
# 8 GPUs     DATA_PATH=data/DAVIS CHECKPOINT=pretrained.pth bash scripts/eval/segmentation_davis_vit_b.sh
# 1 GPU      DATA_PATH=data/DAVIS CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/segmentation_davis_vit_b.sh
# Batch      one sequence at a time, nothing is trained
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       docs/segmentation.md lists what was not released; the pre-training data of these rows are not stated either.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

segment \
    --model vit_base_patch16_224 --num_frames 16 \
    "$@"
