"""The matrix products of an eSEN layer (lmax = mmax = 2) by themselves: TFLOP/s and TB/s of each,
both ways, in TF32.

    python benchmarks/esen_products.py [--widths 52 56 64 104 128] [--edges 150016]   (GPU, 10 s)

"dx nn" multiplies by the weight as it lies, "dx tn" by a transposed copy: tensor cores take TF32
only where the summed axis is contiguous in both operands. "copy" is what the memory allows.
"""

from __future__ import annotations

import argparse
import sys

import torch
from kernel_tuning import milliseconds  # in this directory

# units of C: where the orders m = 0, 1, 2 begin in the input and the output of the two convolutions
PRODUCTS = {
    "conv1": ((0, 6, 14, 18), (0, 5, 9, 11)),
    "conv2": ((0, 3, 7, 9), (0, 3, 7, 9)),
    "radial": ((0, 1), (0, 12)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--widths", type=int, nargs="+", default=[52, 56, 64, 104, 128])
    parser.add_argument("--edges", type=int, default=150_016)
    args = parser.parse_args()
    device, e = args.device, args.edges
    torch.backends.cuda.matmul.allow_tf32 = True
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"# {' '.join(sys.argv)}\n# {name}, torch {torch.__version__}, {e:,} edges")
    x = torch.randn(e, 1024, device=device)
    y = torch.empty_like(x)
    print(f"copy {8e-9 * x.numel() / milliseconds(lambda: y.copy_(x), 3):.2f} TB/s")
    print(
        f"{'width':>5} {'product':<9}{'in':>6}{'out':>6}"
        + "".join(f"{k:>24}" for k in ("forward", "dx nn", "dx tn", "dw"))
    )
    for width in args.widths:
        for key, (inward, outward) in PRODUCTS.items():
            source = torch.randn(e, inward[-1] * width, device=device)
            target = torch.randn(e, outward[-1] * width, device=device)
            for m in range(len(inward) - 1):
                part = source[:, inward[m] * width : inward[m + 1] * width]
                to = target[:, outward[m] * width : outward[m + 1] * width]
                w = torch.randn(to.shape[1], part.shape[1], device=device)
                wt = w.t().contiguous()
                calls = (
                    lambda p=part, t=to, w=w: torch.mm(p, w.t(), out=t),
                    lambda p=part, t=to, w=w: torch.mm(t, w, out=p),
                    lambda p=part, t=to, wt=wt: torch.mm(t, wt.t(), out=p),
                    lambda p=part, t=to: torch.mm(t.t(), p),
                )
                row = f"{width:>5} {key + ' ' + str(m):<9}{part.shape[1]:>6}{to.shape[1]:>6}"
                for call in calls:
                    ms = milliseconds(call, 3)
                    row += (
                        f"{ms:>9.3f} ms{2e-9 * e * w.numel() / ms:>5.0f} TF"
                        f"{4e-9 * e * (part.shape[1] + to.shape[1]) / ms:>5.2f}"
                    )
                print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
