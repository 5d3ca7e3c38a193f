#!/usr/bin/env bash
# The packs FOLDER/00 to 19 of the lists FOLDER/00.smi to 19.smi, and one file of them all (data.md). What is there is kept, so this
# may be stopped, and the folder moved to another machine, at any time.
#   more_data.sh FOLDER OLD.h5 [WORKERS]     PYTHON   default: python3     (with forcelaw, rdkit, tblite)
#   LISTS    those to make (default: all that are not there); the others must be there once these are made
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(cd "$1" && pwd) old=$(realpath -m "$2") workers=${3:-$(nproc)}
export PYTHON=${PYTHON:-python3} PYTHONPATH="$repo/src${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
cd "$folder"
conformers_of() { if (( 10#$1 >= 14 && 10#$1 < 18 )); then echo 2; else echo 4; fi; }  # spread as those of the old file
lists=() conformers=0
for k in ${LISTS:-$(echo {00..19})}; do
  [[ -d $k ]] || { lists+=("$k"); conformers=$(( conformers + $(conformers_of "$k") )); }
done
# Workers wait for each other at the end of each list: many of them have several lists at once, and the last lists all together.
at_once=1
(( workers >= 8 )) && at_once=$(( ${#lists[@]} > 8 ? 4 : ${#lists[@]} ))
make_part() {  # list, workers
  "$PYTHON" -m forcelaw.cli data generate --smiles "$1.smi" --out "$1" --count 1000000 --seed 23 --workers "$2" --val-fraction 0 \
    --conformers "$(conformers_of "$1")" --unrelaxed 0.3 --partly 0.3 --partly-steps 20 --displacement 0.09 --max-force 35 --max-component 20 >"$1.log" 2>&1 ||
    { echo "list $1:"; tail -n 3 "$1.log"; return 1; }
}
export -f make_part conformers_of
for k in ${lists[@]+"${lists[@]}"}; do
  each=$(( at_once == ${#lists[@]} ? workers * $(conformers_of "$k") / conformers : workers / at_once ))
  echo "$k $(( each > 1 ? each : 1 ))"
done | xargs -r -P "$at_once" -L1 bash -euo pipefail -c 'make_part "$1" "$2"' _
"$PYTHON" "$repo/studies/ladder_2/more_data.py" merge "$folder" --old "$old"
