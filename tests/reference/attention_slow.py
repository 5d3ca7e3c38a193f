"""The PET-like transformer as its equations say, one atom, edge and head at a time, in NumPy and
float64."""

from __future__ import annotations

import numpy as np

from forcelaw.models.attention import Attention
from tests.molecules import Molecule
from tests.reference.platonic_slow import silu


def basis(r: float, count: int, cutoff: float) -> np.ndarray:
    """Gaussians of exp(-5 r / cutoff), equally spaced there."""
    low = np.exp(-5.0)
    centres = np.linspace(low, 1.0, count).astype(np.float32)  # as models are built
    return np.exp(-((count / (2 * (1 - low))) ** 2) * (np.exp(-5 * r / cutoff) - centres) ** 2)


class Slow:
    """The equations with the weights of a model of ours."""

    def __init__(self, model: Attention):
        self.c = model.config
        self.w = {k: p.detach().double().numpy() for k, p in model.named_parameters()}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def last(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T / self.c.m + self.w[f"{name}.bias"]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        y = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return y * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def glu(self, name: str, x: np.ndarray) -> np.ndarray:
        value, gate = np.split(self.linear(f"{name}.up", x), 2)
        return self.linear(f"{name}.down", value / (1 + np.exp(-gate)))

    def known(self, vec: np.ndarray) -> np.ndarray:
        c, r = self.c, np.linalg.norm(vec)
        if not c.radial:
            return np.append(vec, r)
        angular = np.outer(vec / r, basis(r, c.angular, c.cutoff)).ravel()
        return self.u(r) * np.concatenate([vec / c.cutoff, basis(r, c.radial, c.cutoff), angular])

    def u(self, r: float) -> float:
        x = r / self.c.cutoff
        return 1 - 21 * x**5 + 35 * x**6 - 15 * x**7

    def attend(self, name: str, tokens: list[np.ndarray], weights: list[float]) -> list[np.ndarray]:
        d, h = self.c.width, self.c.head_width
        bias = self.w[f"{name}.bias"]
        full = np.concatenate([bias[0], np.zeros(d), bias[1]])
        qkv = [
            self.norm(f"{name}.norm1", t) @ self.w[f"{name}.qkv.weight"].T + full for t in tokens
        ]
        out = []
        for query in qkv:
            o = np.zeros(d)
            for low in range(0, d, h):
                part = slice(low, low + h)
                a = [
                    u * np.exp(query[part] @ x[d : 2 * d][part] / np.sqrt(h))
                    for u, x in zip(weights, qkv)
                ]
                o[part] = sum(p * x[2 * d :][part] for p, x in zip(a, qkv)) / sum(a)
            out.append(self.linear(f"{name}.out", o))
        return out

    def __call__(self, m: Molecule) -> tuple[float, np.ndarray]:
        """Energy and forces (n, 3)."""
        c, n = self.c, len(m)
        near = {
            i: [j for j in range(n) if j != i and np.linalg.norm(m.pos[j] - m.pos[i]) < c.cutoff]
            for i in range(n)
        }
        u = {(i, j): self.u(np.linalg.norm(m.pos[j] - m.pos[i])) for i in near for j in near[i]}
        a = [self.w["embedding.weight"][s] for s in m.species]
        t = {(i, j): self.w["messages.weight"][m.species[j]] for i, j in u}
        for k in range(c.depth):
            z = {}
            for i, j in u:
                x = self.linear(f"layers.{k}.geometry", self.known(m.pos[j] - m.pos[i]))
                x = x + self.linear(f"layers.{k}.message1", t[i, j])
                if k:
                    x = x + self.w[f"layers.{k}.neighbour.weight"][m.species[j]]
                z[i, j] = self.linear(f"layers.{k}.message2", silu(x))
            for layer in range(c.attention_layers):
                name = f"layers.{k}.attention.{layer}"
                for i in range(n):
                    tokens = [self.linear(f"{name}.contract", a[i]), *(z[i, j] for j in near[i])]
                    o, *rest = self.attend(name, tokens, [1.0, *(u[i, j] for j in near[i])])
                    a[i] = a[i] + self.linear(f"{name}.expand", o)
                    a[i] = a[i] + self.glu(f"{name}.atoms", self.norm(f"{name}.norm_atoms", a[i]))
                    for j, change in zip(near[i], rest):
                        x = z[i, j] + change
                        y = self.glu(f"{name}.edges", self.norm(f"{name}.norm_edges", x))
                        z[i, j] = x + y
            for i, j in u:
                both = self.norm(f"layers.{k}.norm", np.concatenate([z[i, j], z[j, i]]))
                hidden = silu(self.linear(f"layers.{k}.pair1", both))
                t[i, j] = t[i, j] + z[i, j] + self.linear(f"layers.{k}.pair2", hidden)
        energy, force = (
            np.array([self.head(k, i, a, t, near, u) for i in range(n)])
            for k in ("energy", "force")
        )
        return float(energy.sum()) * c.scale, force * c.scale

    def head(self, name, i, a, t, near, u) -> np.ndarray:
        def two(kind: str, x: np.ndarray) -> np.ndarray:
            for k in (0, 1):
                x = silu(self.linear(f"{name}.{kind}.{k}", x))
            return self.last(f"{name}.last_{kind}", x)

        pairs = sum((u[i, j] * two("edges", t[i, j]) for j in near[i]), 0.0)
        return two("atoms", a[i]) + pairs / np.sqrt(self.c.mean_degree)
