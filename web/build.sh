#!/usr/bin/env bash
# Build the page that counts in a browser: ONNX Runtime Web, the models, an archive to hand out.
# Usage: bash web/build.sh && cd web && python -m http.server
#   LIST=lists/A_val.json CALIBRATE=lists/A_train.json bash web/build.sh    # with INT8 models
#   STEPS="runtime describe" bash web/build.sh                              # with the models there
set -euo pipefail
# shellcheck source=utils/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../utils/setup.sh"

STEPS=${STEPS:-runtime models describe archive}
WEIGHTS=${WEIGHTS:-skt_mobile_s_sha mobile_s_sha skt_csrnet_sha} # files, seen from the project, or names
GUARD=${GUARD---guard}        # empty for weights without a guard
LIST=${LIST:-}                # annotated pictures on which INT8 stays in its budget of error
CALIBRATE=${CALIBRATE:-$LIST} # pictures that show INT8 its ranges
SITE=${SITE:-$project/web}    # another folder gets a copy of the page
OUT=${OUT:-$project/dist}     # gets the archives
ORT=${ORT:-}                  # onnxruntime-web-1.30.0.tgz, if it is here; otherwise npm fetches it

ort_version=1.30.0
ort_sha512=ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61
ort_files=(ort.wasm.min.mjs ort.webgpu.min.mjs
  ort-wasm-simd-threaded.{mjs,wasm} ort-wasm-simd-threaded.asyncify.{mjs,wasm})
mapfile -t page < <(cd "$project/web" && printf '%s\n' index.html style.css icon.svg ./*.js)
example_seed=20 # of preprocess/synthetic.py: a crowd that the shipped weights see

set_up requirements-deploy.txt onnx onnxscript onnxruntime
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# own_folder FOLDER PATTERN: refuses one that holds what this script does not make
own_folder() {
  local file
  for file in "$1"/*; do
    # shellcheck disable=SC2053 # a pattern
    [ ! -e "$file" ] || [[ ${file##*/} == $2 ]] || die "$file is none of the page's: set another SITE"
  done
}

fetch_runtime() {
  local folder=$SITE/vendor/ort-$ort_version
  if [ -z "$ORT" ]; then
    command -v npm > /dev/null || die "npm is missing; it fetches ONNX Runtime Web (or set ORT)"
    npm pack --silent --pack-destination "$work" "onnxruntime-web@$ort_version" > /dev/null ||
      die "npm could not fetch onnxruntime-web $ort_version"
    ORT=$work/onnxruntime-web-$ort_version.tgz
  fi
  echo "$ort_sha512  $ORT" | sha512sum --check --status ||
    die "$ORT is not onnxruntime-web $ort_version: its SHA-512 differs"
  own_folder "$SITE/vendor" 'ort-*'
  rm -rf "$SITE/vendor"
  mkdir -p "$folder"
  tar -xzf "$ORT" -C "$folder" --strip-components 2 "${ort_files[@]/#/package/dist/}"
}

export_models() {
  local weights file options=(--preprocess ${GUARD:+"$GUARD"})
  own_folder "$SITE/models" '*.onnx'
  mkdir "$work/models" # the page keeps its models until all are made
  for weights in $WEIGHTS; do
    file=$work/models/$(basename "${weights%.*}")
    "$PYTHON" export.py "$weights" "$file.onnx" "${options[@]}"
    [ -z "$LIST" ] || "$PYTHON" export.py "$weights" "${file}_int8.onnx" "${options[@]}" \
      --int8 "$LIST" --calibrate "$CALIBRATE"
  done
  rm -rf "$SITE/models"
  mv "$work/models" "$SITE"
}

describe_models() {
  local part=$work/crowd/part_A/test_data heads
  "$PYTHON" preprocess/synthetic.py --out "$work/crowd" --train 0 --test 1 --size 384x576 \
    --seed "$example_seed" --workers 1
  heads=$("$PYTHON" -c "
import pathlib, sys
from preprocess.annotations import read_points
print(len(read_points(pathlib.Path(sys.argv[1]))))" "$part/ground_truth/GT_IMG_1.mat")
  "$PYTHON" report/web.py "$SITE" --example "$part/images/IMG_1.jpg" --heads "$heads" \
    --runtime "vendor/ort-$ort_version"
}

pack() {
  local version name
  version=$("$PYTHON" -c 'from utils.version import VERSION; print(VERSION)')
  name=skt-web-$version
  mkdir -p "$work/$name"
  (cd "$SITE" && cp -r "${page[@]}" models.json example.png vendor models "$work/$name")
  cp LICENSE "$work/$name"
  tar -czf "$OUT/$name.tar.gz" -C "$work" "$name"
  (cd "$work" && "$PYTHON" -m zipfile -c "$OUT/$name.zip" "$name")
  ls -l "$OUT/$name".*
}

for step in $STEPS; do
  [[ " runtime models describe archive " == *" $step "* ]] ||
    die "STEPS are runtime, models, describe, archive, not $step"
done
[ ! -e "$SITE/index.html" ] || grep -q 'src="app.js"' "$SITE/index.html" ||
  die "$SITE/index.html is another page: set another SITE"
for file in "$ORT" "$LIST" "$CALIBRATE"; do
  [ -z "$file" ] || [ -e "$file" ] || die "$file does not exist"
done
SITE=$(mkdir -p "$SITE" && cd "$SITE" && pwd)
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd)
[ "$SITE" = "$project/web" ] || (cd "$project/web" && cp "${page[@]}" "$SITE")
twice=$(for weights in $WEIGHTS; do basename "${weights%.*}"; done | sort | uniq -d)
[ -z "$twice" ] || die "WEIGHTS: two files are called ${twice%%$'\n'*}; rename one"
[ -z "$LIST" ] || LIST=$(realpath "$LIST") CALIBRATE=$(realpath "$CALIBRATE")
[ -z "$ORT" ] || ORT=$(realpath "$ORT")
cd "$project"
for step in $STEPS; do
  stage "$step"
  case $step in
    runtime) fetch_runtime ;;
    models) export_models ;;
    describe) describe_models ;;
    archive) pack ;;
  esac
done
