#!/usr/bin/env bash
# The packs FOLDER/00 to 19 of the lists FOLDER/00.smi to 19.smi, and one file of them all (data.md). What is there is kept, so this
# may be stopped, and the folder moved to another machine, at any time.
#   more_data.sh FOLDER OLD.h5 [WORKERS]     PYTHON   default: python3     (with forcelaw, rdkit, tblite)
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(cd "$1" && pwd) old=$(realpath -m "$2") workers=${3:-$(nproc)}
export PYTHON=${PYTHON:-python3} PYTHONPATH="$repo/src${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1
at_once=$(( workers >= 8 ? 4 : 1 ))  # lists; their workers wait for each other at the end of each
export EACH=$(( workers / at_once ))
make_part() {  # two or four conformers a molecule, spread as those of the old file
  [[ -d $1 ]] && return
  local conformers=4
  (( 10#$1 >= 14 && 10#$1 < 18 )) && conformers=2
  "$PYTHON" -m forcelaw.cli data generate --smiles "$1.smi" --out "$1" --count 1000000 --seed 23 --workers "$EACH" --val-fraction 0 \
    --conformers $conformers --unrelaxed 0.3 --partly 0.3 --partly-steps 20 --displacement 0.09 --max-force 35 --max-component 20 >"$1.log" 2>&1 ||
    { echo "list $1:"; tail -n 3 "$1.log"; return 1; }
}
export -f make_part
cd "$folder"
for k in {00..19}; do echo "$k"; done | xargs -P "$at_once" -I{} bash -euo pipefail -c 'make_part {}'
"$PYTHON" "$repo/studies/ladder_2/more_data.py" merge "$folder" --old "$old"
