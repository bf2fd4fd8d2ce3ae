#!/usr/bin/env bash
# Fine-tunes ViT-S on mini-SSv2 from the weights of an ablation, and tests it with 2 clips x 3 crops.
#
# 8 GPUs     DATA_PATH=lists/mini_ssv2 CHECKPOINT=output/ablations_loss_L2/checkpoint-399.pth VALUE=loss_L2 bash scripts/ablations/finetune.sh
# 1 GPU      DATA_PATH=lists/mini_ssv2 CHECKPOINT=output/ablations_loss_L2/checkpoint-399.pth VALUE=loss_L2 GPUS=1 bash scripts/ablations/finetune.sh
# Batch      96 = 3 GPUs x 4 videos x 8 steps in the original, learning rate 3.75e-4
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       as finetune/finetune_ssv2_mini_2.sh of QUVA-Lab/SIGMA 13e9c17. VALUE names the folder of the results.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

require VALUE "a name of the weights, for example VALUE=loss_L2"
TOTAL_BATCH=96 BATCH_SIZE=${BATCH_SIZE:-4}
finetune \
    --data_set SSV2 --nb_classes 174 --model vit_small_patch16_224 --sampling_rate 2 --test_num_segment 2 --test_num_crop 3 \
    --num_sample 2 --epochs 40 --save_ckpt_freq 10 --layer_decay 0.7 \
    "$@"
