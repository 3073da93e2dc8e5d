#!/usr/bin/env bash
# Sourced by the experiments' scripts. `prepare` brings the density maps and lists of DATASET up to
# date, drawing the demonstration crowd first, and sets lists=(train val test).

# shellcheck source=utils/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../utils/setup.sh"

[ -z "${ROOT:-}" ] || [ -n "${DATASET:-}" ] || die "ROOT=$ROOT is set: name its DATASET as well"
DATASET=${DATASET:-DEMO}         # SHA, SHB, QNRF, or DEMO: the built-in crowd
ROOT=${ROOT:-}                   # the data set's folder
GT_ROOT=${GT_ROOT:-}             # where density maps go; default: beside the annotations
TRAIN_ON_VAL=${TRAIN_ON_VAL:-}   # 1: train on the validation images as well, as the original
GPU=${GPU:-}                     # number, or cpu; default: the first, or the CPU where none is
RUNS=${RUNS:-$project/runs}      # where trainings, lists and results go
DEMO_TRAIN=${DEMO_TRAIN:-240}    # pictures of the demonstration crowd
DEMO_TEST=${DEMO_TEST:-40}
DEMO_SIZE=${DEMO_SIZE:-192x288}  # height x width

case $TRAIN_ON_VAL in
  '' | 0) train_on_val=() ;;
  1) train_on_val=(--train-on-val) ;;
  *) die "TRAIN_ON_VAL must be 1, 0 or empty, got $TRAIN_ON_VAL" ;;
esac
case $GPU in
  '') device=() ;;
  cpu) device=(--cpu) ;;
  *) device=(--gpu "$GPU") ;;
esac
protocol=()
case $DATASET in
  SHA) prefix=A generator=ShanghaiTech_GT_generation.py parts=(--part A) ;;
  SHB) prefix=B generator=ShanghaiTech_GT_generation.py parts=(--part B) ;;
  QNRF) prefix=QNRF generator=UCF_GT_generation.py parts=() protocol=(--protocol cells) ;;
  DEMO) prefix=demo generator=ShanghaiTech_GT_generation.py parts=(--part A) ;;
  *) die "DATASET must be SHA, SHB, QNRF or DEMO, got $DATASET" ;;
esac
if [ -z "$ROOT" ]; then
  case $DATASET in
    SHA | SHB) ROOT=$project/data/ShanghaiTech ;;
    QNRF) ROOT=$project/data/UCF-QNRF ;;
    DEMO) ROOT=$project/data/demo ;;
  esac
fi
name=${DATASET,,}

# shellcheck disable=SC2034 # the scripts that source this read it
common=("${device[@]}" "${protocol[@]}" "${train_on_val[@]}") # options of both trainings

# refuse_options OPTION...: what the scripts must know themselves is set, not appended
refuse_options() {
  local option
  for option in "$@"; do
    case $option in
      --out | --out=*) die "set OUT=... in place of --out" ;;
      --gpu | --gpu=* | --cpu) die "set GPU=... (a number, or cpu) in place of $option" ;;
    esac
  done
}

prepare() {
  local folder=$RUNS/lists_$name
  # shellcheck disable=SC2034 # the script that sources this reads it
  lists=("$folder/${prefix}_train.json" "$folder/${prefix}_val.json" "$folder/${prefix}_test.json")
  [ -z "${PREPARED:-}" ] || return 0 # by the script that called this one
  if [ "$DATASET" = DEMO ]; then
    stage "Demonstration crowd: drawing pictures and annotations in $ROOT"
    "$PYTHON" "$project/preprocess/synthetic.py" --out "$ROOT" \
      --train "$DEMO_TRAIN" --test "$DEMO_TEST" --size "$DEMO_SIZE"
  fi
  local gt=() listed=()
  if [ -z "$GT_ROOT" ] && [ -d "$ROOT" ] && [ ! -w "$ROOT" ]; then
    GT_ROOT=$project/data/density_$name # the data set is read-only
  fi
  [ -z "$GT_ROOT" ] || gt=(--out "$GT_ROOT") listed=(--gt-root "$GT_ROOT")
  stage "Density maps of $ROOT"
  "$PYTHON" "$project/preprocess/$generator" --root "$ROOT" "${parts[@]}" "${gt[@]}"
  stage "Lists of training, validation and test images"
  "$PYTHON" "$project/preprocess/make_json.py" --dataset "$DATASET" --root "$ROOT" \
    --out "$folder" "${listed[@]}" "${train_on_val[@]}"
  export PREPARED=1
}
