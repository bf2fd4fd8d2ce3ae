#!/usr/bin/env bash
# Pre-trains on mini-SSv2, ViT-S, with targets VALUE: pixels (VideoMAE), MLP, DINO or DINOv2.
#
# Values     pixel mlp dino_v1 dino_v2
# Numbers    56.9 (pixel), 60.3 (mlp): top-1 after fine-tuning, second-hand
# 8 GPUs     VALUE=pixel DATA_PATH=lists/mini_ssv2/train.csv bash scripts/ablations/target.sh
# 1 GPU      VALUE=pixel DATA_PATH=lists/mini_ssv2/train.csv GPUS=1 bash scripts/ablations/target.sh
# Batch      96 = 3 GPUs x 32 clips in the original, learning rate 5.625e-5
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the list of mini-SSv2, the model and the epochs of the printed numbers are not public: docs/ablations.md.
#            The loss follows from the targets: L2 for pixels, else SWAV. Teacher weights are downloaded.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

require VALUE "the targets, for example VALUE=pixel"
ablate \
    --target_type "$VALUE" \
    "$@"
