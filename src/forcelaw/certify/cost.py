"""Lines about size and cost: parameters and FLOPs, and how they grow."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import StudyError
from ..models import build
from ..models.base import ModelConfig
from ..models.flops import cloud, counted
from ..models.sizing import count_parameters
from .certificate import Line, Verdict
from .subject import TARGETS, Subject

OFF = 0.1  # a closed form may differ from the counter by this share (work per batch, triplets)
# operations of torch and of ours, and marks for a profiler, which compute nothing
PLAIN = ("aten", "prim", "prims", "profiler", "forcelaw")


def reached(subject: Subject) -> dict[float, ModelConfig]:
    """Configurations at some target sizes, as far as the architecture can have them."""
    out = {}
    for target in TARGETS:
        try:
            out[target] = subject.sized(target)
        except StudyError:
            continue
    return out


def parameters(subject: Subject) -> Line:
    """N at some target sizes, and that the model that is built has it."""
    found = reached(subject)
    if not found:
        return Line("parameters", "fails", f"no width gives about {TARGETS} parameters")
    sizes = {target: count_parameters(config) for target, config in found.items()}
    first = next(iter(found))
    built = build(found[first], seed=0).n_parameters()
    text = "; ".join(
        f"{target:.0e}: {sizes[target][0]:,} ({config.width} x {config.depth})"
        for target, config in found.items()
    )
    absent = [f"{t:.0e}" for t in TARGETS if t not in found]
    text += f"; not {', '.join(absent)}" if absent else ""
    values: dict[str, Any] = {
        f"{target:.0e}": {
            "n": sizes[target][0],
            "n_nonembedding": sizes[target][1],
            "width": config.width,
            "depth": config.depth,
        }
        for target, config in found.items()
    }
    if built != sizes[first][0]:
        return Line("parameters", "fails", f"counted {sizes[first][0]:,}, built {built:,}", values)
    return Line("parameters", "holds", text, values)


def flops(subject: Subject) -> Line:
    """Forward FLOPs at some sizes by torch's counter, against the closed form where there is one,
    and how they grow with N and with the edges."""
    degree, values, kappas = subject.data["mean_degree"], {}, []
    worst = 0.0
    for target, config in reached(subject).items():
        form, measured = subject.entry.flops(config), counted(subject.entry.model, config)
        n, _ = count_parameters(config)
        declared, real = (config.passes * f.forward(degree, 1.0) for f in (form, measured))
        worst = max(worst, abs(declared / real - 1.0) if real else math.inf if declared else 0.0)
        kappas.append((n, declared / n))
        values[f"{target:.0e}"] = {"n": n, "kappa": declared / n, "counted": real / n}
    if not kappas:
        return Line("FLOPs", "skipped", "no size was reached")
    text = "kappa " + ", ".join(f"{kappa:.3g}" for _, kappa in kappas)
    (n0, k0), (n1, k1) = kappas[0], kappas[-1]
    if n1 > n0 and k0 > 0 and k1 > 0:
        values["exponent"] = 1.0 + math.log(k1 / k0) / math.log(n1 / n0)
        text += f": FLOPs grow as N^{values['exponent']:.2f}"
    values |= {"closed_form": worst, "nonlinear": _nonlinear(subject), "unknown": _unknown(subject)}
    if values["nonlinear"] > OFF:
        text += f"; not linear in the edges ({100 * values['nonlinear']:.0f}% off at half of them)"
    if values["unknown"]:
        text += f"; the counter does not know {', '.join(values['unknown'])}"
    verdict: Verdict = "note" if values["unknown"] else "holds"
    if worst > OFF:
        verdict, text = "fails", f"the closed form is off by {100 * worst:.0f}%; {text}"
    return Line("FLOPs", verdict, text, values)


def _nonlinear(subject: Subject) -> float:
    """How far the count at half of the edges is from the linear form."""
    config = subject.small.model_copy(update={"canonical": "none"})
    form, graph = counted(subject.entry.model, config), cloud(config, 0.5)
    real = build(config, seed=0).count_flops(graph)
    expected = form.forward(len(graph.sender), len(graph.pos))
    return abs(expected / real - 1.0) if real else 0.0


def _unknown(subject: Subject) -> list[str]:
    """Operations in custom kernels for which torch's counter has no formula."""
    from torch.utils.flop_counter import flop_registry

    seen: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.namespace not in PLAIN and func._overloadpacket not in flop_registry:
                seen.add(str(func._overloadpacket))
            return func(*args, **(kwargs or {}))

    model = build(subject.small, seed=0)
    with Watch(), torch.enable_grad():
        model(cloud(subject.small))
    return sorted(seen)
