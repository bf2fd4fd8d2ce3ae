#!/usr/bin/env bash
# Pre-trains, fine-tunes and tests on generated videos, and shows the results: bash scripts/demo.sh [options]
#
#   --method sigma|videomae   the pre-training method (default: sigma)
#   --smoke                   the whole path in one to two minutes, to see that it works; its numbers mean nothing
#   --seed N                  another seed (default: 0)
#   --output_dir DIR          where videos, weights, logs and pictures go (default: output/demo)
#
# About 10 minutes on two idle CPU cores; faster with a GPU. A second call reuses what is done and resumes what was cut off.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" requirements.txt
exec "$PYTHON" scripts/demo.py "$@"
