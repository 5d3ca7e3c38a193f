"""Damage to bytes and to folders of files."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

WORDS = [
    *(b"-1", b"0", b"1e400", b"nan", b"-inf", b"99999999999999999999", b"1e12", b"''", b"null"),
    *(b"[" * 3000, b"{" * 3000, b"\xff\xfe", b"\x00" * 9, b"a" * 70_000, b"*t", b"!!float x"),
    *(b"\n\n", b",,,", b"../../x", b"\x1b[31m", b"=1+1", b"\xc3\x28", b"-", b":", b"\xf0\x9f\x98"),
]
KINDS = {  # kind of damage to bytes -> the most of its number, or None
    "flip": 7,
    "byte": 255,
    "cut": None,
    "remove": 64,
    "insert": None,
    "over": None,
    "number": None,
    "repeat": 400,
}


def damaged(data: bytes, how: tuple) -> bytes:
    """``data`` after (kind, place in 0..1, what)."""
    kind, spot, what = how
    at = int(spot * len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << what]) + data[at + 1 :] if data else data
    if kind == "byte":
        return data[:at] + bytes([what]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "remove":
        return data[:at] + data[at + what :]
    if kind == "insert":
        return data[:at] + what + data[at:]
    if kind == "over":
        return data[:at] + what + data[at + len(what) :]
    if kind == "repeat":
        return data[: at + what] + data[at:]
    digits = b"0123456789.+-eE"  # the number after that spot
    while at < len(data) and data[at] not in digits:
        at += 1
    end = at
    while end < len(data) and data[end] in digits:
        end += 1
    return data[:at] + what + data[end:]


def some(chance: random.Random) -> tuple:
    """A damage at random."""
    kind = chance.choice(list(KINDS))
    what = (
        chance.choice(WORDS)
        if kind in ("insert", "over", "number")
        else chance.randint(1, KINDS[kind] or 1)
    )
    return kind, chance.random(), what


def damage_bytes(path: Path, chance: random.Random) -> str:
    """One to three damages to a file; what was done. A link is left alone: what it leads to is
    somebody else's."""
    if path.is_symlink() or path.stat().st_size > 1 << 30:
        return f"{path.name} as it is"
    data, done = path.read_bytes(), []
    for _ in range(chance.randint(1, 3)):
        how = some(chance)
        data = damaged(data, how)
        done.append(f"{how[0]} at {how[1]:.4f} ({str(how[2])[:20]})")
    path.write_bytes(data)
    return f"{path.name}: {', '.join(done)}"


def _huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 41)  # a hole of 2 TB


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


PLACES = {
    "is gone": Path.unlink,
    "is empty": lambda path: path.write_bytes(b""),
    "is a folder": _folder,
    "is a pipe": _pipe,
    "is a device": _device,
    "links to nothing": lambda path: _link(path, "nowhere"),
    "links to itself": lambda path: _link(path, path.name),
    "links to a folder": lambda path: _link(path, "."),
    "has 2 TB": _huge,
    "is zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "is there twice": lambda path: shutil.copyfile(path, path.with_name(f"{path.stem} (copy)")),
    "stands where its folder was": lambda path: _instead_of_folder(path),
}


def _instead_of_folder(path: Path) -> None:
    content, folder = path.read_bytes(), path.parent
    shutil.rmtree(folder)
    folder.write_bytes(content)


def damage_file(path: Path, chance: random.Random) -> str:
    """Damage a file's bytes, or what stands in its place; what was done."""
    if chance.random() < 0.6:
        return damage_bytes(path, chance)
    what = chance.choice(list(PLACES))
    PLACES[what](path)
    return f"{path.name} {what}"
