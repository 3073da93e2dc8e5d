#!/usr/bin/env bash
# Distil a narrow counter from a trained teacher, from the images to the result table.
# Usage: ARCH=bl DATASET=SHA ROOT=/data/ShanghaiTech TEACHER=teacher.pth \
#          bash SKT_distill.sh [more options of SKT_distill.py]
# With nothing set, it does everything, teacher included, on the built-in demonstration crowd.
# To fine-tune a counter: DATASET=mine ROOT=data/concerts STUDENT=skt_csrnet_sha TERMS=hard LR=1e-7 \
#          EPOCHS=10 bash SKT_distill.sh --optimizer sgd --crop 0.5
set -euo pipefail
# shellcheck source=preprocess/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/preprocess/prepare.sh"

TEACHER=${TEACHER:-} # checkpoint; default: train one
STUDENT=${STUDENT:-} # checkpoint, or shipped weights, that it goes on from; default: a new student
WIDTH=${WIDTH:-}     # the student's channels, as a part of the plan's; default: STUDENT's, or 1/4;
                     # of a mobile student 1
TERMS=${TERMS:-hard,soft,intra,inter} # of the loss; hard, or hard,count, needs no teacher
LAMB_FSP=${LAMB_FSP:-} # weight of the inter-layer relations; default: 0.5
LAMB_COS=${LAMB_COS:-} # weight of the intra-layer patterns; default: 0.5
TEACHER_CACHE=${TEACHER_CACHE:-} # folder of the teacher's answers, auto, or none; default: none,
                                 # and auto for RECIPE=fast: teacher_cache beside OUT
LR=${LR:-}           # learning rate; default: the recipe's
EPOCHS=${EPOCHS:-}   # default: the recipe's

setting+=([--width]=WIDTH [--terms]=TERMS [--teacher_ckpt]=TEACHER [-tc]=TEACHER)
setting+=([--teacher-cache]=TEACHER_CACHE)
setting+=([--student_ckpt]=STUDENT [-sc]=STUDENT)
refuse_options "$@"
refuse_variables LAMB_SOFT=--lamb_soft HARD=--hard BACKGROUND=--background MINUTES=--max-minutes
refuse_init

begin
taught=1 # by a teacher, or fitted to one
needs_teacher "$TERMS" || inherits "$@" || taught=''
if [ -z "$taught" ]; then
  [ -n "$STUDENT" ] && kind=tuned || kind=alone
  OUT=${OUT:-$RUNS/${kind}_${ARCH}_$name}
  [ -z "${INIT:-}" ] || die "INIT=$INIT is where a teacher's training starts; STUDENT=$INIT is a student's"
  [ -z "$TEACHER" ] || die "TERMS=$TERMS trains without a teacher: TEACHER=$TEACHER is not for it"
else
  OUT=${OUT:-$RUNS/skt_${ARCH}_$name}
fi

options=(--out "$OUT" "${common[@]}" --terms "$TERMS")
options+=(${STUDENT:+--student_ckpt "$STUDENT"} ${WIDTH:+--width "$WIDTH"})
options+=(${LAMB_FSP:+--lamb_fsp "$LAMB_FSP"} ${LAMB_COS:+--lamb_cos "$LAMB_COS"})
options+=(${TEACHER_CACHE:+--teacher-cache "$TEACHER_CACHE"})
options+=(${LR:+--lr "$LR"} ${EPOCHS:+--epochs "$EPOCHS"})

case " $* " in
  *" --resume "*) ;;
  *) [ ! -e "$OUT/last.pth" ] || die "$OUT already holds a run; append --resume, or set OUT" ;;
esac
if [ -n "$taught" ]; then
  find_teacher
  options+=(--teacher_ckpt "$TEACHER")
fi
check_options "${options[@]}" "$@" # before a teacher is trained for days
prepare
student=${STUDENT:-the ${WIDTH:+$WIDTH }student}
if [ -n "$taught" ]; then
  train_teacher
  stage "Distillation: $student learns from $TEACHER, into $OUT"
else
  stage "Training: $student learns alone, into $OUT"
fi
"$PYTHON" "${launch[@]}" "$project/SKT_distill.py" "${lists[@]}" "${options[@]}" "$@"

stage "Guard: so that predict.py flags pictures unlike the training's"
"$PYTHON" "$project/calibrate.py" "${lists[0]}" "${lists[2]}" -c "$OUT/model.safetensors" ||
  echo "Without a guard nothing will be flagged; all else goes on."

stage "Test: everything in $OUT"
if [ -n "$TEACHER" ]; then
  "$PYTHON" "$project/test.py" "${lists[2]}" --dataset "$DATASET" --checkpoint "$TEACHER" \
    "${size[@]}" "${device[@]}" --json "$OUT/teacher.json" > "$OUT/teacher.txt"
  export BESIDE=$OUT/teacher.json
elif [ -n "$STUDENT" ]; then
  echo "the first of ours is $STUDENT as it was, the second what it is now"
  "$PYTHON" "$project/test.py" "${lists[2]}" --dataset "$DATASET" --checkpoint "$STUDENT" \
    "${size[@]}" "${device[@]}" --json "$OUT/before.json" > "$OUT/before.txt"
  export BESIDE=$OUT/before.json
fi
export OUT # the tests' results go there, too
CHECKPOINT=$OUT/best_mae.pth LIST=${lists[2]} bash "$project/test.sh" \
  --save-maps "$OUT/maps" --worst "$OUT/worst.png" "${size[@]}"
stage "Done"
exec "$PYTHON" "$project/report/closing.py" "$OUT" "${lists[2]}"
