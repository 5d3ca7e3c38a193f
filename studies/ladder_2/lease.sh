#!/usr/bin/env bash
# One lease of a lent machine with two GPUs for the long grid, call by call (contrib/travel/README.md says what is carried; data.md what is made).
# OUT is the folder whose files come back. Write the calls down beforehand: 30 s without one give the machine back.
#   lease.sh begin                 carry out/carry-gen (wheels, gensite.tar.xz of rdkit and tblite, more.tar.gz): the code is copied, so that commits
#                                  meanwhile change nothing, and generation starts in the background
#   lease.sh stage                 carry out/carry-1, then -2, then -3 (xtb_molecules.h5 in three parts)
#   lease.sh field SECONDS         optional; in the background on card 0: the three runs that study field lacks (carry its wheels and its state too); `fetch`
#   lease.sh columns OUT SECONDS   columns_slow.yaml on card 0; what symmetry/transfer.yaml lacks (carry its state) and columns.yaml on card 1;
#                                  until the time is up or the new data are there
#   lease.sh pack                  pack xtb14; its hash, which belongs into contrib/travel/data_long.env
#   lease.sh long OUT SECONDS [PARTS]   the four slices of the long grid on two cards; resumes; PARTS of state for the last call
#   lease.sh home OUT FROM TO      parts FROM to TO of the new data (16 MB each, at most four a call)
#   lease.sh fetch OUT             the state of study field
set -uo pipefail
command=$1 dest=${2:-}
export PYTHONPATH=$PWD/out/code/src:$PWD/out/code/out/site PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
case $command in begin | stage) ;; *) cd out/code || exit ;; esac
ready() { compgen -G "out/home/*.1-of-*" >/dev/null; }
table() { rm -f "$dest"/*/*.csv "$dest"/*/*.txt; cat "$dest/all.txt" 2>/dev/null; ls -l "$dest" "$dest"/*; uptime; }

case $command in
  begin)
    mkdir -p out/code/out
    cp -r src benchmarks studies contrib pyproject.toml out/code/
    mv out/carry-gen out/code/out/
    cd out/code || exit
    bash contrib/travel/stage.sh
    tar -C out/site -xf out/stage/gensite.tar.xz && rm out/stage/gensite.tar.xz
    setsid nohup bash -c 'bash studies/ladder_2/more_data.sh out/more out/stage/xtb_molecules.h5 30 &&
      python3 contrib/travel/travel.py export out/more/xtb_molecules_more.h5 --to out/home --part-mb 15.5' >out/more.log 2>&1 </dev/null &
    sleep 8
    cat out/more.log
    tail -qn1 out/more/*.log
    ;;
  stage)
    for carried in out/carry-*; do rm -rf "out/code/$carried" && mv "$carried" out/code/out/; done
    cd out/code && bash contrib/travel/stage.sh | tail -n 2
    cat out/more.log
    ;;
  field)
    export COVERAGE_RUN=1 CUDA_DEVICE_MAX_CONNECTIONS=4 CUDA_VISIBLE_DEVICES=0 RESERVE=20 PARTS=2
    setsid nohup bash contrib/travel/piece.sh studies/field/field.yaml out/dest_field "$2" --workers 3 --runs-per-device 1 >out/field.out 2>&1 </dev/null &
    ;;
  fetch)
    mkdir -p "$dest/field"
    cp out/dest_field/*.tar.* "$dest/field/"
    tail -n 40 out/field.out
    ;;
  columns)
    RESERVE=20 PARTS=1 bash contrib/travel/queues.sh "$dest" "$3" studies/ladder_2/columns_slow.yaml \
      "studies/symmetry/transfer.yaml studies/ladder_2/columns.yaml" &
    queues=$!
    while kill -0 $queues 2>/dev/null; do  # once the data are there, whatever trains then and what would follow it
      if ready; then pkill -TERM -f 'forcelaw.cli run studies/(ladder_2/columns|symmetry/transfer)'; fi
      sleep 2
    done
    wait $queues
    cat out/more.log
    table
    ;;
  pack)
    ready || { echo "not there yet"; tail -n 2 out/more.log; tail -qn1 out/more/*.log; exit 1; }
    cp out/more/xtb_molecules_more.h5 out/stage/
    sha256sum out/stage/xtb_molecules_more.h5
    DATA_ENV=contrib/travel/data_long.env bash contrib/travel/stage.sh
    ls -l out/home
    ;;
  long)
    export DATA_ENV=contrib/travel/data_long.env
    RESERVE=25 PARTS=${4:-1} bash contrib/travel/queues.sh "$dest" "$3" "studies/ladder_2/long_large.yaml studies/ladder_2/long_300k.yaml" \
      "studies/ladder_2/long_1m.yaml studies/ladder_2/long_100k.yaml"
    table
    ;;
  home) for k in $(seq "$3" "$4"); do cp out/home/*."$k"-of-* "$dest/"; done ;;
  *) echo "lease.sh: no such call: $command" >&2; exit 2 ;;
esac
