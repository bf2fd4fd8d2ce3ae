#!/usr/bin/env bash
# Clusters the tokens of a frozen ViT-S on YouTube-VOS, clips of 4 frames, by as many clusters as labels and by ten.
#
# Cells      segmentation, clustering YTVOS, ViT-S: SIGMA-DINO 38.2, VideoMAE 33.7
#            segmentation, overclustering YTVOS, ViT-S: SIGMA-DINO 60.0, VideoMAE 53.9
# 8 GPUs     DATA_PATH=data/YTVOS CHECKPOINT=pretrained.pth bash scripts/eval/segmentation_ytvos_vit_s.sh
# 1 GPU      DATA_PATH=data/YTVOS CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/segmentation_ytvos_vit_s.sh
# Batch      one sequence at a time, nothing is trained
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       docs/segmentation.md lists what was not released; the pre-training data of these rows are not stated either.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

segment \
    --model vit_small_patch16_224 --num_frames 4 --labels categories \
    "$@"
