#!/usr/bin/env bash
# One lease of a lent machine with two GPUs for ladder_2, call by call (contrib/travel/README.md says what is carried).
# OUT is the folder whose files come back. Write the calls down beforehand: 30 s without one give the machine back.
#   lease.sh stage                          carry out/carry-1, then the others one by one: wheels, states of studies, xtb_molecules.h5 and
#                                           xtb_molecules_more.h5 in parts. The first call copies the code, so that commits meanwhile change
#                                           nothing; the last one makes both packs
#   lease.sh train OUT SECONDS PARTS QUEUE QUEUE   a queue of studies ("long_three long_check") for each card; resumes. PARTS: files of
#                                           state of each study
set -uo pipefail
command=$1
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
case $command in
  stage)
    if [[ ! -d out/code ]]; then
      mkdir -p out/code/out
      cp -r src benchmarks studies contrib pyproject.toml out/code/
    fi
    for carried in out/carry-*; do rm -rf "out/code/$carried" && mv "$carried" out/code/out/; done
    cd out/code || exit
    DATA_ENV=contrib/travel/data_long.env bash contrib/travel/stage.sh | tail -n 2
    if [[ -d packs/xtb14 ]]; then bash contrib/travel/stage.sh | tail -n 1; fi
    ;;
  train)
    dest=$2 seconds=$3 parts=$4
    shift 4
    cd out/code || exit
    queues=()
    for names in "$@"; do
      queue=""
      for name in $names; do queue+="studies/ladder_2/$name.yaml "; done
      queues+=("$queue")
    done
    RESERVE=${RESERVE:-25} PARTS=$parts bash contrib/travel/queues.sh "$dest" "$seconds" "${queues[@]}"
    rm -f "$dest"/*/*.csv "$dest"/*/*.txt
    tail -qn 25 "$dest/all.txt"
    ls -l "$dest" "$dest"/*
    uptime
    ;;
  *) echo "lease.sh: no such call: $command" >&2; exit 2 ;;
esac
