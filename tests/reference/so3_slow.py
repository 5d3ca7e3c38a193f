"""Spherical harmonics, Wigner matrices and a whole eSEN by the definition: NumPy, float64, loops
over edges. Slow.

Real harmonics with polar axis y and without Condon-Shortley sign: those of l = 1 are proportional
to (x, y, z).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial.legendre import Legendre


def harmonics(unit: np.ndarray, lmax: int) -> np.ndarray:
    """(p, 3) unit vectors -> (p, (lmax + 1)^2): d^m P_l(y)/dy^m times the real (m >= 0) or
    imaginary (z + ix)^m.

    With sin(theta)^m inside the power nothing is lost near the poles, unlike sqrt(1 - y^2) and the
    azimuth.
    """
    x, y, z = unit.T
    columns = []
    for l in range(lmax + 1):
        for m in range(-l, l + 1):
            k = abs(m)
            norm = math.sqrt(
                (2 * l + 1) / (4 * math.pi) * math.factorial(l - k) / math.factorial(l + k)
            )
            power = (z + 1j * x) ** k
            angular = 1.0 if m == 0 else math.sqrt(2.0) * (power.real if m > 0 else power.imag)
            columns.append(norm * Legendre.basis(l).deriv(k)(y) * angular)
    return np.stack(columns, axis=1)


def wigner(rotation: np.ndarray, lmax: int) -> np.ndarray:
    """D with Y(R r) = D Y(r), solved by least squares over scattered points; block-diagonal by
    construction of Y."""
    points = np.random.default_rng(0).normal(size=(8 * (lmax + 1) ** 2, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    d = np.zeros(((lmax + 1) ** 2,) * 2)
    before, after = harmonics(points, lmax), harmonics(points @ rotation.T, lmax)
    for l in range(lmax + 1):
        block = slice(l * l, (l + 1) ** 2)
        d[block, block] = np.linalg.lstsq(before[:, block], after[:, block], rcond=None)[0].T
    return d


def any_frame(unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) rotation that takes ``unit`` to +y, with a random roll about it."""
    z = np.cross(unit, rng.normal(size=3))
    z /= np.linalg.norm(z)
    return np.stack([np.cross(unit, z), unit, z])  # rows x, y, z: right-handed


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


class SlowESEN:
    """The equations of eSEN with the weights of a forcelaw model, one edge at a time.

    state: its parameters as float64 arrays; sizes from its configuration. Untied blocks and parity
    are written out from their definitions. muP multipliers are applied as 1/m on the two output
    layers.
    """

    def __init__(self, state: dict[str, np.ndarray], config: object):
        self.p, self.c = state, config

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.p[f"{name}.weight"].T + self.p.get(f"{name}.bias", 0.0)

    def layer_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * self.p[f"{name}.weight"] + self.p[
            f"{name}.bias"
        ]

    def degree_of(self, k: int) -> int:
        return math.isqrt(k)

    def spherical_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """x (S, C) of one atom."""
        x = x.copy()
        x[0] -= x[0].mean()
        total = sum(np.square(x[l * l : (l + 1) ** 2]).mean() for l in range(self.c.lmax + 1)) / (
            self.c.lmax + 1
        )
        x /= np.sqrt(total + 1e-5)
        gain = self.p[f"{name}.gain"]
        for k in range(len(x)):
            x[k] *= gain[self.degree_of(k)]
        x[0] += self.p[f"{name}.bias"]
        return x

    def so3_linear(self, name: str, x: np.ndarray) -> np.ndarray:
        out = np.stack([self.p[f"{name}.weight"][self.degree_of(k)] @ x[k] for k in range(len(x))])
        out[0] += self.p[f"{name}.bias"]
        return out

    def radial(self, name: str, r: float, sender: int, receiver: int) -> np.ndarray:
        c = self.c
        spacing = c.cutoff / (c.radial - 1)
        basis = np.exp(-0.5 * ((r - np.linspace(0.0, c.cutoff, c.radial)) / (2.0 * spacing)) ** 2)
        if c.basis == "bessel":
            waves = np.arange(1, c.radial + 1) * np.pi / c.cutoff
            basis = np.sqrt(2.0 / c.cutoff) * np.sin(waves * r) / r
        x = np.concatenate(
            [basis, self.p["source.weight"][sender], self.p["target.weight"][receiver]]
        )
        weight = np.concatenate(
            [self.p[f"{name}.{part}.weight"] for part in ("basis", "source", "target")], axis=1
        )
        x = silu(self.layer_norm(f"{name}.norm1", weight @ x + self.p[f"{name}.basis.bias"]))
        x = silu(self.layer_norm(f"{name}.norm2", self.linear(f"{name}.hidden", x)))
        return self.linear(f"{name}.last", x)

    def so2(self, name: str, z: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """z[m] (n_|m| C,) for m = -M..M -> the same after the convolution; z[0] with the gates in
        front."""
        out = {0: self.linear(f"{name}.zero", z[0])}
        for m in range(1, self.c.mmax + 1):
            tied = self.p[f"{name}.tied.{m - 1}"]
            w1, w2 = tied[0], np.zeros_like(tied[0]) if self.c.parity else tied[1]
            plus, minus = z[m], z[-m]
            out[m] = w1 @ plus - w2 @ minus
            out[-m] = w2 @ plus + w1 @ minus
            if self.c.broken:
                p, q = self.p[f"{name}.free.{m - 1}"]
                eps = self.c.epsilon
                out[m] = (out[m] + eps * (p @ plus + q @ minus)) / math.sqrt(1 + eps**2)
                out[-m] = (out[-m] + eps * (q @ plus - p @ minus)) / math.sqrt(1 + eps**2)
        return out

    def message(self, name: str, pair: np.ndarray, rad: np.ndarray, d: np.ndarray) -> np.ndarray:
        """pair (S, 2C) sender and receiver, in the laboratory frame -> (S, C), in the laboratory
        frame."""
        w, lmax, mmax = self.c.width, self.c.lmax, self.c.mmax
        local = d @ pair
        z, start = {}, 0
        for m in range(mmax + 1):
            size = (lmax - m + 1) * 2 * w
            for signed in {m, -m}:
                z[signed] = np.concatenate([local[l * l + l + signed] for l in range(m, lmax + 1)])
                z[signed] = z[signed] * rad[start : start + size]
            start += size
        z = self.so2(f"{name}.conv1", z)
        gates = sigmoid(z[0][: lmax * w]).reshape(lmax, w)
        z[0] = z[0][lmax * w :]
        for m in z:
            rows = z[m].reshape(-1, w).copy()
            for k, l in enumerate(range(abs(m), lmax + 1)):
                rows[k] = silu(rows[k]) if l == 0 else rows[k] * gates[l - 1]
            z[m] = rows.reshape(-1)
        z = self.so2(f"{name}.conv2", z)
        out = np.zeros((len(local), w))
        for m, values in z.items():
            for row, l in zip(values.reshape(-1, w), range(abs(m), lmax + 1)):
                out[l * l + l + m] = row
        return d.T @ out

    def __call__(
        self,
        species: np.ndarray,
        edges: list[tuple[int, int]],
        vec: np.ndarray,
        frames: list[np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Site energies (n,) and forces (n, 3), unscaled. edges: (sender, receiver); frames: a
        rotation of each."""
        c, w, n = self.c, self.c.width, len(species)
        distance = np.linalg.norm(vec, axis=1)
        t = distance / c.cutoff
        factor = np.where(t < 1, 1 - 21 * t**5 + 35 * t**6 - 15 * t**7, 0.0) / math.sqrt(
            c.mean_degree
        )
        turns = [wigner(frame, c.lmax) for frame in frames]
        x = np.zeros((n, (c.lmax + 1) ** 2, w))
        x[:, 0] = self.p["embedding.weight"][species]
        for (j, i), r, u, d in zip(edges, distance, factor, turns):
            local = np.zeros(x.shape[1:])
            rows = self.radial("degree", r, species[j], species[i]).reshape(-1, w)
            for l in range(c.lmax + 1):
                local[l * l + l] = rows[l]
            x[i] += u * (d.T @ local)
        for k in range(c.depth):
            name = f"layers.{k}"
            y = np.stack([self.spherical_norm(f"{name}.norm1", a) for a in x])
            for (j, i), r, u, d in zip(edges, distance, factor, turns):
                rad = self.radial(f"{name}.radial", r, species[j], species[i])
                x[i] += u * self.message(name, np.concatenate([y[j], y[i]], axis=1), rad, d)
            x = np.stack([a + self.feed_forward(name, a) for a in x])
        x = np.stack([self.spherical_norm("norm", a) for a in x])
        h = silu(self.linear("energy.2", silu(self.linear("energy.0", x[:, 0]))))
        energy = self.linear("energy.4", h / c.m)[:, 0]
        return energy, x[:, 1:4] @ self.p["force.weight"][0] / c.m

    def feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        y = self.spherical_norm(f"{name}.norm2", x)
        gates = sigmoid(silu(self.linear(f"{name}.gates", y[0]))).reshape(self.c.lmax, self.c.width)
        y = self.so3_linear(f"{name}.up", y)
        y[0] = silu(y[0])
        for k in range(1, len(y)):
            y[k] *= gates[self.degree_of(k) - 1]
        return self.so3_linear(f"{name}.down", y)
