"""What changed in the base since the last manifest that this machine knows.

The fact `baseline` names a manifest; the table `touched` has each path that may be different in the
base by now, so that the next manifest is made of the old one's parts and of what changed. Without
a baseline nothing is recorded. Works in the caller's transaction; no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from pipefs import tree
from pipefs.db import Txn, View
from pipefs.records import ino_key

LIMIT = 100_000
"""Beyond this many a manifest made anew is not much more work."""

_LINKS_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Touched:
    """A path that may have changed; with `below` also everything under it."""

    names: list[bytes]
    below: bool


def record(t: Txn, names: list[bytes], *, below: bool = False) -> None:
    """A name of the base was put, changed or dropped. The root needs no record."""
    if not names or not tree.fact(t, "baseline"):
        return
    path = b"\0".join(names)
    key = xxhash.xxh3_128_digest(path)
    known = t.get("touched", key)
    if known is not None and (known[:1] == b"1" or not below):
        return
    if known is None and t.count("touched") >= LIMIT:
        forget_baseline(t)
        return
    t.put("touched", key, (b"1" if below else b"0") + path)


def record_inode(t: Txn, ino: int, *, below: bool = False) -> None:
    """As `record`, by the inode that has the name in the base."""
    if not tree.fact(t, "baseline"):
        return
    names = tree.base_names_to(t, ino)
    if names is not None:
        record(t, names, below=below)


def record_links(t: Txn, ino: int, *, below: bool = False) -> None:
    """A file (`below`: a directory) has another path: so say the lines of its hard links."""
    if not tree.fact(t, "baseline") or not t.count("links"):
        return
    if below and t.count("links") > _LINKS_LIMIT:
        forget_baseline(t)
        return
    rows = t.scan("links") if below else t.scan("links", ino_key(ino), ino_key(ino + 1))
    for key, _ in list(rows):
        record_inode(t, int.from_bytes(key[8:], "big"))


def forget_baseline(t: Txn) -> None:
    """Too much changed, or nobody knows what: the next manifest is made anew."""
    tree.set_fact(t, "baseline", b"")


def baseline(v: View) -> str:
    """Name of the manifest that the records are relative to; "" for none."""
    return tree.fact(v, "baseline").decode()


def all_of(v: View) -> list[Touched]:
    """What was recorded, in no order."""
    return [Touched(raw[1:].split(b"\0"), raw[:1] == b"1") for _, raw in v.scan("touched")]


def start(t: Txn, root: str) -> None:
    """The base is as this manifest says: forget what was recorded."""
    for key, _ in list(t.scan("touched")):
        t.delete("touched", key)
    tree.set_fact(t, "baseline", root.encode())
