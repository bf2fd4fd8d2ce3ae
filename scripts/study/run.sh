#!/usr/bin/env bash
# Does pre-training help, and which? On your own labelled videos, from pre-training to a table:
#   bash scripts/study/run.sh --data VIDEOS --lists LISTS --sets gestures,sports --target gestures,sports --out OUT
#   bash scripts/study/run.sh --smoke --out OUT     # tiny runs of generated videos: the numbers mean nothing
# VIDEOS is what the paths of LISTS/SET_train.csv and LISTS/SET_val.csv start from. All sets are pre-trained on. The first
# target has all tests, the others k-NN and a linear probe. The same command goes on after an interruption; OUT/tables.md
# has the results.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
exec "$PYTHON" scripts/study/study.py "$@"
