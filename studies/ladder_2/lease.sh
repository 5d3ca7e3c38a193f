#!/usr/bin/env bash
# One lease of a lent machine with two GPUs for ladder_2, call by call (contrib/travel/README.md says what is carried).
# OUT is the folder whose files come back. Write the calls down beforehand: 30 s without one give the machine back.
#   lease.sh stage                          carry out/carry-1, then the others one by one: wheels, states of studies, xtb_molecules.h5 and
#                                           xtb_molecules_more.h5 in parts. The first call copies the code, so that commits meanwhile change
#                                           nothing; the last one makes both packs
# Where xtb_molecules_more.h5 has been lost, and some of its lists have been made again (data.md):
#   lease.sh begin WORKERS "12 13 ... 19"   carry out/carry-gen: wheels (those of training, rdkit, tblite, cffi, pycparser) and more.tar.1-of-1, the
#                                           lists; makes packs of these and then xtb14 in the background
#   lease.sh stage                          as above, xtb_molecules.h5 and made.tar.*, the other packs, in three parts each
#   lease.sh gap OUT SECONDS STUDY          a study that needs pack xtb alone, a run a card, until xtb14 is there
#   lease.sh train OUT SECONDS PARTS QUEUE QUEUE   a queue of studies ("long_three long_check") for each card; resumes. PARTS: files of
#                                           state of each study
set -uo pipefail
command=$1
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
case $command in
  begin | stage)
    if [[ ! -d out/code ]]; then
      mkdir -p out/code/out
      cp -r src benchmarks studies contrib pyproject.toml out/code/
    fi
    ;;&
  begin)
    mv out/carry-gen out/code/out/
    cd out/code || exit
    bash contrib/travel/stage.sh
    export PYTHONPATH=$PWD/src:$PWD/out/site
    sed -i 's/"compression_opts": 9/"compression_opts": 1/' studies/ladder_2/more_data.py  # the file stays here; its pack is the same
    setsid nohup bash -c "LISTS='$3' nice -n 10 bash studies/ladder_2/more_data.sh out/more out/stage/xtb_molecules.h5 $2 &&
      mv out/more/xtb_molecules_more.h5 out/stage/ && DATA_ENV=contrib/travel/data_long.env bash contrib/travel/stage.sh" >out/more.log 2>&1 </dev/null &
    sleep 8
    tail -qn1 out/more.log out/more/*.log
    ;;
  gap)
    cd out/code || exit
    RESERVE=20 PARTS=1 bash contrib/travel/piece.sh "studies/ladder_2/$4.yaml" "$2/$4" "$3" --runs-per-device 1 >out/gap.log 2>&1 &
    piece=$!
    until [[ -d packs/xtb14 ]] || (( SECONDS > $3 - 20 )); do sleep 1; done
    echo "xtb14, or the end of the time, after $SECONDS s"
    pkill -TERM -f 'forcelaw.cli run' || true
    wait $piece
    tail -n 25 out/gap.log
    rm -f "$2/$4"/*.csv "$2/$4"/*.txt
    cat out/more.log
    tail -qn1 out/more/*.log
    ls packs
    ;;
  stage)
    for carried in out/carry-*; do rm -rf "out/code/$carried" && mv "$carried" out/code/out/; done
    cd out/code || exit
    DATA_ENV=contrib/travel/data_long.env bash contrib/travel/stage.sh | tail -n 2
    if [[ -d packs/xtb14 ]]; then bash contrib/travel/stage.sh | tail -n 1; fi
    if [[ -d out/made ]]; then mv out/made/* out/more/; rmdir out/made; fi
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
