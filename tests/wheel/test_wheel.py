"""The wheel, built and run where nothing is installed but what its metadata requires."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

import forcelaw

ROOT = Path(__file__).parents[2]
TABLE = "params,tokens,val_loss,run_name\n" + "\n".join(
    f"{n:g},{d:g},{0.1 + 30 * n**-0.4 + 90 * d**-0.45:.6f},{n:g}-{d:g}"
    for n in (1e4, 3e4, 1e5, 3e5, 1e6)
    for d in (1e5, 1e6, 1e7, 1e8)
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools writes into the directory that it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "src",
            "pyproject.toml",
            "*.md",
            "LICENSE",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(out)]
    pip = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    subprocess.run(pip, check=True, timeout=100)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a Python that sees the wheel and its base requirements only."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (metadata,) = site.glob("*.dist-info/METADATA")
    wanted = base_requirements(metadata.read_text().splitlines())
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        wanted += base_requirements(f"Requires-Dist: {line}" for line in found.requires or [])
        for top in {file.parts[0] for file in found.files or []} - {".."}:
            link = site / top
            if not link.exists() and top != "__pycache__":
                link.symlink_to(Path(str(found.locate_file(top))).resolve())
    return {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def base_requirements(lines) -> list[str]:
    """Names of the requirements that stand under no condition."""
    found = (re.match(r"Requires-Dist: ([\w.-]+)[^;]*$", line) for line in lines)
    return [match[1] for match in found if match]


def forcelaw_command(bare, folder, *words):
    """``forcelaw WORDS`` in ``folder``, without site-packages (-S)."""
    return subprocess.run(
        [sys.executable, "-S", "-m", "forcelaw.cli", *words],
        cwd=folder,
        env=bare,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_the_wheel_holds_what_is_not_python(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "forcelaw/py.typed" in names
    assert any(name.startswith("forcelaw/data/sample/") for name in names)
    assert any(name.startswith("forcelaw/report/") and name.endswith(".j2") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
    assert wheel.name.startswith(f"forcelaw-{forcelaw.__version__}-")


def test_laws_are_fitted_without_torch(bare, tmp_path):
    (tmp_path / "runs.csv").write_text(TABLE)
    done = forcelaw_command(bare, tmp_path, "fit", "runs.csv", "--law", "surface")
    assert done.returncode == 0, done.stderr
    assert "alpha" in done.stdout and "beta" in done.stdout
    absent = "import sys, importlib.util as u; print(u.find_spec('torch'), u.find_spec('h5py'))"
    seen = subprocess.run(
        [sys.executable, "-S", "-c", absent], env=bare, capture_output=True, text=True, check=True
    )
    assert seen.stdout.split() == ["None", "None"]
