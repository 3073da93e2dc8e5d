#!/usr/bin/env bash
# Sourced by the scripts that train and test. `prepare` updates the density maps of DATASET and its
# lists, lists=(train val test). It first draws the demonstration crowd, or rescales UCF-QNRF for BL.

# shellcheck source=utils/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../utils/setup.sh"

[ -z "${ROOT:-}" ] || [ -n "${DATASET:-}" ] || die "ROOT=$ROOT is set: name its DATASET as well"
DATASET=${DATASET:-DEMO}         # SHA, SHB, QNRF, mine: your own, or DEMO: the built-in crowd
[ "${DATASET,,}" != mine ] || DATASET=MINE
ROOT=${ROOT:-}                   # the data set's folder
GT_ROOT=${GT_ROOT:-}             # where density maps go; default: beside the annotations
ARCH=${ARCH:-csrnet}             # network: csrnet, bl, mobile_s, mobile_l or lite_s
RECIPE=${RECIPE:-published}      # published, or fast: batches, bfloat16, data that stay on the GPU
NPROC=${NPROC:-1}                # processes that train and count together, a GPU each
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
case $RECIPE in
  published | fast) ;;
  *) die "RECIPE must be published or fast, got $RECIPE" ;;
esac
case $NPROC in
  1) launch=() ;;
  '' | *[!0-9]* | 0*) die "NPROC must be a whole number of at least 1, got $NPROC" ;;
  *)
    # shellcheck disable=SC2034 # between the interpreter and a program
    launch=(-m torch.distributed.run --standalone --nproc-per-node "$NPROC")
    cores=$(getconf _NPROCESSORS_ONLN)
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > NPROC ? cores / NPROC : 1))}
    ;;
esac
name=${DATASET,,}
# shellcheck disable=SC2034 # the scripts that source this read these
common=(--arch "$ARCH" --dataset "$DATASET" --recipe "$RECIPE" "${device[@]}" "${train_on_val[@]}") # of all trainings
size=() # of cost and latency
# shellcheck disable=SC2034
[ "$DATASET" != DEMO ] || size=(--size "$DEMO_SIZE")

# Options that the scripts need themselves must be set as variables: option -> variable.
declare -A setting=([--out]=OUT [--gpu]=GPU [--cpu]=GPU)
setting+=([--arch]=ARCH [--dataset]=DATASET [-d]=DATASET [--recipe]=RECIPE)
setting+=([--train-on-val]=TRAIN_ON_VAL)

# refuse_options OPTION...: ends with an error at an option that must be set as a variable, and with
# what the script's head says at --help
refuse_options() {
  local option
  for option in "$@"; do
    [[ $option != -h && $option != --help ]] || show_help
    option=${option%%=*}
    [[ $option != -d?* ]] || option=-d # -dSHA
    [ -z "$option" ] || [ -z "${setting[$option]:-}" ] ||
      die "set ${setting[$option]}=... in place of $option"
  done
}

# show_help: prints the head of the script that was called, and ends it
show_help() {
  sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
  echo "The variables are listed at the head of $0, and of preprocess/prepare.sh."
  exit
}

# refuse_variables VARIABLE=INSTEAD...: ends with an error at one that is set but of another script
refuse_variables() {
  local pair
  [ -z "${PREPARED:-}" ] || return 0 # they are of the script that called this one
  for pair in "$@"; do
    local variable=${pair%%=*}
    [ -z "${!variable:-}" ] ||
      die "$variable=${!variable} does nothing in ${0##*/}: ${pair#*=} does"
  done
}

# refuse_init: ends with an error at an INIT for a teacher that is trained already
refuse_init() {
  [ -z "$TEACHER" ] || [ -z "${INIT:-}" ] ||
    die "INIT=$INIT is where a teacher's training starts, but TEACHER=$TEACHER is trained"
}

# begin: sets PYTHON, and what follows from DATASET and ARCH: lists, ROOT, teacher_arch, untaught, ...
begin() {
  local facts split prefix=''
  teacher_arch='' untaught='' # as short_side and more, of the facts
  set_up requirements.txt
  facts=$("$PYTHON" "$project/training/describe.py" --arch "$ARCH" --dataset "$DATASET") || exit 1
  eval "$facts"
  ROOT=${ROOT:-$project/$default_root}
  list_folder=$RUNS/lists_$name${short_side:+_$ARCH} # of images that may be rescaled
  list_folder+=${train_on_val:+_on_val}
  lists=()
  for split in train val test; do
    lists+=("$list_folder/${prefix}_$split.json")
  done
}

prepare() {
  [ -z "${PREPARED:-}" ] || return 0 # by the script that called this one
  if [ "$DATASET" = DEMO ]; then
    stage "Demonstration crowd: drawing pictures and annotations in $ROOT"
    "$PYTHON" "$project/preprocess/synthetic.py" --out "$ROOT" \
      --train "$DEMO_TRAIN" --test "$DEMO_TEST" --size "$DEMO_SIZE"
  fi
  local gt=() listed=() known=$RUNS/lists_$name/root
  if [ "$DATASET" = MINE ]; then # whose trainings are called alike, whatever the data set
    [ -d "$ROOT" ] || die "ROOT=$ROOT is no folder"
    [ ! -e "$known" ] || [ "$(cat "$known")" = "$(cd "$ROOT" && pwd -P)" ] ||
      die "$RUNS has trainings on $(cat "$known"), ROOT is $ROOT: set another RUNS"
  fi
  if [ -n "$short_side" ]; then
    GT_ROOT=${GT_ROOT:-$project/$default_root}_$ARCH # images, too
    gt=(--short-side "$short_side")
  elif [ -z "$GT_ROOT" ] && [ -d "$ROOT" ] && [ ! -w "$ROOT" ]; then
    GT_ROOT=$project/data/density_$name # the data set is read-only
    [ "$DATASET" != MINE ] || GT_ROOT+=$(cd "$ROOT" && pwd | tr / _) # there may be several
  fi
  [ -z "$GT_ROOT" ] || gt+=(--out "$GT_ROOT") listed=(--gt-root "$GT_ROOT")
  stage "Density maps of $ROOT"
  "$PYTHON" "$project/preprocess/make_maps.py" --dataset "$DATASET" --root "$ROOT" "${gt[@]}"
  if [ -n "$short_side" ]; then
    ROOT=$GT_ROOT listed=() # a data set of its own
  fi
  stage "Lists of training, validation and test images"
  "$PYTHON" "$project/preprocess/make_json.py" --dataset "$DATASET" --root "$ROOT" \
    --out "$list_folder" "${listed[@]}" "${train_on_val[@]}"
  if [ "$DATASET" = MINE ]; then
    mkdir -p "${known%/*}"
    (cd "$ROOT" && pwd -P) > "$known"
  fi
  export PREPARED=1
}

# needs_teacher TERMS: whether a loss of these terms does
needs_teacher() {
  local term
  for term in ${1//,/ }; do
    [[ " $untaught " == *" $term "* ]] || return 0
  done
  return 1
}

# inherits OPTION...: whether they have --init teacher
inherits() {
  [[ " $* " =~ ' --init'[\ =]'teacher ' ]]
}

# find_teacher: sets TEACHER, unless it is given, to the one that train_teacher.sh makes; and
# untrained to its architecture, if it does not exist yet
find_teacher() {
  local own=$RUNS/teacher_${teacher_arch}_$name/best_mae.pth
  given=$TEACHER
  TEACHER=${TEACHER:-$own}
  untrained=''
  [ "$TEACHER" != "$own" ] || [ -e "$own" ] || untrained=$teacher_arch
}

# check_options OPTION...: ends with SKT_distill.py's error if it refuses these
check_options() {
  "$PYTHON" "${launch[@]}" "$project/SKT_distill.py" "${lists[@]}" "$@" \
    --check ${untrained:+"$untrained"}
}

# train_teacher: trains the teacher that find_teacher has named, unless it exists
train_teacher() {
  local out=$RUNS/teacher_${teacher_arch}_$name resume=()
  [ "$TEACHER" = "$out/best_mae.pth" ] || return 0
  if [ -e "$out/result.json" ]; then
    stage "Teacher: $TEACHER"
    [ -n "$given" ] || "$PYTHON" "$project/training/trained.py" "$out" "${train_on_val[@]}" \
      ${INIT:+--init "$INIT"} ${TEACHER_EPOCHS:+--epochs "$TEACHER_EPOCHS"} || exit 1
    return
  fi
  [ ! -e "$out/last.pth" ] || resume=(--resume)
  ARCH=$teacher_arch OUT=$out bash "$project/train_teacher.sh" "${resume[@]}"
}
