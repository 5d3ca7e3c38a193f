"""Archives of studies and packs that travel (contrib/travel), damaged or made to do harm: they
arrive whole or not at all, and nothing is written elsewhere."""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forcelaw.files import file_sha256
from tests.fuzz.damage import damage_bytes
from tests.fuzz.evidence import BAIT, MOST, NAMES, change
from tests.fuzz.isolated import Wrong
from tests.packs import write_pack
from tests.report import synthetic

sys.path.insert(0, str(Path(__file__).parents[2] / "contrib" / "travel"))
import state

KINDS = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
KINDS += [tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE]


def make(folder: Path) -> None:
    """A pack and a study, as archives of one part or of several."""
    write_pack(folder / "from" / "pack")
    pair = [synthetic.LADDER[0], synthetic.LADDER[4]]
    synthetic.write_study(folder / "from" / "study", pair, sizes=(2_000,), seeds=1, points=6)
    state.export_files(folder / "from" / "pack", folder / "pack", "x", part=3000)
    state.export_study(folder / "from" / "study", folder / "study", "x", part=10**6, most=1)


def case(sound: Path, work: Path, chance: random.Random) -> tuple[str, Callable[[], None]]:
    """Import one archive into a new place."""
    work.mkdir()
    bait = work.parent / "bait"
    bait.write_bytes(BAIT)
    kind = chance.choice(["pack", "study"])
    shutil.copytree(sound / kind, work / "parts")
    parts = sorted((work / "parts").iterdir())
    if chance.random() < 0.5:
        done = damage_bytes(chance.choice(parts), chance)
    else:
        done = _written_again(parts, bait, chance)

    def call() -> None:
        state.import_archive([work / "parts"], work / "to" / "new")
        new = {str(p.relative_to(work)) for p in work.rglob("*")}
        outside = {p for p in new if p.split("/")[0] not in ("parts", "to")}
        if outside or Path(NAMES[1]).exists() or (work.parent / "escaped").exists():
            raise Wrong(f"written elsewhere: {outside}")
        if bait.read_bytes() != BAIT:
            raise Wrong("a file that a link leads to was changed")
        if sum(p.lstat().st_size for p in (work / "to").rglob("*")) > MOST:
            raise Wrong("far too much was written")
        if kind == "pack" and "index" not in done:
            for path in (sound / "from" / "pack").iterdir():
                if file_sha256(path) != file_sha256(work / "to" / "new" / path.name):
                    raise Wrong(f"{path.name} is not what was sent")

    return f"{kind}: {done}", call


def _written_again(parts: list[Path], bait: Path, chance: random.Random) -> str:
    """The archive as one part, with another index, or members that it does not name or that are
    none, or that are longer than it says."""
    whole = b"".join(part.read_bytes() for part in parts)
    name = parts[0].name.split(".tar")[0] + ".tar.1-of-1"
    for part in parts:
        part.unlink()
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive if m.isfile()]
    what = chance.choice(["index", "name", "kind", "long", "twice", "no index", "link out"])
    index: Any = json.loads(members[0][1])
    if what == "index":
        what = f"index: {change(index, chance)}"
    elif what == "long":
        members[-1] = (members[-1][0], bytes(chance.choice([10, 10**6, 10**8])))
    elif what == "twice":
        members.append(members[-1])
    elif what == "no index":
        what = "no index"
        members[0] = ("other.json", members[0][1])
    if members[0][0] == "index.json":
        members[0] = ("index.json", json.dumps(index).encode())
    with tarfile.open(parts[0].parent / name, "w") as archive:
        odd = chance.randrange(len(members))
        for k, (inside, data) in enumerate(members):
            info = tarfile.TarInfo(inside)
            info.size = len(data)
            if k == odd and what == "name":
                info.name = chance.choice(NAMES[:3])
            if k == odd and what in ("kind", "link out"):
                info.type = chance.choice(KINDS) if what == "kind" else tarfile.SYMTYPE
                info.linkname, info.size = str(bait), 0
            archive.addfile(info, io.BytesIO(data if info.size else b""))
    return f"member {odd}: {what}" if what in ("name", "kind", "link out") else what
