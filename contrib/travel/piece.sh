#!/usr/bin/env bash
# One call on a lent device: stage, resume a study until the time is up, write its state and its table in DEST.
#   piece.sh STUDY.yaml DEST SECONDS [options of `forcelaw run`]     SECONDS: of the whole call, for example 595
# Exit code 0: the study is over; 75: call again. WORK, PYTHON as for stage.sh; RESERVE: seconds kept for the end; PARTS: files of state
# (default 4; what does not fit stays there and is named).
set -euo pipefail
began=$(date +%s)
repo=$(cd "$(dirname "$0")/../.." && pwd)
export WORK=${WORK:-$repo}
python=${PYTHON:-python3}
study=$1 dest=$2 seconds=$3
shift 3
name=$(basename "$study" .yaml)
out=$WORK/out/$name
bash "$repo/contrib/travel/stage.sh"
export PYTHONPATH="$repo/src:$WORK/out/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
forcelaw() { "$python" -m forcelaw.cli "$@"; }
travel() { "$python" "$repo/contrib/travel/travel.py" "$@"; }
shopt -s nullglob
minutes=$("$python" -c "import time; print(max(0.05, ($seconds - ${RESERVE:-50} - time.time() + $began) / 60))")
mkdir -p "$dest"
code=0
forcelaw run "$study" --out "$out" --minutes "$minutes" --no-report "$@" 2>&1 | tee "$WORK/out/$name.log" || code=$?
[[ -d $out/runs ]] || exit $code  # it did not begin
# files of at most 16 MiB come back, 64 MiB together: four parts of state, the table (the rest of the evidence follows from the state)
# and one file of words
travel export "$out" --to "$dest" --name "$name" --part-mb 16.2 --parts "${PARTS:-4}"
forcelaw export "$out" --table "$WORK/out/$name.table" --format csv >/dev/null
cp "$WORK/out/$name.table/runs.csv" "$dest/"
forcelaw status "$out" | tee "$dest/$name.txt"
{ tail -n 60 "$WORK/out/$name.log"; for log in "$out"/logs/*.log; do echo "== ${log##*/}"; tail -n 40 "$log"; done
} >>"$dest/$name.txt" 2>&1
echo "piece: $(( $(date +%s) - began )) s, exit code $code"
exit $code
