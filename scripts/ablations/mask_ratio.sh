#!/usr/bin/env bash
# Pre-trains SIGMA-MLP on mini-SSv2, ViT-S, with VALUE of the tubelets masked.
#
# Values     0.75 0.9 0.95
# Numbers    none is public
# 8 GPUs     VALUE=0.75 DATA_PATH=lists/mini_ssv2/train.csv bash scripts/ablations/mask_ratio.sh
# 1 GPU      VALUE=0.75 DATA_PATH=lists/mini_ssv2/train.csv GPUS=1 bash scripts/ablations/mask_ratio.sh
# Batch      96 = 3 GPUs x 32 clips in the original, learning rate 5.625e-5
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the list of mini-SSv2, the model and the epochs of the printed numbers are not public: docs/ablations.md.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

require VALUE "the masked part, for example VALUE=0.75"
ablate \
    --loss_func SWAV --mask_ratio "$VALUE" \
    "$@"
