#!/usr/bin/env bash
# Distil a narrow counter from a trained teacher, from the images to the result table.
# Usage: DATASET=SHA ROOT=/data/ShanghaiTech TEACHER=teacher.pth \
#          bash SKT_distill.sh [more options of SKT_distill.py]
# With nothing set: everything, the teacher too, on the built-in demonstration crowd.
set -euo pipefail
# shellcheck source=preprocess/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/preprocess/prepare.sh"

TEACHER=${TEACHER:-} # checkpoint; default: train one
WIDTH=${WIDTH:-1/4}  # the student's channels, as a part of the plan's
OUT=${OUT:-$RUNS/skt_csrnet_$name}
LR=${LR:-}           # learning rate; default: 1e-4, and 1e-3 for the demonstration
LAMB_FSP=${LAMB_FSP:-0.5} # weight of the inter-layer relations
LAMB_COS=${LAMB_COS:-0.5} # weight of the intra-layer patterns

refuse_options "$@"
options=(--out "$OUT" --width "$WIDTH" --lamb_fsp "$LAMB_FSP" --lamb_cos "$LAMB_COS")
options+=("${common[@]}")
size=()
if [ "$DATASET" = DEMO ]; then
  options+=(--lr "${LR:-1e-3}" --cosine --weight-decay 0)
  options+=(--crop 96x96 --batch-size 8 --epochs "${EPOCHS:-7}")
  size=(--size "$DEMO_SIZE")
else
  options+=(--lr "${LR:-1e-4}" --epochs "${EPOCHS:-1000}")
fi

case " $* " in
  *" --resume "*) ;;
  *) [ ! -e "$OUT/last.pth" ] || die "$OUT already holds a run; append --resume, or set OUT" ;;
esac
set_up requirements.txt
prepare
if [ -z "$TEACHER" ]; then
  TEACHER=$RUNS/teacher_csrnet_$name/best_mae.pth
  teacher_out=$(dirname "$TEACHER")
  if [ -e "$teacher_out/result.json" ]; then
    stage "Teacher: $TEACHER is trained already"
  else
    resume=()
    [ ! -e "$teacher_out/last.pth" ] || resume=(--resume)
    OUT=$teacher_out bash "$project/train_teacher.sh" "${resume[@]}"
  fi
fi
stage "Distillation: the $WIDTH student learns from $TEACHER, into $OUT"
"$PYTHON" "$project/SKT_distill.py" "${lists[@]}" --teacher_ckpt "$TEACHER" "${options[@]}" "$@"

stage "Test: teacher and student, with figures in $OUT"
"$PYTHON" "$project/test.py" "${lists[2]}" --dataset "$DATASET" --checkpoint "$TEACHER" \
  "${size[@]}" "${device[@]}" --json "$OUT/teacher.json" > "$OUT/teacher.txt"
export OUT # the tests' results go there, too
CHECKPOINT=$OUT/best_mae.pth LIST=${lists[2]} BESIDE=$OUT/teacher.json \
  bash "$project/test.sh" --save-maps "$OUT/maps" "${size[@]}"
