#!/usr/bin/env bash
# Pre-trains SIGMA-MLP on mini-SSv2, ViT-S, with VALUE prototypes.
#
# Values     1000 2000 3000 4000 6000
# Numbers    59.7 (1000), 60.3 (4000), 60.1 (6000): top-1 after fine-tuning, second-hand
# 8 GPUs     VALUE=4000 DATA_PATH=lists/mini_ssv2/train.csv bash scripts/ablations/prototypes.sh
# 1 GPU      VALUE=4000 DATA_PATH=lists/mini_ssv2/train.csv GPUS=1 bash scripts/ablations/prototypes.sh
# Batch      96 = 3 GPUs x 32 clips in the original, learning rate 5.625e-5
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the list of mini-SSv2, the model and the epochs of the printed numbers are not public: docs/ablations.md.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

require VALUE "the number of prototypes, for example VALUE=4000"
ablate \
    --loss_func SWAV --num_prototypes "$VALUE" \
    "$@"
