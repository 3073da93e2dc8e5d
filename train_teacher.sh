#!/usr/bin/env bash
# Train a teacher: CSRNet, BL or any other ARCH.
# Usage: ARCH=bl DATASET=SHA ROOT=/data/ShanghaiTech bash train_teacher.sh [more options of train_teacher.py]
# With nothing set, it uses the built-in demonstration crowd.
set -euo pipefail
# shellcheck source=preprocess/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/preprocess/prepare.sh"

OUT=${OUT:-$RUNS/teacher_${ARCH}_$name}
TEACHER_EPOCHS=${TEACHER_EPOCHS:-} # default: the recipe's, and 7 for the demonstration
INIT=${INIT:-} # a counter that it goes on from, or ImageNet's weights: VGG-16 for csrnet, VGG-19
               # for bl; default: those, and random ones for the demonstration

refuse_options "$@"
refuse_variables EPOCHS=TEACHER_EPOCHS LR=--lr WIDTH=--width HARD=--hard MINUTES=--max-minutes \
  BACKGROUND=--background STUDENT=INIT TERMS=SKT_distill.sh TEACHER=SKT_distill.sh \
  TEACHER_CACHE=SKT_distill.sh LAMB_FSP=SKT_distill.sh LAMB_COS=SKT_distill.sh
options=(--out "$OUT" "${common[@]}" ${INIT:+--init "$INIT"})
options+=(${TEACHER_EPOCHS:+--epochs "$TEACHER_EPOCHS"})

begin
prepare
stage "Teacher: training $ARCH into $OUT"
exec "$PYTHON" "${launch[@]}" "$project/train_teacher.py" "${lists[@]}" "${options[@]}" "$@"
