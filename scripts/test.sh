#!/usr/bin/env bash
# Makes the environment and runs the tests, two or more at a time: bash scripts/test.sh [pytest options]
# Left out unless a `-m` asks for them: the slow ones (-m slow), the long ones (-m long) and those of a real slurm (-m slurm). Those that need a GPU
# (-m gpu: only them) are skipped where there is none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" requirements-dev.txt

# A file's tests share fixtures; long files come first, see conftest.py. A process that dies ends the tests: what it was
# at would be lost without a word, or waited for.
processes=$("$PYTHON" -c "import os; print(min(max(os.cpu_count() or 2, 2), 8))")
options=(-n "$processes" --dist loadfile --no-loadscope-reorder --max-worker-restart 0)
chosen=false
for option in "$@"; do
    case $option in -m | -m?* | --markexpr*) chosen=true ;; esac
done
if ! $chosen; then
    options+=(-m "not slow and not long and not slurm")
    echo "The slow tests are left out; they run by: bash scripts/test.sh -m 'slow or long'"
fi
exec "$PYTHON" -m pytest "${options[@]}" "$@"
