#!/usr/bin/env bash
# Lint and test everything, on the CPU and without a data set.
# Usage: tests/run.sh [--all] [pytest options]
# --all: those tests, too, that start browsers, compilers and groups of processes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=utils/setup.sh
. utils/setup.sh
set_up tests/requirements.txt pytest xdist onnx onnxscript onnxruntime openvino nncf

scripts=(*.sh preprocess/*.sh utils/*.sh results/*.sh tests/*.sh web/*.sh .ci/run)
PATH=$(dirname "$PYTHON"):$PATH # where pip puts ruff and shellcheck
lint() {
  if command -v "$1" > /dev/null; then
    "$@"
  elif [ -n "${CI:-}" ]; then
    die "$1 is missing; pip install -r tests/requirements.txt"
  else
    echo "$1 is not installed here: its checks are skipped"
  fi
}
stage "Lint"
lint ruff check .
lint ruff format --check .
lint shellcheck -x "${scripts[@]}"
stage "Tests"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two tests run at a time, on few cores
[ "${1:-}" != --all ] || set -- -m '' "${@:2}"
exec "$PYTHON" -m pytest --numprocesses 2 --dist loadfile "$@"
