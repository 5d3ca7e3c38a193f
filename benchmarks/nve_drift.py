"""Does molecular dynamics with a trained run conserve energy? Relax, equilibrate with a Langevin
thermostat, then NVE; the drift is the slope of a line through the total energy.

    python benchmarks/nve_drift.py RUN FILE [--frame K] [--temperature 300] [--ps 20] [--fs 0.5]

FILE: any structure that ASE reads. Prints one row; the total energy is written to --trace.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import forcelaw
from forcelaw.errors import NotConservativeWarning


def equilibrate(atoms: Atoms, kelvin: float, fs: float, ps: float) -> None:
    """Thermal velocities, then Langevin dynamics."""
    rng = np.random.default_rng(0)
    spread = np.sqrt(2 * kelvin * units.kB * atoms.get_masses())  # half of it goes into potential
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * spread[:, None])
    thermostat = {"temperature_K": kelvin, "friction": 0.02 / units.fs, "rng": rng, "fixcm": False}
    Langevin(atoms, fs * units.fs, **thermostat).run(round(1e3 * ps / fs))
    Stationary(atoms)


def nve(atoms: Atoms, fs: float, ps: float, most: float) -> np.ndarray:
    """(rows, 3): time in ps, total energy in eV, temperature in K, every 10 steps. Ends early where
    the temperature passes ``most``."""
    dynamics, rows = VelocityVerlet(atoms, fs * units.fs), []
    for step in range(0, round(1e3 * ps / fs) + 1, 10):
        rows.append((step * fs / 1e3, atoms.get_total_energy(), atoms.get_temperature()))
        if rows[-1][2] > most:
            break
        dynamics.run(10)
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--frame", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=300.0)
    parser.add_argument("--ps", type=float, default=20.0)
    parser.add_argument("--equilibrate", type=float, default=2.0, help="ps")
    parser.add_argument("--fs", type=float, default=0.5)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--trace", type=Path)
    args = parser.parse_args()
    atoms = read(args.file, args.frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConservativeWarning)
        atoms.calc = forcelaw.Calculator(args.run, dtype=args.dtype)
    relaxed = BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
    equilibrate(atoms, args.temperature, args.fs, args.equilibrate)
    began = time.perf_counter()
    rows = nve(atoms, args.fs, args.ps, most=20 * args.temperature)
    steps, seconds = 10 * (len(rows) - 1), time.perf_counter() - began
    if args.trace:
        np.savetxt(args.trace, rows, header="ps eV K", fmt="%.6f")
    time_ps, energy, kelvin = rows.T
    energy = 1e3 * (energy - energy[0]) / len(atoms)
    slope, start = np.polyfit(time_ps, energy, 1) if len(rows) > 2 else (np.nan, np.nan)
    about = (energy - slope * time_ps - start).std()
    forces = atoms.calc.predictor.config.forces
    print(
        f"{atoms.get_chemical_formula()} {'periodic' if atoms.pbc.any() else 'molecule'}, {forces}"
        f" forces, {args.dtype}, {args.fs} fs, relaxed: {relaxed}; {time_ps[-1]:.2f} ps of NVE:"
        f" drift {slope:+.4f} meV/atom/ps, sd about it {about:.4f} meV/atom, last minus first"
        f" {energy[-1]:+.3f} meV/atom; {kelvin.mean():.0f} K on average, {kelvin[-1]:.0f} K at the"
        f" end; {1e3 * seconds / max(1, steps):.1f} ms a step,"
        f" {atoms.calc.neighbours.searches} neighbour searches"
    )


if __name__ == "__main__":
    main()
