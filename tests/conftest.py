"""Threads are set before torch is imported: an oversubscribed torch is several times slower. So is
what Triton reads when it is imported: without a GPU, its interpreter runs the kernels."""

import os
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"
