#!/usr/bin/env bash
# Train and test a teacher, its students and the ablation, and make a page of them: by default
# shanghaitech_a.md.
# Usage: ROOT=/data/ShanghaiTech ARCH=csrnet bash results/shanghaitech_a.sh [options of all trainings]
# Every training has a budget in minutes. When this is started again, finished trainings are kept,
# and interrupted ones are resumed.
set -euo pipefail
# shellcheck source=utils/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../utils/setup.sh"

export ARCH=${ARCH:-csrnet} DATASET=SHA RECIPE=${RECIPE:-fast} RUNS=${RUNS:-$project/runs}
TEACHER=${TEACHER:-} # checkpoint; default: the one that the first stage trains
STAGES=${STAGES:-$([ -n "$TEACHER" ] || echo teacher) students widths seeds ablation page}
TEACHER_MINUTES=${TEACHER_MINUTES:-10}  # budgets: of the teacher,
STUDENT_MINUTES=${STUDENT_MINUTES:-10}  # of every student,
ABLATION_MINUTES=${ABLATION_MINUTES:-10} # and of every variant of the ablation
WIDTHS=${WIDTHS:-1/2 1/3 1/5 1/8}       # of more students
SEEDS=${SEEDS:-1 2}                     # of more students like the main one, whose seed is 0
NOTE=${NOTE:-}                          # paragraph below the page's title
PAGE=${PAGE:-$project/results/shanghaitech_a.md}
runs=$RUNS/sha # the trainings of the page

for stage in $STAGES; do
  case $stage in
    teacher | students | widths | seeds | ablation | page) ;;
    *) die "STAGES must be of teacher, students, widths, seeds, ablation, page, got $stage" ;;
  esac
done

# finish NAME SCRIPT MINUTES [OPTION...]: trains into a folder and tests, unless it is finished
finish() {
  local out=$runs/$1 resume=()
  [ ! -e "$out/test.json" ] || return 0
  [ ! -e "$out/last.pth" ] || resume=(--resume)
  OUT=$out bash "$project/$2" --max-minutes "$3" "${@:4}" "${resume[@]}"
  [ -e "$out/test.json" ] || OUT=$out CHECKPOINT=$out/best_mae.pth bash "$project/test.sh" \
    --worst "$out/worst.png"
}

# student NAME TERMS WIDTH [OPTION...]: distils one, or trains it alone
student() {
  local taught=(TEACHER="$TEACHER")
  [ "$2" != hard ] || taught=(TEACHER='' TEACHER_CACHE='' LAMB_FSP='' LAMB_COS='')
  (
    export INIT='' TERMS=$2 WIDTH=$3 "${taught[@]}"
    finish "$1" SKT_distill.sh "$STUDENT_MINUTES" "${@:4}"
  )
}

skt=hard,soft,intra,inter
for stage in $STAGES; do
  if [ "$stage" != teacher ] && [ -z "$TEACHER" ]; then
    TEACHER=$runs/$ARCH/best_mae.pth
  fi
  case $stage in
    teacher)
      (
        export TEACHER_CACHE='' LAMB_FSP='' LAMB_COS='' # they are of its students
        finish "$ARCH" train_teacher.sh "$TEACHER_MINUTES" "$@"
      )
      ;;
    students)
      student "skt_$ARCH" "$skt" 1/4 "$@"
      student "skt_${ARCH}_inherited" "$skt" 1/4 --init teacher "$@"
      student "alone_$ARCH" hard 1/4 "$@"
      ;;
    widths)
      for width in $WIDTHS; do
        student "skt_${ARCH}_${width//\//-}" "$skt" "$width" "$@"
      done
      ;;
    seeds)
      for seed in $SEEDS; do
        student "skt_${ARCH}_seed$seed" "$skt" 1/4 --seed "$seed" "$@"
      done
      ;;
    ablation)
      INIT='' TEACHER=$TEACHER OUT=$runs/ablation_$ARCH MINUTES=$ABLATION_MINUTES \
        ABLATIONS="${ABLATIONS:-truth intra inter}" bash "$project/ablation.sh" "$@"
      ;;
    page)
      shopt -s nullglob
      trained=("$runs"/*/test.json) ablations=("$runs"/ablation_*/ablation.md)
      [ "${#trained[@]}" -gt 0 ] || die "$runs holds no tested training"
      set_up requirements.txt
      "$PYTHON" "$project/report/accuracy.py" "${trained[@]%/test.json}" --out "$PAGE" \
        --title "ShanghaiTech Part A: trained networks beside the paper's" --note "$NOTE" \
        ${ablations[0]:+--ablation "${ablations[@]%/ablation.md}"}
      ;;
  esac
done
