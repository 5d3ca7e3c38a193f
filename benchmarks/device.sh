#!/usr/bin/env bash
# What only a GPU can show, in stages of less than ten minutes each, on a machine with one GPU and torch:
#
#     bash benchmarks/device.sh OUT STAGE [PACK]
#
#     check      kernels against plain torch, CUDA graph against CPU, resume, windows, divergence
#     speed      the table of benchmarks/README.md, without torch.compile, float32 / TF32 / bf16, 8k and 32k atoms a step
#     compiled   the same at 8k atoms a step with torch.compile
#     peers      beside fairchem-core's own models (folders FC2 and FC1 hold its wheels, 2.24.0 and 1.10.0)
#     packing    many small runs on one card
#     precision  do TF32 and bf16 reach the loss of float32?
#     tuning     tiles of the fused kernels, GemNet-OC's kernels by time
#
# Rows are printed as they are measured and kept in OUT, whatever ends the stage.
set -u
cd "$(dirname "$0")/.."
out=$1 stage=$2 pack=${3:-src/forcelaw/data/sample}
mkdir -p "$out"
export PYTHONPATH=src:.:tests:${PYTHONPATH:-} PYTHONUNBUFFERED=1 CUDA_DEVICE_MAX_CONNECTIONS=32
models="mpnn painn egnn gemnet_oc esen esen:lmax=4 mpnn:feed_forward=edges esen:untied=true"
tell() { local name=$1; shift; echo "## $*"; timeout "$LIMIT" "$@" 2>&1 | tee "$out/$name.txt"; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$out/device.txt"
case $stage in
check)
  LIMIT=270 tell kernels python3 -m pytest -q -p no:cacheprovider tests/kernels
  LIMIT=270 tell gpu_check python3 benchmarks/gpu_check.py --pack src/forcelaw/data/sample ;;
speed)
  for precision in tf32 bf16 float32; do
    LIMIT=130 tell speed_$precision python3 benchmarks/training_speed.py --pack "$pack" --architectures $models --sizes 1e6 \
      --atoms 8192 32768 --precision $precision --seconds 0.3
  done
  LIMIT=90 tell speed_large python3 benchmarks/training_speed.py --pack "$pack" --architectures esen --sizes 6.26e6 \
    --atoms 8192 32768 --precision tf32 bf16 --seconds 0.4
  LIMIT=90 tell speed_gemnet python3 benchmarks/training_speed.py --pack "$pack" --architectures gemnet_oc --sizes 3e6 \
    --atoms 8192 32768 --precision tf32 bf16 --seconds 0.4 ;;
compiled)
  LIMIT=420 tell compiled python3 benchmarks/training_speed.py --pack "$pack" --architectures $models --sizes 1e6 \
    --atoms 8192 --precision tf32 --compile yes --seconds 0.4
  LIMIT=80 tell compiled_large python3 benchmarks/training_speed.py --pack "$pack" --architectures esen --sizes 6.26e6 \
    --atoms 8192 --precision tf32 --compile yes --seconds 0.4
  LIMIT=80 tell compiled_gemnet python3 benchmarks/training_speed.py --pack "$pack" --architectures gemnet_oc --sizes 3e6 \
    --atoms 8192 --precision tf32 --compile yes --seconds 0.4 ;;
peers)
  # eager rows first: whoever compiles keeps the others from measuring
  wheels=(--fairchem2 "${FC2:-.whl-fc2}" --fairchem1 "${FC1:-.whl-fc1}")
  LIMIT=190 tell peers_eager python3 benchmarks/peers.py --pack "$pack" "${wheels[@]}" --variants eager "indices each step" \
    --ours-compile no --seconds 0.5 --cases "eSEN L2 0.9M" "PaiNN" "GemNet-OC 2.6M" "eSEN L2 6.3M"
  LIMIT=380 tell peers python3 benchmarks/peers.py --pack "$pack" "${wheels[@]}" --variants compiled --ours-compile yes --limit 1 \
    --cases "eSEN L2 0.9M" "PaiNN" "eSEN L2 6.3M" ;;
packing)
  LIMIT=330 tell packing python3 benchmarks/packing.py --pack "$pack" --device cuda --molecules 64 --sizes 1e5 1e6 --packs 4 8 16
  LIMIT=200 tell packing_studies python3 benchmarks/packing.py --pack "$pack" --device cuda --molecules 64 --sizes 1e5 --packs 8 \
    --architectures mpnn --study painn esen ;;
precision)
  LIMIT=560 tell precision python3 benchmarks/precision.py --pack "$pack" --device cuda --size 1e6 --atoms 1.5e6 --seeds 3 ;;
tuning)
  LIMIT=200 tell tuning python3 benchmarks/kernel_tuning.py --pack "$pack"
  LIMIT=120 tell tuning_l4 python3 benchmarks/kernel_tuning.py --pack "$pack" --lmax 4 --repeats 5
  LIMIT=200 tell gemnet python3 benchmarks/gemnet_speed.py --pack "$pack" --sizes 1e6 --atoms 8192 --ways graph compiled --profile ;;
*) echo "no such stage: $stage" >&2; exit 2 ;;
esac
