"""Slow, obvious versions of what the laws do, straight from the equations, for comparison."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.optimize import least_squares, minimize


def predict(name: str, p: dict[str, float], x: dict[str, np.ndarray]) -> np.ndarray:
    """Losses of a law from its formula, in plain (uncentred) numbers."""
    if name in ("power", "power_floor"):
        return p["A"] * x["n"] ** -p["gamma"] + p.get("E", 0.0)
    if name in ("frontier", "frontier_hours"):
        return p["F"] * x["c" if name == "frontier" else "h"] ** -p["gamma"] + p["E"]
    if name in ("surface", "surface_cost"):
        return p["E"] + p["A"] * x["n"] ** -p["alpha"] + p["B"] * x["d"] ** -p["beta"]
    if name == "coupled":
        terms = p["A"] * x["n"] ** -p["alpha"], p["B"] * x["d"] ** -p["beta"]
        return p["E"] + (terms[0] ** p["p"] + terms[1] ** p["p"]) ** (1 / p["p"])
    if name == "kaplan":
        n_c, d_c = p["A"] ** (1 / p["alpha"]), p["B"] ** (1 / p["beta"])
        return p["E"] + ((n_c / x["n"]) ** (p["alpha"] / p["beta"]) + d_c / x["d"]) ** p["beta"]
    if name == "broken":
        return (
            p["A"]
            * x["c"] ** -p["c0"]
            * (1 + (x["c"] / p["d1"]) ** (1 / p["f1"])) ** (-p["c1"] * p["f1"])
            + p["E"]
        )
    if name == "shifted":
        return p["A"] * (x["n"] + p["s"]) ** -p["gamma"] + p["E"]
    if name == "data_constrained":
        out = []
        for n, d, u in zip(x["n"], x["d"], x["u"]):
            g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
            best = (u * g) ** (p["beta"] / p["alpha"]) * g  # N for which u is compute-optimal
            un = min(n, best)
            rn, rd = n / un - 1, d / u - 1
            nn = un + un * p["R_N"] * (1 - np.exp(-rn / p["R_N"]))
            dd = u + u * p["R_D"] * (1 - np.exp(-rd / p["R_D"]))
            out.append(p["E"] + p["A"] * nn ** -p["alpha"] + p["B"] * dd ** -p["beta"])
        return np.array(out)
    if name == "data_constrained_by_size":
        mean = np.exp(np.mean(np.log(x["n"])))
        repeats = p["R_D"] * (x["n"] / mean) ** -p["rho"]
        worth = x["u"] * (1 + repeats * (1 - np.exp(-(x["d"] / x["u"] - 1) / repeats)))
        return p["E"] + p["A"] * x["n"] ** -p["alpha"] + p["B"] * worth ** -p["beta"]
    if name == "data_constrained_coupled":
        worth = x["u"] * (1 + p["R_D"] * (1 - np.exp(-(x["d"] / x["u"] - 1) / p["R_D"])))
        terms = p["A"] * x["n"] ** -p["alpha"], p["B"] * worth ** -p["beta"]
        return p["E"] + (terms[0] ** p["p"] + terms[1] ** p["p"]) ** (1 / p["p"])
    raise KeyError(name)


def huber(r: np.ndarray, delta: float) -> np.ndarray:
    return np.where(np.abs(r) <= delta, r**2 / 2, delta * (np.abs(r) - delta / 2))


def rho(kind: str, predicted: np.ndarray, loss: np.ndarray, delta: float | None) -> np.ndarray:
    """What the objective sums, from losses rather than residuals."""
    if kind == "huber":
        return huber(np.log(predicted) - np.log(loss), delta)
    if kind == "log":
        return np.log(predicted / loss) ** 2 / 2
    if kind == "relative":
        return ((predicted - loss) / loss) ** 2 / 2
    return (predicted - loss) ** 2 / 2


def surface_fit(
    n: np.ndarray,
    d: np.ndarray,
    loss: np.ndarray,
    kind: str,
    delta: float | None,
    seed: int = 0,
    starts: int = 12,
) -> tuple[dict[str, float], float]:
    """The best of many BFGS fits without any cleverness but a restart by Nelder-Mead."""
    rng = np.random.default_rng(seed)
    u, v = np.log(n), np.log(d)
    unit = float(loss.mean()) ** 2 if kind == "linear" else 1.0

    def value(t: np.ndarray) -> float:
        predicted = (
            np.exp(t[0] - t[3] * (u - u.mean()))
            + np.exp(t[1] - t[4] * (v - v.mean()))
            + np.exp(t[2])
        )
        return float(rho(kind, predicted, loss, delta).sum()) / unit * 1e4

    best = None
    for _ in range(starts):
        low = np.log(loss.min())
        start = np.array(
            [
                low + rng.uniform(-3, 0),
                low + rng.uniform(-3, 0),
                low + rng.uniform(-2, 0),
                rng.uniform(0.1, 0.8),
                rng.uniform(0.1, 0.8),
            ]
        )
        with np.errstate(all="ignore"):
            found = minimize(value, start, method="BFGS", options={"gtol": 1e-9})
            found = minimize(
                value,
                found.x,
                method="Nelder-Mead",
                options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 6000, "maxfev": 6000},
            )
        if best is None or found.fun < best.fun:
            best = found
    t = best.x
    return (
        {
            "A": float(np.exp(t[0] + t[3] * u.mean())),
            "B": float(np.exp(t[1] + t[4] * v.mean())),
            "E": float(np.exp(t[2])),
            "alpha": float(t[3]),
            "beta": float(t[4]),
        },
        best.fun / 1e4 * unit,
    )


def jackknife_surface(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, run: np.ndarray, start: dict[str, float]
) -> list[dict[str, float]]:
    """Least-squares fits of ln L without each run in turn, by SciPy."""
    out = []
    names = ("A", "B", "E", "alpha", "beta")
    for label in np.unique(run):
        keep = run != label

        def residual(t: np.ndarray, keep: np.ndarray = keep) -> np.ndarray:
            return np.log(
                np.exp(t[0]) * n[keep] ** -t[3] + np.exp(t[1]) * d[keep] ** -t[4] + np.exp(t[2])
            ) - np.log(loss[keep])

        first = [
            np.log(start["A"]),
            np.log(start["B"]),
            np.log(start["E"]),
            start["alpha"],
            start["beta"],
        ]
        t = least_squares(residual, first, xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale="jac").x
        out.append(dict(zip(names, [*np.exp(t[:3]), *t[3:]])))
    return out


def hull(x: np.ndarray, y: np.ndarray) -> set[int]:
    """Vertices of the lower hull down to the lowest point: points that no chord of two others
    passes below or through."""
    lowest = int(np.argmin(y))
    out = set()
    for i in range(len(x)):
        if x[i] > x[lowest]:
            continue
        under = any(
            min(x[j], x[k]) < x[i] < max(x[j], x[k])
            and y[j] + (y[k] - y[j]) * (x[i] - x[j]) / (x[k] - x[j]) <= y[i]
            for j, k in combinations([m for m in range(len(x)) if m != i], 2)
        )
        if not under:
            out.add(i)
    return out


def best_sizes(
    p: dict[str, float], budget: float, k: float, pn: float, qd: float
) -> tuple[float, float]:
    """N and D of the lowest loss with k N^pn D^qd = budget, by a fine search."""
    ln_n = np.linspace(0, 60, 600_001)
    ln_d = (np.log(budget / k) - pn * ln_n) / qd
    i = int(np.argmin(p["A"] * np.exp(-p["alpha"] * ln_n) + p["B"] * np.exp(-p["beta"] * ln_d)))
    return float(np.exp(ln_n[i])), float(np.exp(ln_d[i]))
