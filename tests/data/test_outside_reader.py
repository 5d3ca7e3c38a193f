"""A reader from outside the package: a text format of our own making, named by its import path and
by an entry point, checked, prepared and trained on."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest

from forcelaw.cli.main import main
from forcelaw.data.pack import Pack
from forcelaw.data.readers import SourceOptions, open_source
from forcelaw.errors import DataError

from . import files

READER = '''
    """Lines "energy Z x y z fx fy fz Z x y z ...", one a structure, in eV and Angstrom."""
    import numpy as np
    from forcelaw.data.readers import Source, choose_units, gather, one_structure

    UNITS = {"energy": "eV", "length": "Angstrom"}

    def open_lines(path, options):
        units = choose_units(options, UNITS, "defined by the format", path)

        def blocks():
            with path.open() as file:
                for k, line in enumerate(file):
                    energy, *atoms = map(float, line.split())
                    atoms = np.array(atoms).reshape(-1, 7)
                    yield one_structure(
                        atoms[:, 0].astype(int), atoms[:, 1:4] * units.to_angstrom,
                        energy * units.to_ev, atoms[:, 4:] * units.to_ev_per_angstrom,
                        first=k, where=f"{path}, line {k + 1}",
                    )

        return Source(path, "lines", ["energy", "forces"], {"energy": "energy", "forces": "forces"},
                      units, lambda: gather(blocks()))
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder on the path with the reader, an installed package's entry point for it, and data."""
    folder = tmp_path / "site"
    info = folder / "lines-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "lines_reader.py").write_text(textwrap.dedent(READER))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lines\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[forcelaw.readers]\nlines = lines_reader:open_lines\n")
    monkeypatch.syspath_prepend(str(folder))
    frames = files.molecules(40)
    rows = [
        [f["energy"], *np.column_stack([f["numbers"], f["positions"], f["forces"]]).reshape(-1)]
        for f in frames
    ]
    text = "\n".join(" ".join(repr(float(v)) for v in row) for row in rows)
    (tmp_path / "a.lines").write_text(text + "\n")
    (tmp_path / "a.txt").write_text(text + "\n")
    return tmp_path, frames


def test_the_suffix_finds_an_installed_reader_and_a_path_needs_none(outside):
    folder, frames = outside
    for name, reader in (("a.lines", None), ("a.txt", "lines_reader:open_lines")):
        source = open_source(folder / name, SourceOptions(reader=reader))
        (block,) = source.blocks()
        assert block.energies.tolist() == [f["energy"] for f in frames]
        assert block.place(7).endswith("line 8")
    with pytest.raises(DataError) as error:
        open_source(folder / "a.txt")
    assert ".lines" in error.value.remedy and "lines" in error.value.remedy


def test_it_is_prepared_and_trained_on(outside, capsys):
    folder, frames = outside
    assert main(["data", "check", str(folder / "a.lines")]) == 0
    words = ["data", "prepare", str(folder / "a.txt"), "--reader", "lines_reader:open_lines"]
    words += ["--group", "frame", "--val-fraction", "0.3", "--out", str(folder / "pack")]
    assert main(words) == 0
    pack = Pack(folder / "pack")
    assert len(pack) == 40 and pack.energies.tolist() == [f["energy"] for f in frames]
    words = ["train", "mpnn", "--size", "2e3", "--data", str(folder / "pack")]
    words += ["--epochs", "1", "--device", "cpu", "--out", str(folder / "runs")]
    capsys.readouterr()
    assert main(words) == 0, capsys.readouterr()
    assert list((folder / "runs").rglob("result.json"))
