"""GemNet-OC written the obvious way: Python loops over edges, triplets and quadruplets, angles by
trigonometry, every product of basis and message materialised. Slow; float64; for tiny molecules. It
shares the weights of a model, and no code: harmonics come from SciPy's associated Legendre
functions, dihedrals from arctan2.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import assoc_legendre_p

NEAREST = 0.9  # Angstrom, as in forcelaw.models.gemnet_basis


def silu(x):
    return x / (1.0 + np.exp(-x)) / 0.6


def edges_of(positions, cutoff):
    """[(sender, receiver)] of every pair closer than the cutoff."""
    n = len(positions)
    return [
        (j, i)
        for i in range(n)
        for j in range(n)
        if i != j and np.linalg.norm(positions[j] - positions[i]) < cutoff
    ]


def triplets(edges):
    """{(b -> a, c -> a)} with b != c, as pairs of edges."""
    return {(ba, ca) for ca in edges for ba in edges if ba[1] == ca[1] and ba != ca}


def quadruplets(edges, positions, quad_cutoff):
    """{(d -> b, b -> a, c -> a)} with d != a and b != c."""
    short = [e for e in edges if np.linalg.norm(positions[e[0]] - positions[e[1]]) < quad_cutoff]
    return {
        (db, ba, ca)
        for ca in edges
        for ba in short
        for db in edges
        if ba[1] == ca[1] and ba != ca and db[1] == ba[0] and db[0] != ba[1]
    }


def angle(u, v):
    """Between two vectors, by arctan2."""
    return math.atan2(np.linalg.norm(np.cross(u, v)), float(np.dot(u, v)))


def legendre(degree, order, theta):
    """Associated Legendre function of cos(theta), normalised so that its harmonic has mean square 1
    on the sphere."""
    value = float(np.squeeze(assoc_legendre_p(degree, order, math.cos(theta)))) * (-1) ** order
    norm = (
        (2 * degree + 1)
        * (1 if order == 0 else 2)
        * math.factorial(degree - order)
        / math.factorial(degree + order)
    )
    return math.sqrt(norm) * value


def quad_function(p, l, j, theta_c, theta_d, dihedral):
    """Mean square 1 over both directions: P_p^j P_l^j cos(j dihedral), by 1 / sqrt 2 for j > 0."""
    return (
        legendre(p, j, theta_c)
        * legendre(l, j, theta_d)
        * math.cos(j * dihedral)
        * (1.0 if j == 0 else math.sqrt(0.5))
    )


def cut(x):
    """The envelope."""
    return 1 - 21 * x**5 + 35 * x**6 - 15 * x**7 if x < 1 else 0.0


def share(cutoff):
    """Mean squared envelope."""
    return np.mean([cut(d / cutoff) ** 2 for d in np.linspace(NEAREST, cutoff, 2001)])


class Slow:
    """Energies per atom and direct forces of a model's weights on one molecule."""

    def __init__(self, model):
        self.c = model.config
        self.w = {k: v.detach().double().numpy() for k, v in model.named_parameters()}
        self.out_scale, self.norms = 1.0 / self.c.m, {}
        self.scale = self.constants()

    def radial(self, r, cutoff):
        """(radial,) radial functions times envelope, scaled so that the functions alone have mean
        square 1."""
        if cutoff not in self.norms:
            values = [self.functions(d, cutoff) ** 2 for d in np.linspace(NEAREST, cutoff, 2001)]
            self.norms[cutoff] = math.sqrt(np.mean(values))
        return self.functions(r, cutoff) * cut(r / cutoff) / self.norms[cutoff]

    def functions(self, r, cutoff):
        """(radial,) Gaussians in r, or in exp(-5 r / cutoff); smaller than exp(-50) is exp(-50)."""
        count = self.c.radial
        if self.c.basis == "gaussian":
            centres = np.linspace(0, cutoff, count)
            exponent = 0.5 * ((r - centres) / (centres[1] - centres[0])) ** 2
        else:
            centres = np.linspace(math.exp(-5), 1, count)
            exponent = (
                (math.exp(-5 * r / cutoff) - centres) * count / (2 * (1 - math.exp(-5)))
            ) ** 2
        return np.exp(-np.minimum(exponent, 50.0))

    def dense(self, name, x):
        return silu(self.w[f"{name}.linear.weight"] @ x)

    def residuals(self, name, x):
        k = 0
        while f"{name}.{k}.first.linear.weight" in self.w:
            x = (
                x + self.dense(f"{name}.{k}.second", self.dense(f"{name}.{k}.first", x))
            ) / math.sqrt(2)
            k += 1
        return x

    def run(self, species, positions):
        c, w = self.c, self.w
        self.x, self.edges = positions, edges_of(positions, c.cutoff)
        self.vec = {e: positions[e[0]] - positions[e[1]] for e in self.edges}
        self.length = {e: np.linalg.norm(v) for e, v in self.vec.items()}
        self.g = {e: self.radial(r, c.cutoff) for e, r in self.length.items()}
        self.rbf = {e: np.split(w["bases.rbf.weight"] @ g, 7) for e, g in self.g.items()}
        self.cbf = {
            e: (w["bases.cbf.weight"] @ g).reshape(3, c.cbf, c.spherical) for e, g in self.g.items()
        }
        self.sbf = {e: (w["bases.sbf.weight"] @ g).reshape(c.sbf, -1) for e, g in self.g.items()}
        self.trip, self.quads = (
            triplets(self.edges),
            quadruplets(self.edges, positions, c.quad_cutoff),
        )
        h = {i: w["embedding.weight"][s] for i, s in enumerate(species)}
        m = self.join("join", h, self.g)
        site, pair = self.output(0, h, m)
        for k in range(c.depth):
            h, m = self.block(f"blocks.{k}", h, m)
            more_site, more_pair = self.output(k + 1, h, m)
            site = {i: site[i] + more_site[i] for i in site}
            pair = {e: pair[e] + more_pair[e] for e in pair}
        energies = [
            float((w["energy.weight"] @ self.residuals("energy_layers", silu(site[i])))[0])
            * self.out_scale
            for i in range(len(species))
        ]
        forces = np.zeros_like(positions)
        for e in self.edges:
            strength = (w["force.weight"] @ self.residuals("force_layers", silu(pair[e])))[
                0
            ] * self.out_scale
            forces[e[1]] += strength * self.vec[e] / self.length[e]
        return np.array(energies), forces

    def join(self, name, h, x):
        sender, receiver = np.split(self.w[f"{name}.atoms.weight"], 2)
        return {
            e: silu(sender @ h[e[0]] + receiver @ h[e[1]] + self.w[f"{name}.other.weight"] @ x[e])
            for e in self.edges
        }

    def update(self, name, m, which):
        out = {}
        for i in range(len(self.x)):
            total = np.zeros(self.c.edge)
            for e in self.edges:
                if e[1] == i:
                    total = total + m[e] * (self.w[f"{name}.rbf.weight"] @ self.rbf[e][which])
            out[i] = self.residuals(
                f"{name}.layers", self.dense(f"{name}.dense", total * self.scale["update"])
            )
        return out

    def output(self, k, h, m):
        name = f"outputs.{k}"
        u, atoms = self.update(f"{name}.update", self.read(m), 5), self.read(h)
        site = {
            i: self.w[f"{name}.to_energy.weight"]
            @ self.residuals(f"{name}.after", (atoms[i] + u[i]) / math.sqrt(2))
            for i in h
        }
        pair = {
            e: self.w[f"{name}.to_force.weight"]
            @ (
                self.residuals(f"{name}.force", m[e])
                * (self.w[f"{name}.rbf.weight"] @ self.rbf[e][5])
            )
            for e in m
        }
        return site, pair

    def read(self, states):
        """States as a block or an output reads them: divided by their RMS over channels."""
        return {
            k: x / math.sqrt(np.mean(x**2) + 1e-6) if self.c.norm else x for k, x in states.items()
        }

    def block(self, name, h, m):
        x, y = self.interaction(f"{name}.interaction", self.read(h), self.read(m))
        h = {i: self.residuals(f"{name}.atoms", (h[i] + y[i]) / math.sqrt(3)) for i in h}
        m = {
            e: self.residuals(
                f"{name}.after", (m[e] + self.residuals(f"{name}.before", x[e] / 2)) / math.sqrt(2)
            )
            for e in m
        }
        u = self.update(f"{name}.update", self.read(m), 4)
        h = {i: (h[i] + u[i]) / math.sqrt(2) for i in h}
        joined = self.join(f"{name}.join", self.read(h), self.read(m))
        return h, {
            e: (m[e] + self.residuals(f"{name}.joined", joined[e])) / math.sqrt(2) for e in m
        }

    def interaction(self, name, h, m):
        c, w, edges = self.c, self.w, self.edges
        four = {e: np.split(self.dense(f"{name}.from_edges", m[e]), 4) for e in edges}
        atom = {i: self.dense(f"{name}.from_atoms", h[i]) for i in h}

        def filtered(kind, x, which):
            return {
                e: self.dense(
                    f"{name}.down_{kind}",
                    x[e] * (w[f"{name}.rbf_{kind}.weight"] @ self.rbf[e][which]),
                )
                for e in edges
            }

        e2e = filtered("e2e", {e: four[e][1] for e in edges}, 0)
        quad = filtered("quad", {e: four[e][2] for e in edges}, 1)
        a2e = filtered("a2e", {e: atom[e[0]] for e in edges}, 2)
        e2a = filtered("e2a", {e: four[e][3] for e in edges}, 3)
        a2a = {i: self.dense(f"{name}.down_a2a", h[i]) for i in h}
        up = {e: np.zeros(2 * c.edge) for e in edges}
        for kind, x, which in (("e2e", e2e, 0), ("a2e", a2e, 1)):
            total = {e: np.zeros((c.cbf, c.trip)) for e in edges}
            for ba, ca in self.trip:
                total[ca] += np.outer(self.circular(ca, ba, ca, which), x[ba])
            for e in edges:
                up[e] += self.dense(
                    f"{name}.up_{kind}",
                    w[f"{name}.bilinear_{kind}.weight"] @ total[e].ravel() * self.scale["trip"],
                )
        total = self.all_quadruplets(name, quad)
        for e in edges:
            up[e] += self.dense(
                f"{name}.up_quad",
                w[f"{name}.bilinear_quad.weight"] @ total[e].ravel() * self.scale["quad"],
            )
        x = {
            e: four[e][0] + (up[e][: c.edge] + up[e[::-1]][c.edge :]) / math.sqrt(2) for e in edges
        }
        to_atom = {i: np.zeros((c.cbf, c.trip)) for i in h}
        for ca, ba in self.trip:  # the message comes along ca, the radial weight from ba
            to_atom[ba[1]] += np.outer(self.circular(ba, ca, ba, 2), e2a[ca])
        pairs = {i: np.zeros((c.rbf, c.trip)) for i in h}
        for e in edges:
            pairs[e[1]] += np.outer(self.rbf[e][6], a2a[e[0]])
        y = {
            i: self.dense(
                f"{name}.up_e2a",
                w[f"{name}.bilinear_e2a.weight"] @ to_atom[i].ravel() * self.scale["e2a"],
            )
            + self.dense(
                f"{name}.up_a2a",
                w[f"{name}.bilinear_a2a.weight"] @ pairs[i].ravel() * self.scale["a2a"],
            )
            for i in h
        }
        return x, y

    def circular(self, first, second, radial, which):
        """(cbf,) sum over l of R_f,l(radial edge) sqrt(2l+1) P_l(cos of the angle between two
        edges)."""
        theta = angle(self.vec[first], self.vec[second])
        return sum(
            self.cbf[radial][which][:, l] * legendre(l, 0, theta) for l in range(self.c.spherical)
        )

    def all_quadruplets(self, name, x):
        c, w = self.c, self.w
        out = {e: np.zeros((c.sbf, c.quad)) for e in self.edges}
        near = {
            e: (w["bases.cbf_quad.weight"] @ self.radial(self.length[e], c.quad_cutoff)).reshape(
                c.spherical, c.cbf
            )
            for e in {ba for _, ba, _ in self.quads}
        }
        for db, ba, ca in self.quads:
            middle = near[ba] @ w[f"{name}.cbf_quad.weight"].T  # (S, quad)
            theta_c, theta_d = angle(self.vec[ca], self.vec[ba]), angle(self.vec[db], self.vec[ba])
            normal_c, normal_d = (
                np.cross(self.vec[ca], self.vec[ba]),
                np.cross(self.vec[db], self.vec[ba]),
            )
            dihedral = angle(normal_c, normal_d)
            for p in range(c.spherical):
                for j in range(p + 1):
                    weight = self.sbf[ca][:, p * (p + 1) // 2 + j]
                    for l in range(j, c.spherical):
                        out[ca] += np.outer(weight, x[db] * middle[l]) * quad_function(
                            p, l, j, theta_c, theta_d, dihedral
                        )
        return out

    def constants(self):
        """Scale factors of the model, written out again: trip, e2a, a2a, quad, update."""
        c = self.c
        k, q, s = c.mean_degree * share(c.cutoff), c.quad_degree * share(c.quad_cutoff), c.spherical
        together = k * (1 + 0.2 * k)
        products = sum((s - j) ** 2 for j in range(s))
        return {
            "trip": (s * k + 0.2 * k * k) ** -0.5,
            "e2a": s**-0.5 / together,
            "a2a": together**-0.5,
            "quad": (products * k * q) ** -0.5,
            "update": together**-0.5,
        }
