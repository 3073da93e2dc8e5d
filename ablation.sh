#!/usr/bin/env bash
# Run the paper's ablations: distil every variant on one budget, and make a table and a figure.
# Usage: EPOCHS=100 DATASET=SHA ROOT=/data/ShanghaiTech TEACHER=teacher.pth \
#          bash ablation.sh [more options of SKT_distill.py, for every variant]
# Finished runs are kept, interrupted ones are resumed. With nothing set, it uses the demonstration.
set -euo pipefail
# shellcheck source=preprocess/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/preprocess/prepare.sh"

ABLATIONS=${ABLATIONS:-widths truth intra inter} # which of them
EPOCHS=${EPOCHS:-}                # the budget; default: 100, and 7 for the demonstration
MINUTES=${MINUTES:-}              # the budget in place of EPOCHS: minutes of every variant
WIDTHS=${WIDTHS:-}                # channel preservation rates, with and without SKT; default:
                                  # 1/2 1/3 1/4 1/5, and 1 for a mobile student
WIDTH=${WIDTH:-}                  # of the others; default: 1/4, and 1 for a mobile student
TEACHER=${TEACHER:-}              # checkpoint; default: train one
LR=${LR:-}                        # learning rate; default: the recipe's
TEACHER_CACHE=${TEACHER_CACHE:-}  # folder of the teacher's answers, auto, or none
LAMB_FSP=${LAMB_FSP:-}            # weight of the inter-layer relations; default: 0.5
LAMB_COS=${LAMB_COS:-}            # weight of the intra-layer patterns; default: 0.5
LAMB_SOFT=${LAMB_SOFT:-}          # weight of the teacher's map; default: 1
HARD=${HARD:-}                    # density or bayesian; default: the network's
BACKGROUND=${BACKGROUND:-}        # reach of bayesian's; default: the data set's
OUT=${OUT:-$RUNS/ablation_${ARCH}_$name}

for ablation in $ABLATIONS; do
  case $ablation in
    widths | truth | intra | inter | count) ;;
    *) die "ABLATIONS must be of widths, truth, intra, inter and count, got $ablation" ;;
  esac
done
setting+=([--width]=WIDTH [--terms]=ABLATIONS [--intra]=ABLATIONS [--hard]=HARD)
setting+=([--lamb_soft]=LAMB_SOFT [--background]=BACKGROUND [--teacher-cache]=TEACHER_CACHE)
setting+=([--teacher_ckpt]=TEACHER [-tc]=TEACHER [--lamb_fsp]=LAMB_FSP [-laf]=LAMB_FSP)
setting+=([--lamb_cos]=LAMB_COS [-lac]=LAMB_COS [--max-minutes]=MINUTES)
refuse_options "$@"
refuse_variables TERMS=ABLATIONS STUDENT='--init, of a new student,'
refuse_init
for option in "$@"; do
  case ${option%%=*} in
    --resume) die "what was interrupted goes on by itself: leave out --resume" ;;
    --boxes | --sigma | --lamb_hard | --more-teachers)
      die "$option belongs to a term that not every variant has"
      ;;
  esac
done

begin
WIDTH=${WIDTH:-$student_width}
[ "$student_width" = 1 ] || WIDTHS=${WIDTHS:-1/2 1/3 1/4 1/5}
WIDTHS=${WIDTHS:-1}
find_teacher
EPOCHS=${EPOCHS:-${MINUTES:+10000}} # more than any budget holds
[ "$DATASET" = DEMO ] || EPOCHS=${EPOCHS:-100}
shared=("${common[@]}" ${EPOCHS:+--epochs "$EPOCHS"} ${LR:+--lr "$LR"})
shared+=(${MINUTES:+--max-minutes "$MINUTES"} "$@")

# choose WIDTH TERMS [INTRA]: sets out=FOLDER and options=(...) for a variant
choose() {
  out=$OUT/${1//\//-}_$2${3:+_$3}
  options=(--out "$out" "${shared[@]}" --width "$1" --terms "$2" ${3:+--intra "$3"})
  ! needs_teacher "$2" ||
    options+=(--teacher_ckpt "$TEACHER" ${TEACHER_CACHE:+--teacher-cache "$TEACHER_CACHE"})
  [[ $2 != *hard* ]] || options+=(${HARD:+--hard "$HARD"} ${BACKGROUND:+--background "$BACKGROUND"})
  [[ $2 != *soft* ]] || options+=(${LAMB_SOFT:+--lamb_soft "$LAMB_SOFT"})
  [[ $2 != *intra* ]] || options+=(${LAMB_COS:+--lamb_cos "$LAMB_COS"})
  [[ $2 != *inter* ]] || options+=(${LAMB_FSP:+--lamb_fsp "$LAMB_FSP"})
}

# check WIDTH TERMS [INTRA]: ends with an error if a variant that has not begun cannot
check() {
  choose "$@"
  needs_teacher "$2" || ! inherits "${options[@]}" ||
    die "--init teacher has no place in an ablation with a variant that learns alone, $2"
  [ -e "$out" ] || check_options "${options[@]}"
}

# distil WIDTH TERMS [INTRA]: distils a student, unless it is finished
distil() {
  local resume=()
  choose "$@"
  [ ! -e "$out/last.pth" ] || resume=(--resume)
  stage "Variant: $1 wide, ${2//,/ + }${3:+ ($3)}, into $out"
  "$PYTHON" "${launch[@]}" "$project/SKT_distill.py" "${lists[@]}" "${options[@]}" "${resume[@]}"
}

skt=hard,soft,intra,inter
variants=() # WIDTH TERMS [INTRA] each
for ablation in $ABLATIONS; do
  case $ablation in
    widths)
      for width in $WIDTHS; do
        variants+=("$width hard" "$width $skt")
      done
      ;;
    truth) variants+=("$WIDTH hard,intra,inter" "$WIDTH soft,intra,inter" "$WIDTH $skt") ;;
    intra) variants+=("$WIDTH hard,soft,inter" "$WIDTH $skt l2" "$WIDTH $skt") ;;
    inter) variants+=("$WIDTH hard,soft" "$WIDTH hard,soft,intra" "$WIDTH $skt") ;;
    # with the crop's count, which is not published
    count) variants+=("$WIDTH hard,count" "$WIDTH hard,soft,count" "$WIDTH $skt,count") ;;
  esac
done
mapfile -t variants < <(printf '%s\n' "${variants[@]}" | awk '!seen[$0]++') # each once

for variant in "${variants[@]}"; do
  # shellcheck disable=SC2086 # several words
  check $variant # before a teacher is trained for days
done
prepare
train_teacher
for variant in "${variants[@]}"; do
  # shellcheck disable=SC2086
  distil $variant
done
stage "Table and figure of $OUT"
exec "$PYTHON" "$project/report/ablation.py" "$OUT"
