#!/usr/bin/env bash
# What pre-training is worth with more fine-tuning or fewer labels, after a run of scripts/demo.sh:
#
#   bash bench/finetuning_budget.sh SEED LABELS EPOCHS
#
# fine-tunes the demo's SIGMA weights of that seed, and the same model from scratch, on the first LABELS training videos for EPOCHS,
# with the demo's other options, and prints both test lines.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/env.sh" requirements.txt
seed=$1 labels=$2 epochs=$3
data=output/demo/data-short out=output/bench/finetuning-seed$seed-labels$labels-epochs$epochs
weights=$(ls -v output/demo/sigma-short-seed"$seed"/pretrain/checkpoint-*.pth | tail -n 1)
mkdir -p "$out/lists"
head -n "$labels" "$data/train.csv" >"$out/lists/train.csv"
cp "$data/val.csv" "$data/test.csv" "$data/labels.txt" "$out/lists/"
for start in pretrained scratch; do
    finetune=()
    [ "$start" = scratch ] || finetune=(--finetune "$weights")
    OMP_NUM_THREADS=1 "$PYTHON" run_class_finetuning.py --data_set Synthetic --data_path "$out/lists" --model vit_mini_patch8_32 \
        --input_size 32 --num_frames 8 --sampling_rate 1 --short_side_size 32 --test_num_segment 2 --test_num_crop 3 \
        --aa none --reprob 0 --mixup 0 --cutmix 0 --min_crop_area 0.9 --num_sample 1 --drop_path 0 --layer_decay 1 \
        --batch_size 32 --epochs "$epochs" --warmup_epochs 0 --warmup_steps $((epochs * (labels / 32) / 10)) --lr 4e-3 \
        --disable_eval_during_finetuning --save_ckpt_freq "$epochs" --num_workers 1 --output_dir "$out/$start" "${finetune[@]}" \
        2>&1 | sed -n "s/^.*test: /$start: /p"
done
