#!/usr/bin/env bash
# Makes the environment and runs the tests: bash scripts/test.sh [pytest options]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh" requirements-dev.txt
exec "$PYTHON" -m pytest "$@"
