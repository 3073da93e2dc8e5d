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
LR=${LR:-}                        # learning rate; default: 1e-4, and 1e-3 for the demonstration
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
setting+=([--lamb_soft]=LAMB_SOFT [--background]=BACKGROUND)
setting+=([--teacher_ckpt]=TEACHER [-tc]=TEACHER [--lamb_fsp]=LAMB_FSP [-laf]=LAMB_FSP)
setting+=([--lamb_cos]=LAMB_COS [-lac]=LAMB_COS [--max-minutes]=MINUTES)
refuse_options "$@"
for option in "$@"; do
  case ${option%%=*} in
    --resume) die "what was interrupted goes on by itself: leave --resume away" ;;
    --boxes | --sigma | --lamb_hard | --more-teachers)
      die "$option belongs to a term that not every variant has"
      ;;
  esac
done
if [[ $ABLATIONS == *widths* && " $* " =~ ' --init'[\ =]'teacher ' ]]; then
  die "--init teacher has no place in widths, some of which learn alone"
fi

begin
WIDTH=${WIDTH:-$student_width}
[ "$student_width" = 1 ] || WIDTHS=${WIDTHS:-1/2 1/3 1/4 1/5}
WIDTHS=${WIDTHS:-1}
find_teacher
EPOCHS=${EPOCHS:-${MINUTES:+10000}} # more than any budget holds
[ "$DATASET" = DEMO ] || EPOCHS=${EPOCHS:-100}
shared=("${common[@]}" ${EPOCHS:+--epochs "$EPOCHS"} ${LR:+--lr "$LR"})
shared+=(${MINUTES:+--max-minutes "$MINUTES"} "$@")

# choose WIDTH TERMS [INTRA]: sets options=(...) for a variant
choose() {
  options=("${shared[@]}" --width "$1" --terms "$2" ${3:+--intra "$3"})
  ! needs_teacher "$2" || options+=(--teacher_ckpt "$TEACHER")
  [[ $2 != *hard* ]] || options+=(${HARD:+--hard "$HARD"} ${BACKGROUND:+--background "$BACKGROUND"})
  [[ $2 != *soft* ]] || options+=(${LAMB_SOFT:+--lamb_soft "$LAMB_SOFT"})
  [[ $2 != *intra* ]] || options+=(${LAMB_COS:+--lamb_cos "$LAMB_COS"})
  [[ $2 != *inter* ]] || options+=(${LAMB_FSP:+--lamb_fsp "$LAMB_FSP"})
}

# variant WIDTH TERMS [INTRA]: distils a student, unless it is finished
variant() {
  local out=$OUT/${1//\//-}_$2${3:+_$3} resume=()
  [ ! -e "$out/last.pth" ] || resume=(--resume)
  stage "Variant: $1 wide, ${2//,/ + }${3:+ ($3)}, into $out"
  choose "$@"
  "$PYTHON" "${launch[@]}" "$project/SKT_distill.py" "${lists[@]}" --out "$out" "${options[@]}" "${resume[@]}"
}

skt=hard,soft,intra,inter
for width in $(tr ' ' '\n' <<< "$WIDTH $WIDTHS" | sort -u); do
  choose "$width" "$skt"
  check_options "${options[@]}" # before a teacher is trained for days
done
prepare
train_teacher
for ablation in $ABLATIONS; do
  case $ablation in
    widths)
      for width in $WIDTHS; do
        variant "$width" hard
        variant "$width" "$skt"
      done
      ;;
    truth)
      variant "$WIDTH" hard,intra,inter
      variant "$WIDTH" soft,intra,inter
      variant "$WIDTH" "$skt"
      ;;
    intra)
      variant "$WIDTH" hard,soft,inter
      variant "$WIDTH" "$skt" l2
      variant "$WIDTH" "$skt"
      ;;
    inter)
      variant "$WIDTH" hard,soft
      variant "$WIDTH" hard,soft,intra
      variant "$WIDTH" "$skt"
      ;;
    count) # with the crop's count, which is not published
      variant "$WIDTH" hard,count
      variant "$WIDTH" hard,soft,count
      variant "$WIDTH" "$skt,count"
      ;;
  esac
done
stage "Table and figure of $OUT"
exec "$PYTHON" "$project/report/ablation.py" "$OUT"
