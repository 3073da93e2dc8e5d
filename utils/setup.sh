#!/usr/bin/env bash
# Sourced by the scripts. Sets PYTHON to an interpreter that imports what is needed: $PYTHON if
# given, the active one if it has everything, or else .venv, which is made here.

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export SETUP_BEGAN=${SETUP_BEGAN:-$(date +%s)}

modules=(torch torchvision numpy scipy h5py cv2 av PIL matplotlib tqdm safetensors tensorboard filelock)

# stage WORDS...: prints what begins, and the time since the first script began
stage() {
  local seconds=$(($(date +%s) - SETUP_BEGAN))
  printf '\n== %d:%02d  %s\n' $((seconds / 60)) $((seconds % 60)) "$*"
}

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# has_modules PYTHON MODULE...: tests that it is new enough and imports them all
has_modules() {
  "$1" - "${@:2}" > /dev/null 2>&1 << 'EOF'
import importlib
import sys

assert sys.version_info >= (3, 10)
for name in sys.argv[1:]:
    importlib.import_module(name)
import numpy
import torch

assert hasattr(numpy, "dtypes")  # 1.25
assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)
EOF
}

# set_up REQUIREMENTS [MODULE...]: sets PYTHON to an interpreter that imports our modules and these,
# which the file REQUIREMENTS installs
set_up() {
  local candidate
  local needed=("${modules[@]}" "${@:2}")
  if [ -n "${PYTHON:-}" ]; then
    [ "$PYTHON" != "${SETUP_CHECKED:-}" ] || return 0 # by the script that called this one
    has_modules "$PYTHON" "${needed[@]}" ||
      die "PYTHON=$PYTHON lacks one of: Python >= 3.10, torch >= 2.4, ${needed[*]}"
    export SETUP_CHECKED=$PYTHON
    return
  fi
  for candidate in python python3 "$project/.venv/bin/python"; do
    if has_modules "$candidate" "${needed[@]}"; then
      PYTHON=$(command -v "$candidate")
      export PYTHON SETUP_CHECKED=$PYTHON
      return
    fi
  done
  make_venv "$1"
}

make_venv() {
  local base='' candidate site=()
  for candidate in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null; then
      base=$candidate
      break
    fi
  done
  [ -n "$base" ] || die "Python 3.10 or newer is needed; none was found"
  has_modules "$base" "${modules[@]}" && site=(--system-site-packages) # only the rest is missing
  stage "Setting up $project/.venv (once; PyTorch takes several GB and a few minutes)"
  "$base" -m venv "${site[@]}" "$project/.venv" || die "python -m venv failed; Debian has it in python3-venv"
  "$project/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r "$project/$1" ||
    die "the packages could not be installed; see pip's message above"
  export PYTHON=$project/.venv/bin/python SETUP_CHECKED=$project/.venv/bin/python
}
