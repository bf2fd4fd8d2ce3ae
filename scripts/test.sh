#!/usr/bin/env bash
# Makes the environment and runs the tests, two at a time: bash scripts/test.sh [pytest options]
# Left out unless a `-m` asks for them: the slow ones (-m slow) and those of a real slurm (-m slurm). Those that need a GPU
# (-m gpu: only them) are skipped where there is none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" requirements-dev.txt

options=(-n 2 --dist loadfile --no-loadscope-reorder) # a file's tests share fixtures; long files come first, see conftest.py
chosen=false
for option in "$@"; do
    case $option in -m | -m?* | --markexpr*) chosen=true ;; esac
done
if ! $chosen; then
    options+=(-m "not slow and not slurm")
    echo "The slow tests are left out; they run by: bash scripts/test.sh -m slow"
fi
exec "$PYTHON" -m pytest "${options[@]}" "$@"
