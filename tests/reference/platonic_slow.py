"""The Platonic transformer as its equations say, one atom, frame, head and channel pair at a time,
in NumPy and float64."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from forcelaw.models.platonic import Platonic
from tests.molecules import Molecule


def rotations(name: str) -> list[np.ndarray]:
    """The elements of a group from its definition, in no particular order.

    T and O: signed permutation matrices of determinant 1, for T of an even permutation. I: the
    rotations that map the twelve vertices of an icosahedron onto themselves, found by trying all
    images of one edge.
    """
    if name == "C1":
        return [np.eye(3)]
    if name in ("T", "O", "Th", "Td", "Oh"):
        found = []
        for order in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                matrix = np.diag(signs) @ np.eye(3)[list(order)]
                even = np.linalg.det(np.eye(3)[list(order)]) > 0
                product = np.prod(signs)
                keep = {
                    "T": even and product > 0,
                    "Th": even,
                    "O": np.linalg.det(matrix) > 0,
                    "Td": product > 0,
                    "Oh": True,
                }[name]
                if keep:
                    found.append(matrix)
        return found
    golden = (1 + 5**0.5) / 2
    vertices = [
        np.roll([0.0, a, b * golden], k) for k in range(3) for a in (1, -1) for b in (1, -1)
    ]
    length = min(np.linalg.norm(p - q) for p, q in itertools.combinations(vertices, 2))

    def frame(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.stack([p, q, np.cross(p, q)], axis=1)

    first, second = next(
        (p, q)
        for p, q in itertools.permutations(vertices, 2)
        if np.isclose(np.linalg.norm(p - q), length)
    )
    return [
        frame(p, q) @ np.linalg.inv(frame(first, second))
        for p, q in itertools.permutations(vertices, 2)
        if np.isclose(np.linalg.norm(p - q), length)
    ]


def nearest(matrices: np.ndarray, wanted: np.ndarray) -> int:
    return int(np.argmin([np.abs(m - wanted).max() for m in matrices]))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


class Slow:
    """The equations with the weights of a model of ours."""

    def __init__(self, model: Platonic):
        self.c = model.config
        self.w = {k: p.detach().double().numpy() for k, p in model.named_parameters()}
        self.frames = model.frames.matrices(torch.zeros(1, dtype=torch.float64)).numpy()
        self.order = len(self.frames)
        self.element = [[nearest(self.frames, g.T @ h) for h in self.frames] for g in self.frames]

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        """(G, in) -> (G, out): y_g = sum over h of K_{g^-1 h} x_h + b."""
        kernel, bias = self.w[f"{name}.kernel"], self.w[f"{name}.bias"]
        out = np.tile(bias, (self.order, 1))
        for g, h in itertools.product(range(self.order), repeat=2):
            out[g] += kernel[self.element[g][h]] @ x[h]
        return out

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        y = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return y * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, k: int, x: list[np.ndarray], pos: np.ndarray) -> list[np.ndarray]:
        c, d = self.c, self.c.head_width
        heads = c.channels // d
        qkv = [self.linear(f"layers.{k}.project", self.norm(f"layers.{k}.norm1", a)) for a in x]
        qkv = [a.reshape(self.order, 3, heads, d) for a in qkv]
        w = self.w[f"layers.{k}.frequencies"]
        out = [np.zeros((self.order, heads, d)) for _ in x]

        def turn(vector: np.ndarray, angles: np.ndarray) -> np.ndarray:
            result = vector.copy()
            for p, angle in enumerate(angles):
                a, b = vector[p], vector[p + d // 2]
                result[p] = a * np.cos(angle) - b * np.sin(angle)
                result[p + d // 2] = a * np.sin(angle) + b * np.cos(angle)
            return result

        for i, g, h in itertools.product(range(len(x)), range(self.order), range(heads)):
            weights, values = [], []
            for j in range(len(x)):
                r = np.linalg.norm(pos[j] - pos[i]) / c.cutoff
                if r >= 1.0:
                    continue
                angles = (self.frames[g] @ w[h].T).T @ (pos[j] - pos[i])
                slope = c.decay * 2.0 ** ((h + 0.5) / heads - 0.5)
                u = 1 - 21 * r**5 + 35 * r**6 - 15 * r**7
                u *= np.exp(-np.float64(np.float32(slope)) * r * c.cutoff)
                there = turn(qkv[j][g, 1, h], angles)
                weights.append(u * np.exp(qkv[i][g, 0, h] @ there / np.sqrt(d)))
                value = qkv[j][g, 2, h]
                values.append(turn(value, angles) if c.turn_values else value)
            out[i][g, h] = np.einsum("j,jd->d", weights, values) / np.sum(weights)
        return [self.linear(f"layers.{k}.out", o.reshape(self.order, -1)) for o in out]

    def __call__(self, molecule: Molecule) -> tuple[float, np.ndarray]:
        """Energy and forces (n, 3)."""
        c = self.c
        x = [np.tile(self.w["embedding.weight"][s], (self.order, 1)) for s in molecule.species]
        for k in range(c.depth):
            x = [a + b for a, b in zip(x, self.attention(k, x, molecule.pos))]
            for i, a in enumerate(x):
                hidden = silu(self.linear(f"layers.{k}.up", self.norm(f"layers.{k}.norm2", a)))
                x[i] = a + self.linear(f"layers.{k}.down", hidden)
        energy, forces = 0.0, []
        for a in x:
            y = self.norm("norm", a)
            last = {n: self.w[f"{n}.last.weight"] / c.m for n in ("energy", "force")}
            e = silu(self.linear("energy.hidden", y)) @ last["energy"].T
            f = silu(self.linear("force.hidden", y)) @ last["force"].T
            energy += float(e.sum() + self.w["shift"][0])
            forces.append(sum(self.frames[g] @ f[g] for g in range(self.order)))
        return energy * c.scale, np.array(forces) * c.scale
