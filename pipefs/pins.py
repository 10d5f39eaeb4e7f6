"""What of a pipe is kept in this machine's cache: a small file in the pipe's local state.

Paths of the present (their new versions take the place of the old ones) and of snapshots, which do
not change. The cache knows which versions that means now; it can be lost, this file says it anew.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import xxhash

from pipefs.cachemessages import CacheFilled, UnpinPath
from pipefs.errors import Corrupt, NotFound
from pipefs.home import make_private
from pipefs.manifest import Entry, names_in
from pipefs.past.views import PastView
from pipefs.tomlfile import write_file
from pipefs.turns import turn
from pipefs.types import ROOT_INO, ContentRef
from pipefs.volume import Volume
from pipefs.warming import File, Warmed

FILE = "pins.json"
_WAIT_S = 10.0
_BATCH = 500
_TOLD = 100
"""Failures that an answer names."""


class Pin(msgspec.Struct, frozen=True):
    path: str = ""
    """In the pipe; "" is all of it."""
    snapshot: str = ""
    """What it stands for, `snapshot:ID` or `moment:NS`; "": the present."""
    label: str = ""
    """What the user called the snapshot."""

    @property
    def place(self) -> tuple[str, str]:
        """What makes two pins the same."""
        return self.path, self.snapshot


def owner_of(pipe_id: str) -> bytes:
    """Under which the cache keeps a pipe's pins."""
    return xxhash.xxh3_128_digest(b"pins\0" + pipe_id.encode())


def load(state: Path) -> list[Pin]:
    """The pins of a pipe; `state` is its folder."""
    try:
        return msgspec.json.decode((state / FILE).read_bytes(), type=list[Pin])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{state / FILE} is damaged: {e}", hint="Delete it, and pin again") from e


def change(state: Path, how: Callable[[list[Pin]], Sequence[Pin]]) -> list[Pin]:
    """Replace the pins by what `how` makes of them, durably; the new ones. It may raise."""
    make_private(state)
    with turn(state / "pins.lock", _WAIT_S, "the list of pins"):
        found = list(how(load(state)))
        write_file(state / FILE, msgspec.json.encode(found))
    return found


def with_pin(pins: Sequence[Pin], one: Pin) -> list[Pin]:
    return [*(p for p in pins if p.place != one.place), one]


def without(pins: Sequence[Pin], request: UnpinPath, name: str) -> list[Pin]:
    """The others. A snapshot is found by what it was called when it was pinned, since it may be
    gone by now. Raises `NotFound` where nothing fits."""
    if request.all:
        return []
    path, label = "/".join(map(os.fsdecode, names_of(request.path))), request.snapshot or ""
    left = [p for p in pins if (p.path, p.label) != (path, label)]
    if len(left) == len(pins):
        at, below = f"@{label}" if label else "", f"/{path}" if path else ""
        raise NotFound(f"{name}{at}{below} is not pinned", hint="What is: pipefs pin")
    return left


def names_of(path: str) -> list[bytes]:
    return [n for n in os.fsencode(path).split(b"/") if n]


def all_files(state: Path, files_of: Callable[[Pin], Sequence[File]]) -> list[File]:
    """Files of all pins of a pipe, each version once; what was deleted is left out."""
    found: dict[ContentRef, File] = {}
    for pin in load(state):
        try:
            for file in files_of(pin):
                found.setdefault(file.ref, file)
        except NotFound:
            continue  # It may come back.
    return list(found.values())


def filled(done: Warmed, seconds: float) -> CacheFilled:
    return CacheFilled(
        files=done.files,
        bytes=done.bytes,
        fetched_files=done.fetched_files,
        fetched_bytes=done.fetched_bytes,
        failed=dict(islice(done.failed.items(), _TOLD)),
        failed_count=len(done.failed),
        seconds=seconds,
    )


# --- which versions that means ----------------------------------------------------------------


def files_of_view(view: PastView, names: Sequence[bytes]) -> Iterator[File]:
    """Regular files of a past tree at and below a path. Waits for the store.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    empty = True
    for entry in view.entries(names):
        empty = False
        if (ref := _ref(entry)) is not None:
            yield File(os.fsdecode(b"/".join(names_in(entry.path))), ref)
    if empty and names:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _ref(entry: Entry) -> ContentRef | None:
    if entry.kind != "file" or not entry.etag:
        return None
    return ContentRef(entry.object_key, entry.version, entry.etag, entry.size)


def files_of_volume(volume: Volume, names: Sequence[bytes]) -> Iterator[File]:
    """Files of the live tree whose bytes are in the store; what waits here is on this disk anyway.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    path = b"/".join(names)
    node = volume.inode(volume.resolve(path)) if names else volume.inode(ROOT_INO)
    if not node.is_dir:
        if node.is_file and node.content is not None:
            yield File(os.fsdecode(path), node.content.ref())
        return
    todo = [(path, node.ino)]
    while todo:
        above, ino = todo.pop()
        after = b""
        while rows := volume.children(ino, after, _BATCH):
            after = rows[-1][0]
            for name, child in volume.child_inodes(rows):
                full = above + b"/" + name if above else name
                if child.is_dir:
                    todo.append((full, child.ino))
                elif child.is_file and child.content is not None:
                    yield File(os.fsdecode(full), child.content.ref())
