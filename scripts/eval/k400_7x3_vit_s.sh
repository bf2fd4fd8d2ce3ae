#!/usr/bin/env bash
# Tests a ViT-S fine-tuned on Kinetics-400 with the 7 clips x 3 crops of the released script.
#
# Cells      finetuning, K400 7x3, ViT-S: printed for none of these methods
# 8 GPUs     DATA_PATH=lists/k400 CHECKPOINT=output/finetune_k400_vit_s bash scripts/eval/k400_7x3_vit_s.sh
# 1 GPU      DATA_PATH=lists/k400 CHECKPOINT=output/finetune_k400_vit_s GPUS=1 bash scripts/eval/k400_7x3_vit_s.sh
# After      finetune/k400_vit_s
# Batch      nothing is trained
# Hours      not measured
# Status     not verified: this recipe has not been run to completion
# Note       the authors test with 7 clips in the released script and print results of 5.
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"

TOTAL_BATCH=64 BATCH_SIZE=${BATCH_SIZE:-8}
evaluate \
    --data_set Kinetics-400 --nb_classes 400 --model vit_small_patch16_224 --sampling_rate 4 --test_num_segment 7 --test_num_crop 3 \
    "$@"
