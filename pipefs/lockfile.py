"""`pipefs.lock`: which snapshot of each pipe a project reads, in git beside its code.

    pins = read(place())                         # name → Pin
    merge(place(), {"sales": pin_for(url, pipe_id, snapshot)})
    pinned("sales")                              # "sales@4f2a91c0…"

Values, rules and one file; asks no store and no registry. A pin names the snapshot by its whole id,
which stands for every version in it: a tag that moves, or a newer snapshot, changes nothing. The
text depends on the pins alone and is sorted by name, so git shows what changed and no more.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipefs.errors import NewerFormat, NotFound, Refused, UsageError
from pipefs.home import check_name
from pipefs.tomlfile import read_toml, write_file

if TYPE_CHECKING:
    from pipefs.catalog import Snapshot

FORMAT = 1
NAME = "pipefs.lock"
_HEAD = """\
# The snapshots of pipes that this project reads. Made by `pipefs lock`; keep it in git.
"""
_ID = re.compile(r"[0-9a-f]{64}\Z")


class Pin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One snapshot of one pipe. Only `url`, `pipe_id` and `snapshot` decide anything; the rest is
    for people who read a diff."""

    url: str
    pipe_id: str
    snapshot: str
    """The whole id, 64 hex digits."""
    tag: str = ""
    """A tag it had when it was pinned."""
    path: str = ""
    """The directory or file the snapshot is of; "" is the whole pipe."""
    commit: int
    root: str
    """Its manifest: `.pipefs/manifests/<root>.jsonl.gz`."""
    time: str
    """When it was taken, UTC."""

    @property
    def label(self) -> str:
        """`v1 4f2a91c`, for people."""
        short = self.snapshot[:7]  # As `Snapshot.short`.
        return f"{self.tag} {short}" if self.tag else short

    def same_snapshot(self, other: Pin) -> bool:
        """Whether both say the same; a tag may move without anything to read changing."""
        return msgspec.structs.replace(self, tag=other.tag) == other


def pin_for(url: str, pipe_id: str, snapshot: Snapshot, tag: str = "") -> Pin:
    """The pin of a snapshot.

    Args:
        tag: the one it was asked for by, which counts if the snapshot has it; else its first.
    """
    body = snapshot.body
    first = snapshot.tags[0] if snapshot.tags else ""
    return Pin(
        url=url,
        pipe_id=pipe_id,
        snapshot=snapshot.id,
        tag=tag if tag in snapshot.tags else first,
        path=body.path,
        commit=body.commit,
        root=body.root,
        time=body.time,
    )


def pinned(name: str, folder: str | Path | None = None) -> str:
    """The snapshot of a pipe that the project reads, as `NAME@ID`.

    That is also how `pipefs mount NAME --locked` calls the mount, so without a DIR its folder is:

        import pandas as pd
        from pathlib import Path
        from pipefs.lockfile import pinned

        sales = Path.home() / "pipes" / pinned("sales")
        frame = pd.read_csv(sales / "q3.csv")

    Args:
        folder: where to begin to look for `pipefs.lock`, upwards; the current folder.
    Raises:
        NotFound: there is no such file, or the pipe is not in it. UsageError: it cannot be read.
        NewerFormat: a newer pipefs wrote it.
    """
    return f"{name}@{pin_of(name, folder).snapshot}"


def pin_of(name: str, folder: str | Path | None = None) -> Pin:
    """The pin of a pipe. Arguments and errors as `pinned`."""
    check_name(name)
    file = find(folder)
    if file is None:
        raise NotFound(f"there is no {NAME} here or above", hint=f"Make it: pipefs lock {name}")
    pins = read(file)
    if name not in pins:
        near = difflib.get_close_matches(name, pins, n=3)
        guess = f"Did you mean {' or '.join(near)}? " if near else ""
        raise NotFound(f"{name} is not in {file}", hint=f"{guess}Pin it: pipefs lock {name}")
    return pins[name]


def check_same_pipe(name: str, pin: Pin, url: str, pipe_id: str) -> None:
    """
    Raises:
        Refused: the pipe of this name is another one than the project reads.
    """
    if (pin.url, pin.pipe_id) == (url, pipe_id):
        return
    here = url if pin.url != url else f"another pipe than the pinned one (id {pipe_id})"
    raise Refused(
        f"{name} is {here} here; {NAME} means {pin.url} (id {pin.pipe_id})",
        hint=f"Pin the one that is here: pipefs lock {name} · or give that name to the pinned "
        f"one: pipefs remove {name}, then pipefs create {name} {pin.url}",
    )


# --- where the file is --------------------------------------------------------------------------


def find(folder: str | Path | None = None) -> Path | None:
    """The nearest `pipefs.lock` from a folder upwards, not beyond the root of its git work tree.

    Args:
        folder: the current one if None.
    """
    for place in _upwards(folder):
        if (place / NAME).is_file():
            return place / NAME
    return None


def place(folder: str | Path | None = None) -> Path:
    """The file that `pipefs lock` writes: the one that `find` finds, else one at the root of the
    git work tree, else one in the folder itself."""
    found = find(folder)
    if found is not None:
        return found
    folders = list(_upwards(folder))
    return (folders[-1] if _is_work_tree(folders[-1]) else folders[0]) / NAME


def _upwards(folder: str | Path | None) -> Iterator[Path]:
    here = Path(os.path.abspath(os.getcwd() if folder is None else folder))
    for above in (here, *here.parents):
        yield above
        if _is_work_tree(above):
            return


def _is_work_tree(folder: Path) -> bool:
    # A file in submodules and in work trees of their own.
    return (folder / ".git").exists()


# --- what is in it ------------------------------------------------------------------------------


def read(file: Path) -> dict[str, Pin]:
    """Pins by name; {} where there is no file, or an empty one.

    Raises:
        UsageError: it is no lock file, such as one with the marks of a merge.
        NewerFormat: a newer pipefs wrote it.
    """
    try:
        content = read_toml(file)
    except UsageError as e:
        hint = f"After a merge: keep one side of {file.name}, then pipefs lock"
        raise UsageError(e.message, hint=hint) from e
    if not content:
        return {}
    found = content.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise NewerFormat(
            f"{file} was written by a newer pipefs (format {found}; this one knows {FORMAT})",
            hint="Upgrade: pip install -U pipefs",
        )
    pipes = content.get("pipes", {})
    if found != FORMAT or not isinstance(pipes, dict):
        raise UsageError(f"{file} is no lock file of pipefs", hint=f"It needs format = {FORMAT}")
    return {check_name(name): _pin(file, name, pipes[name]) for name in sorted(pipes)}


def _pin(file: Path, name: str, content: object) -> Pin:
    try:
        pin = msgspec.convert(content, Pin)
    except msgspec.ValidationError as e:
        raise _damaged(file, name, str(e)) from e
    if not _ID.match(pin.snapshot):
        raise _damaged(file, name, "snapshot is not an id of 64 hex digits")
    return pin


def _damaged(file: Path, name: str, what: str) -> UsageError:
    return UsageError(
        f"{file}: the pin of {name} cannot be read: {what}",
        hint=f"Delete its section, then pipefs lock {name}",
    )


def encode(pins: Mapping[str, Pin]) -> bytes:
    """The bytes of a lock file: they depend on the pins alone, not on the order of them."""
    import tomli_w  # Here: only commands that write pay for it.

    pipes = {name: msgspec.to_builtins(pins[name]) for name in sorted(pins)}
    return (_HEAD + tomli_w.dumps({"format": FORMAT, "pipes": pipes})).encode()


def merge(file: Path, changed: Mapping[str, Pin]) -> None:
    """Put pins into a lock file and leave the others as they are; atomic and durable. Two that
    do so at once both get theirs in. A link is followed.

    Raises:
        UsageError, NoSpace: it was not written. NewerFormat: as `read`.
    """
    file = Path(os.path.realpath(file))
    with _alone(file.parent):
        # Readable for all whom the umask lets: git asks for it, and it holds no secret.
        write_file(file, encode({**read(file), **changed}), mode=0o666)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time. The folder is what is locked: the file itself is replaced."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems lock no folders. The file is whole there all the same.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
