#!/usr/bin/env bash
# Train a teacher, CSRNet.
# Usage: DATASET=SHA ROOT=/data/ShanghaiTech bash train_teacher.sh [more options of train_teacher.py]
# With nothing set: on the built-in demonstration crowd.
set -euo pipefail
# shellcheck source=preprocess/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/preprocess/prepare.sh"

OUT=${OUT:-$RUNS/teacher_csrnet_$name}
INIT=${INIT:-imagenet} # or a file of VGG-16's weights

refuse_options "$@"
options=(--out "$OUT" --init "$INIT" "${common[@]}")
if [ "$DATASET" = DEMO ]; then
  # A third as wide, from random weights and with small crops: minutes on a CPU instead of days.
  options+=(--width 1/3 --init kaiming --optimizer adam --lr 5e-4 --cosine --weight-decay 0)
  options+=(--crop 96x96 --batch-size 8 --epochs "${TEACHER_EPOCHS:-7}")
elif [ -n "${TEACHER_EPOCHS:-}" ]; then
  options+=(--epochs "$TEACHER_EPOCHS")
fi

set_up requirements.txt
prepare
stage "Teacher: training CSRNet into $OUT"
exec "$PYTHON" "$project/train_teacher.py" "${lists[@]}" "${options[@]}" "$@"
