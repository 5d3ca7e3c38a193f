#!/usr/bin/env bash
# Several studies in one call, a queue for each GPU: while the last runs of one study leave a card half empty, the other works on.
#   queues.sh DEST SECONDS "STUDY.yaml STUDY.yaml ..." "STUDY.yaml ..." [...]      after stage.sh; the k-th queue has GPU k - 1
# What comes back: DEST/NAME/NAME.tar.* of every study, and DEST/all.txt. RESERVE, WORK, PYTHON as for piece.sh.
set -uo pipefail
began=$(date +%s)
here=$(cd "$(dirname "$0")" && pwd)
dest=$1 seconds=$2
shift 2
logs=$(mktemp -d)
queue() {
  export CUDA_VISIBLE_DEVICES=$1
  local study name left
  for study in $2; do
    name=$(basename "$study" .yaml)
    left=$(( seconds - $(date +%s) + began ))
    if (( left <= ${RESERVE:-50} )); then echo "$name: no time left" | tee "$logs/$name.txt"; continue; fi
    bash "$here/piece.sh" "$study" "$dest/$name" "$left" >"$logs/$name.txt" 2>&1
    echo "$name: exit code $? after $(( $(date +%s) - began )) s"  # 0: over; 75: more to do
    rm -f "$dest/$name/runs.csv" "$dest/$name/$name.txt"  # few files come back, and the state has both
  done
}
gpu=0
for studies in "$@"; do queue $gpu "$studies" & gpu=$(( gpu + 1 )); done
wait
mkdir -p "$dest"
tail -n +1 "$logs"/*.txt >"$dest/all.txt"
rm -r "$logs"
