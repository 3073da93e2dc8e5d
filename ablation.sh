#!/usr/bin/env bash
# The paper's ablations: every variant distilled at one budget, as one table and one figure.
# Usage: EPOCHS=100 DATASET=SHA ROOT=/data/ShanghaiTech TEACHER=teacher.pth \
#          bash ablation.sh [more options of SKT_distill.py]
# What is finished is kept, and what was interrupted goes on. With nothing set: the demonstration.
set -euo pipefail
# shellcheck source=preprocess/prepare.sh
. "$(dirname "${BASH_SOURCE[0]}")/preprocess/prepare.sh"

ABLATIONS=${ABLATIONS:-widths truth intra inter} # which of them
EPOCHS=${EPOCHS:-}                    # the budget; default: 100, and 7 for the demonstration
WIDTHS=${WIDTHS:-1/2 1/3 1/4 1/5}     # channel preservation rates, with and without SKT
WIDTH=${WIDTH:-1/4}                   # of the others
TEACHER=${TEACHER:-}                  # checkpoint; default: train one
OUT=${OUT:-$RUNS/ablation_${ARCH}_$name}

for ablation in $ABLATIONS; do
  case $ablation in
    widths | truth | intra | inter) ;;
    *) die "ABLATIONS must be of widths, truth, intra and inter, got $ablation" ;;
  esac
done
refuse_options "$@"
set_up requirements.txt
prepare
find_teacher
options=("${common[@]}" --epochs 100 "${student[@]}" ${EPOCHS:+--epochs "$EPOCHS"} "$@")

# variant WIDTH TERMS [INTRA]: distils a student, unless that is done
variant() {
  local out=$OUT/${1//\//-}_$2${3:+_$3} own=(--width "$1" --terms "$2" ${3:+--intra "$3"})
  if [ -e "$out/result.json" ]; then
    stage "Variant: $out is there already"
    return
  fi
  [ "$2" = hard ] || own+=(--teacher_ckpt "$TEACHER")
  [ ! -e "$out/last.pth" ] || own+=(--resume)
  stage "Variant: $1 wide, ${2//,/ + }${3:+ ($3)}, into $out"
  "$PYTHON" "$project/SKT_distill.py" "${lists[@]}" --out "$out" "${own[@]}" "${options[@]}"
}

skt=hard,soft,intra,inter
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
  esac
done
stage "Table and figure of $OUT"
PYTHONPATH=$project exec "$PYTHON" -m utils.plots "$OUT"
