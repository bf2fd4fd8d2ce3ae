#!/usr/bin/env bash
# Trains a linear probe on a frozen ViT-B, on ImageNet-1K, each image repeated to a clip.
#
# Cells      linear, IN-1K, ViT-B: SIGMA-DINO 45.0, SIGMA-MLP 24.1, VideoMAE 20.2
# 8 GPUs     DATA_PATH=data/imagenet CHECKPOINT=pretrained.pth bash scripts/eval/linear_in1k_vit_b.sh
# 1 GPU      DATA_PATH=data/imagenet CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/linear_in1k_vit_b.sh
# Batch      384 samples over all GPUs, learning rates 1.5e-3 to 7.5e-2, of which a hold-out of the training list chooses
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       how an image becomes a clip and all settings are chosen here, none are public: docs/probing.md.
#            the file of CHECKPOINT says the size of the model.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

probe \
    --probe linear --data_set ImageNet-1K --nb_classes 1000 \
    "$@"
