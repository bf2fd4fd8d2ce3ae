#!/usr/bin/env bash
# Does pre-training help, and which? From pre-training to a table, on generated videos or on your own labelled ones:
#   bash scripts/study/run.sh --out OUT
#   bash scripts/study/run.sh --data VIDEOS --lists LISTS --sets gestures,sports --target gestures,sports --out OUT
#   bash scripts/study/run.sh --smoke --out OUT     # tiny runs: the numbers mean nothing
# VIDEOS is what the paths of LISTS/SET_train.csv and LISTS/SET_val.csv start from. All sets are pre-trained on. The first
# target has all tests, the others k-NN and a linear probe. The same command goes on after an interruption; OUT/tables.md
# has the results.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh" requirements.txt
exec "$PYTHON" scripts/study/study.py "$@"
