#!/usr/bin/env bash
# The slow suite: fuzzes what is read, kills what writes, and prints the tables of docs/reliability.md.
# Usage: tests/reliability.sh   (FILES=1000 KILLS=100 SEED=0)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=utils/setup.sh
. utils/setup.sh
set_up tests/requirements.txt pytest

failed=0
stage "Damaged files"
"$PYTHON" tests/fuzz.py --files "${FILES:-1000}" --seed "${SEED:-0}" || failed=1
stage "Kills"
"$PYTHON" tests/kills.py --kills "${KILLS:-100}" --seed "${SEED:-0}" || failed=1
exit $failed
