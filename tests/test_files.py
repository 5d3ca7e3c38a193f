"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from forcelaw.files import whole, write_json
from forcelaw.study import export
from tests.report import synthetic

pytestmark = pytest.mark.timeout(60)


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_that_is_half_written_leaves_the_old_one_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and listed(tmp_path) == ["table.csv"]
    with whole(path) as temporary:
        assert temporary.suffix == path.suffix
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and listed(tmp_path) == ["table.csv"]
    for full in (OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "no", str(temporary))):
        with pytest.raises(OSError, match=r"table\.csv"), whole(path) as temporary:
            if full.filename:
                full.filename = str(temporary)
            raise full


def test_links_and_pipes_stay_what_they_are(tmp_path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "page.json"
    link.symlink_to(tmp_path / "disk" / "page.json")
    write_json(link, {"a": 1})
    assert link.is_symlink() and (tmp_path / "disk" / "page.json").is_file()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with whole(pipe) as temporary:
        assert temporary == pipe
    assert pipe.is_fifo()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_evidence_is_not_lost_to_a_full_disk(tmp_path, monkeypatch, kind) -> None:
    synthetic.write_study(tmp_path / "out", synthetic.TRIO[:1], seeds=1, points=3)
    export.write_evidence(tmp_path / "out", tmp_path / "evidence", kind)
    before = {p.name: p.read_bytes() for p in (tmp_path / "evidence").iterdir()}

    def full(first, *_, **__):
        if isinstance(first, Path):
            first.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    if kind == "csv":
        monkeypatch.setattr(export.csv.DictWriter, "writerows", full)
    else:
        frame = type(export.frame([]))
        monkeypatch.setattr(frame, "write_parquet", lambda self, path, **_: full(path))
    with pytest.raises(OSError, match="No space"):
        export.write_evidence(tmp_path / "out", tmp_path / "evidence", kind)
    assert {p.name: p.read_bytes() for p in (tmp_path / "evidence").iterdir()} == before
