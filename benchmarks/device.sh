#!/usr/bin/env bash
# What only a GPU can show, in stages of less than ten minutes each, on a machine with one GPU and torch:
#
#     bash benchmarks/device.sh OUT STAGE [PACK]
#
#     check      kernels against plain torch, CUDA graph against CPU, resume, windows, divergence (all side by side: 4 minutes)
#     speed      the table of benchmarks/README.md, without torch.compile: TF32 at 8k and 32k atoms a step, then bf16 and float32
#     compiled   does torch.compile end on this machine, and what does it give? One model, then the rest; stacks if it hangs
#     peers      compared with fairchem-core's own models (folders FC2 and FC1 hold its wheels, 2.24.0 and 1.10.0): eager, then compiled
#     packing    many small runs on one card
#     precision  do TF32 and bf16 reach the loss of float32?
#     profile    kernels by time, eSEN's matrix products, tiles of the fused kernels
#
# Rows are printed as they are measured and kept in OUT, whatever ends the stage. check needs pytest and vesin, peers the wheels;
# compiled prints stacks where py-spy is on the path.
set -u
cd "$(dirname "$0")/.."
out=$1 stage=$2 pack=${3:-src/forcelaw/data/sample}
mkdir -p "$out"
# few threads: sizes of models are found on the CPU, and sixteen threads make that slower
export PYTHONPATH=src:.:tests:${PYTHONPATH:-} PYTHONUNBUFFERED=1 CUDA_DEVICE_MAX_CONNECTIONS=32 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
models="mpnn painn egnn esen esen:lmax=4 mpnn:feed_forward=edges esen:untied=true"
began=$(date +%s)
tell() { { echo "## $(( $(date +%s) - began )) s: $*"; timeout "$LIMIT" "$@" 2>&1; } | tee -a "$out/$stage.txt"; }
quietly() {  # in the background; the end of what it said, when it is over
  local name=$1; shift
  (timeout "$LIMIT" "$@" >"$out/$name.txt" 2>&1; echo "## $(( $(date +%s) - began )) s, exit code $?: $*"; tail -n "${TAIL:-6}" "$out/$name.txt") &
}
speed=(python3 benchmarks/training_speed.py --pack "$pack" --seconds 0.3)
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/device.txt"
case $stage in
check)
  LIMIT=280
  for file in kernels gemnet_residual gemnet_triplets; do quietly test_$file python3 -m pytest -q -p no:cacheprovider "tests/ops/test_$file.py"; done
  TAIL=40 quietly gpu_check_gemnet python3 benchmarks/gpu_check.py --pack src/forcelaw/data/sample --no-compile --threads 3 \
    --architectures gemnet_oc
  TAIL=80 quietly gpu_check python3 benchmarks/gpu_check.py --pack src/forcelaw/data/sample --no-compile --threads 3 \
    --architectures esen egnn painn mpnn mpnn:feed_forward=edges esen:untied=true
  wait ;;
speed)
  LIMIT=100 tell "${speed[@]}" --architectures $models --sizes 1e6 --atoms 8192 --precision tf32
  LIMIT=45 tell "${speed[@]}" --architectures esen:depth=4 --sizes 6.26e6 --atoms 8192 32768 --precision tf32
  for model in mpnn painn egnn esen esen:lmax=4; do
    LIMIT=35 tell "${speed[@]}" --architectures $model --sizes 1e6 --atoms 32768 --precision tf32
  done
  LIMIT=120 tell "${speed[@]}" --architectures $models --sizes 1e6 --atoms 8192 --precision bf16 float32
  # the first row of each width and precision waits 20 s for GemNet-OC's kernels
  LIMIT=60 tell "${speed[@]}" --architectures gemnet_oc --sizes 1e6 --atoms 8192 32768 --precision tf32
  LIMIT=80 tell "${speed[@]}" --architectures gemnet_oc --sizes 3e6 1e6 --atoms 8192 --precision tf32 bf16 ;;
compiled)
  (for wait in 60 60 60 60; do
    sleep $wait
    for pid in $(pgrep -f training_speed.py); do py-spy dump --pid "$pid" 2>/dev/null | head -40; done
  done) >"$out/stacks.txt" 2>&1 &
  watcher=$!
  LIMIT=200 tell "${speed[@]}" --architectures mpnn --sizes 1e6 --atoms 1400 --compile yes
  LIMIT=330 tell "${speed[@]}" --architectures mpnn painn esen egnn --sizes 1e6 --atoms 8192 --precision tf32 --compile yes
  kill $watcher ;;
peers)
  # eager rows first: whoever compiles keeps the others from measuring
  wheels=(--fairchem2 "${FC2:-.whl-fc2}" --fairchem1 "${FC1:-.whl-fc1}")
  LIMIT=230 tell python3 benchmarks/peers.py --pack "$pack" "${wheels[@]}" --variants eager "indices each step" \
    --ours-compile no --seconds 0.5 --cases "eSEN L2 0.9M" "PaiNN" "GemNet-OC 2.6M" "eSEN L2 6.3M"
  # in one thread: every worker of inductor's pool imports torch, which takes long where files are read slowly
  export TORCHINDUCTOR_COMPILE_THREADS=1
  LIMIT=340 tell python3 benchmarks/peers.py --pack "$pack" "${wheels[@]}" --variants "one shape" --ours-compile no --limit 1 \
    --cases "eSEN L2 0.9M" "PaiNN" "eSEN L2 6.3M" ;;
packing)
  LIMIT=330 tell python3 benchmarks/packing.py --pack "$pack" --device cuda --molecules 64 --sizes 1e5 1e6 --packs 4 8 16
  LIMIT=200 tell python3 benchmarks/packing.py --pack "$pack" --device cuda --molecules 64 --sizes 1e5 --packs 8 \
    --architectures mpnn --study painn esen ;;
precision)
  LIMIT=560 tell python3 benchmarks/precision.py --pack "$pack" --device cuda --size 1e6 --atoms 1.5e6 --seeds 3 ;;
profile)
  LIMIT=60 tell "${speed[@]}" --architectures esen mpnn painn egnn --sizes 1e6 --atoms 8192 --precision tf32 --profile
  LIMIT=40 tell "${speed[@]}" --architectures esen --sizes 6.26e6 --atoms 8192 --precision tf32 --profile
  LIMIT=40 tell python3 benchmarks/esen_products.py
  for width in 156 312; do LIMIT=120 tell python3 benchmarks/kernel_tuning.py --pack "$pack" --width $width --repeats 5; done
  LIMIT=120 tell python3 benchmarks/kernel_tuning.py --pack "$pack" --lmax 4 --repeats 5 ;;
*) echo "no such stage: $stage" >&2; exit 2 ;;
esac
