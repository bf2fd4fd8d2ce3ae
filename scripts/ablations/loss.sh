#!/usr/bin/env bash
# Pre-trains SIGMA-MLP on mini-SSv2, ViT-S, with loss VALUE: clusters (SWAV) or squared error (L2), which collapses.
#
# Values     SWAV L2
# Numbers    60.3 (SWAV), 36.4 (L2): top-1 after fine-tuning, second-hand
# 8 GPUs     VALUE=L2 DATA_PATH=lists/mini_ssv2/train.csv bash scripts/ablations/loss.sh
# 1 GPU      VALUE=L2 DATA_PATH=lists/mini_ssv2/train.csv GPUS=1 bash scripts/ablations/loss.sh
# Batch      96 = 3 GPUs x 32 clips in the original, learning rate 5.625e-5
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the list of mini-SSv2, the model and the epochs of the printed numbers are not public: docs/ablations.md.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

require VALUE "the loss, for example VALUE=L2"
ablate \
    --loss_func "$VALUE" \
    "$@"
