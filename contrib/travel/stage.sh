#!/usr/bin/env bash
# Keep what this call carried (out/carry*/): unpack wheels, merge states of studies into out/NAME, and make the pack once all parts
# of its data are here. See README.md.
#   WORK     where everything is put (default: the repository)     PYTHON   default: python3     DATA_ENV   default: data.env here
set -euo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd)
work=$(cd "${WORK:-$repo}" && pwd)
python=${PYTHON:-python3}
source "${DATA_ENV:-$repo/contrib/travel/data.env}"
export PYTHONPATH="$repo/src:$work/out/site${PYTHONPATH:+:$PYTHONPATH}"
forcelaw() { "$python" -m forcelaw.cli "$@"; }
travel() { "$python" "$repo/contrib/travel/travel.py" "$@"; }
shopt -s nullglob
mkdir -p "$work/out/stage" "$work/out/site" "$work/packs"
for wheel in "$work"/out/carry*/*.whl; do  # once each: a library that is overwritten kills the processes that have it loaded
  unpacked="$work/out/site/.${wheel##*/}"
  [[ -e $unpacked ]] || "$python" -m zipfile -e "$wheel" "$work/out/site"
  touch "$unpacked"
  rm "$wheel"
done
for file in "$work"/out/carry*/*.tar*; do mv -f "$file" "$work/out/stage/"; done

complete() {  # whether all parts of archive $1 are here
  local parts=("$work/out/stage/$1".tar*-of-*)
  (( ${#parts[@]} )) && (( ${#parts[@]} == 10#${parts[0]##*-of-} ))
}
sources() {  # whether all files that the pack is made of are here; unpacks them
  for file in $SOURCE; do
    if [[ ! -e $work/out/stage/$file ]]; then
      complete "$file" || return 1
      travel import "$work/out/stage/$file".tar* --to "$work/out/stage/$file" || return 1
      rm "$work/out/stage/$file".tar*
    fi
  done
}
for name in $(cd "$work/out/stage" && for part in *.tar*-of-*; do echo "${part%.tar*}"; done | sort -u); do
  [[ " $PACK $SOURCE " == *" $name "* ]] && continue
  if complete "$name"; then
    travel import "$work/out/stage/$name".tar* --to "$work/out/$name"
    rm "$work/out/stage/$name".tar*
  fi
done
if [[ -d $work/packs/$PACK ]]; then
  :
elif complete "$PACK"; then  # the pack itself
  travel import "$work/out/stage/$PACK".tar* --to "$work/packs/$PACK"
elif sources; then  # the files that it is made of
  forcelaw data prepare $(printf "$work/out/stage/%s " $SOURCE) --out "$work/packs/$PACK" $PREPARE
else
  echo "stage: the data are not all here yet: $(cd "$work/out/stage" && echo *)"
  exit 0
fi
hash=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["content_hash"])' "$work/packs/$PACK/manifest.json")
if [[ -z ${HASH:-} || $hash == "$HASH" ]]; then echo "stage: pack $PACK is here, hash $hash"; else
  echo "stage: WARNING: the hash of pack $PACK is $hash and not $HASH: its runs are runs of another study"
fi
