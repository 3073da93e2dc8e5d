#!/usr/bin/env bash
# Measure a checkpoint and print it beside the paper's rows.
# Usage: DATASET=SHA ROOT=/data/ShanghaiTech CHECKPOINT=student.pth bash test.sh [options of test.py]
set -euo pipefail
# shellcheck source=preprocess/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/preprocess/prepare.sh"

CHECKPOINT=${CHECKPOINT:-$RUNS/skt_${ARCH}_$name/best_mae.pth}
LIST=${LIST:-}     # JSON list of images; default: the data set's test images
OUT=${OUT:-$RUNS/test_${ARCH}_$name}
BESIDE=${BESIDE:-} # an earlier result's JSON, shown in the table too

refuse_options "$@"
begin
if [ -z "$LIST" ]; then
  prepare
  LIST=${lists[2]}
fi
stage "Test: $CHECKPOINT on $LIST"
options=(--dataset "$DATASET" --checkpoint "$CHECKPOINT" "${device[@]}")
options+=(--json "$OUT/test.json" --per-image "$OUT/test.csv" ${BESIDE:+--beside "$BESIDE"})
exec "$PYTHON" "${launch[@]}" "$project/test.py" "$LIST" "${options[@]}" "$@"
