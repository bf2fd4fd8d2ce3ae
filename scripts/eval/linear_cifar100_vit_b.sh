#!/usr/bin/env bash
# Trains a linear probe on a frozen ViT-B, on CIFAR-100, each image repeated to a clip.
#
# Cells      linear, CIFAR-100, ViT-B: SIGMA-DINO 66.7, SIGMA-MLP 46.2, VideoMAE 40.4
# 8 GPUs     DATA_PATH=data/cifar100 CHECKPOINT=pretrained.pth bash scripts/eval/linear_cifar100_vit_b.sh
# 1 GPU      DATA_PATH=data/cifar100 CHECKPOINT=pretrained.pth GPUS=1 bash scripts/eval/linear_cifar100_vit_b.sh
# Batch      384 samples over all GPUs, learning rates 1.5e-3 to 7.5e-2, of which a hold-out of the training list chooses
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       how an image becomes a clip and all settings are chosen here, none are public: docs/probing.md.
#            the file of CHECKPOINT says the size of the model.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

probe \
    --probe linear --data_set CIFAR-100 --nb_classes 100 \
    "$@"
