"""What a replica shows while it is open: paths and what is at them, and commits of one's own.

Paths here are text as a file system of this machine has them (`os.fsdecode`), relative to the
pipe, with "/" between names; "" is the root. Commits and keys are escaped (`pipefs.keys`).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from pipefs import links, manifest, tree
from pipefs.catalog import Catalog
from pipefs.commits import Change, Position
from pipefs.db import StateDB, View
from pipefs.errors import Busy, UsageError
from pipefs.follow import Follower
from pipefs.past.entries import entry_of
from pipefs.records import NO_MODE, Content, Inode, ino_of, key_id
from pipefs.relocation import expected_at, occupant
from pipefs.stores.base import Capabilities, Store
from pipefs.types import ROOT_INO, ObjectVersion

STALE_S = 300.0
"""Age of the last listing from which a pipe is listed again for what other tools wrote."""

USER = "user."
"""Prefix of the extended attributes that hold metadata."""

_BATCH = 500
"""Names in one read transaction: a few milliseconds."""
_ROUNDS = 50
"""Commits for what a lost log had said, after which something is wrong."""

_KINDS = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}
_NOTHING: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Item:
    """One path of a pipe. Times in ns since the epoch, sizes in bytes."""

    path: str
    kind: str
    """file, dir, symlink, or special (FIFOs, sockets, devices). A hard link is a file."""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    mode: int | None = None
    """Permission bits; None: nobody set any."""
    uid: int | None = None
    """As stored; None: nobody's."""
    gid: int | None = None
    key: str = ""
    """Of a file: its object's key in the store, mostly the path."""
    version_id: str | None = None
    """None on stores without versions."""
    etag: str = ""
    checksum: str = ""
    """`sha256:<hex>` of the content, where known."""
    target: str = ""
    """Of a symbolic link."""
    link_of: str = ""
    """Of a further name of a file (a hard link): the path that its object follows."""
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: _NOTHING)

    @property
    def is_file(self) -> bool:
        return self.kind == "file"

    @property
    def version(self) -> str:
        """What tells this content from the one before: version id, without versions the ETag."""
        return self.version_id or self.etag

    @property
    def metadata(self) -> dict[str, str]:
        """What users said of it: attributes `user.*` that are text, without the prefix."""
        found = {}
        for name, value in self.xattrs.items():
            if name.startswith(USER):
                try:
                    found[name.removeprefix(USER)] = value.decode("utf-8", "surrogatepass")
                except UnicodeDecodeError:
                    continue
        return found

    @property
    def object_version(self) -> ObjectVersion:
        """For `Store.get` and `Store.copy`."""
        return ObjectVersion(self.key, self.version_id, self.etag, self.size)

    def content(self) -> Content:
        return Content(self.key, self.version_id, self.etag, self.size, self.checksum)


def to_names(path: str) -> list[bytes]:
    """The names of a path.

    Raises:
        UsageError: a name that no file can have, or one of pipefs' own.
    """
    names = [os.fsencode(n) for n in path.strip("/").split("/")] if path.strip("/") else []
    for name in names:
        if name in (b"", b".", b"..") or b"\0" in name:
            raise UsageError(
                f"{path!r} is no path in a pipe",
                hint="Names between single slashes, without . and ..",
            )
    if b".snapshots" in names or names[:1] == [b".pipefs"]:
        raise UsageError(f"{path!r} belongs to pipefs", hint="Choose another name")
    return names


def to_path(names: Sequence[bytes]) -> str:
    return "/".join(map(os.fsdecode, names))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path's object is to be."""

    key: str
    there: Content | None
    """What the tree knows to be at the key, whoever's it is; None: nothing."""
    taken: bool
    """That is another file's: it was renamed, and its object has not followed yet."""


class Endpoint(Protocol):
    """Whose tree it is."""

    @property
    def store(self) -> Store: ...

    @property
    def capabilities(self) -> Capabilities: ...


class Now:
    """The tree of a replica inside `Replica.opened`. Of the thread that opened it."""

    def __init__(
        self, endpoint: Endpoint, db: StateDB, follower: Follower, start: Callable[[], bool]
    ) -> None:
        """`start` fills an empty tree from the newest snapshot, if there is one."""
        self._endpoint = endpoint
        self._db = db
        self._follower = follower
        self._start = start

    @property
    def store(self) -> Store:
        return self._endpoint.store

    @property
    def capabilities(self) -> Capabilities:
        return self._endpoint.capabilities

    def position(self) -> Position:
        """Our place in the log; it is the same on every machine that has followed as far."""
        return self._follower.position()

    def catalog(self) -> Catalog:
        """The pipe's snapshots."""
        return self._follower.catalog()

    def is_new(self) -> bool:
        """Whether nothing is known of the pipe yet."""
        return self._follower.must_relist()

    def close(self) -> None:
        self._db.close()

    # --- looking ------------------------------------------------------------------------------

    def entry(self, path: str) -> Item | None:
        """What is at a path, or None."""
        with self._db.view() as v:
            names = to_names(path)
            node = tree.walk(v, names)
            return _item(v, node, to_path(names)) if node is not None else None

    def place(self, path: str) -> Place:
        """Where the object of a file at this path goes. `OSError` ENAMETOOLONG: no key can be so
        long."""
        with self._db.view() as v:
            names = to_names(path)
            node = tree.walk(v, names)
            key = tree.key_for(v, names)
            ino = node.ino if node is not None else 0
            there = expected_at(v, key, node, ino)
            return Place(key, there, occupant(v, key, ino) is not None)

    def has_key(self, key: str) -> bool:
        """Whether a file's bytes are the object at a key that is not its path."""
        with self._db.view() as v:
            raw = v.get("bykey", key_id(key))
            node = tree.inode(v, ino_of(raw)) if raw is not None else None
            return node is not None and node.content is not None and node.content.key == key

    def links_of(self, path: str) -> list[str]:
        """Further names (hard links) of the file whose own name this is, the oldest first."""
        with self._db.view() as v:
            node = tree.walk(v, to_names(path))
            if node is None or node.is_dir or node.alias:
                return []
            places = [tree.names_to(v, link.ino) for link in links.of(v, node.ino)]
            return [to_path(names) for names in places if names]

    def is_empty(self, path: str) -> bool:
        """Whether a directory has nothing in it."""
        with self._db.view() as v:
            node = tree.walk(v, to_names(path))
            return node is None or tree.is_empty(v, node.ino)

    def walk(self, prefix: str = "") -> Iterator[Item]:
        """What is at and below a path, depth first, names of a directory in the order of their
        bytes, a directory before what is in it; the root itself is left out. A thousand names of
        memory; each few hundred are read at once.

        Args:
            prefix: a directory or a file; nothing is found where there is nothing.
        """
        names = to_names(prefix)
        with self._db.view() as v:
            node = tree.walk(v, names)
            found = _item(v, node, to_path(names)) if node is not None else None
        if node is None or found is None:
            return
        if names:
            yield found
        if node.is_dir:
            yield from self._below(node.ino, to_path(names))

    def children(self, path: str) -> Iterator[Item]:
        """What is in a directory, by the bytes of its names; nothing where there is none."""
        names = to_names(path)
        with self._db.view() as v:
            node = tree.walk(v, names)
        if node is not None and node.is_dir:
            for item, _ in self._children(node.ino, to_path(names)):
                yield item

    def _below(self, ino: int, path: str) -> Iterator[Item]:
        for item, _ in self._nodes(ino, path):
            yield item

    def _nodes(self, ino: int = ROOT_INO, path: str = "") -> Iterator[tuple[Item, int]]:
        stack = [self._children(ino, path)]
        while stack:
            for item, child in stack[-1]:
                yield item, child
                if item.kind == "dir":
                    stack.append(self._children(child, item.path))
                    break
            else:
                stack.pop()

    def _children(self, ino: int, path: str) -> Iterator[tuple[Item, int]]:
        after, above = b"", f"{path}/" if path else ""
        while True:
            with self._db.view() as v:
                rows = tree.children(v, ino, after, _BATCH)
                found = [
                    (_item(v, tree.need(v, entry.ino), above + os.fsdecode(name)), entry.ino)
                    for name, entry in rows
                ]
            yield from found
            if len(rows) < _BATCH:
                return
            after = rows[-1][0]

    def entries(self) -> Iterator[manifest.Entry]:
        """The whole tree as lines of a manifest, in the order of `walk`."""
        for item, ino in self._nodes():
            with self._db.view() as v:
                node = tree.need(v, ino)
                path = tree.path_text(to_names(item.path))
                link = tree.path_text(to_names(item.link_of)) if item.link_of else ""
                links_ = 0 if node.is_dir or link else len(links.of(v, ino))
            yield entry_of(node, path, link=link, links=links_)

    # --- the log ------------------------------------------------------------------------------

    def catch_up(self, *, cached: bool = True, listing: bool = True) -> None:
        """Follow the log; list where it is due."""
        if self.is_new():
            self._start()
        else:
            self._follower.check_log()
        if self.is_new() or (listing and (not cached or self._listed_s() > STALE_S)):
            self._follower.reconcile()
        else:
            self._follower.follow()
            if self.is_new():  # the log was replaced meanwhile
                self._follower.reconcile()
        self._announce()

    def _listed_s(self) -> float:
        with self._db.view() as v:
            at = tree.number(v, "listed")
        age_s = (time.time_ns() - at) / 1e9
        return age_s if age_s >= 0 else STALE_S + 1  # a clock that was set back says nothing

    def _announce(self) -> None:
        """What was committed to a log that somebody deleted is told to the new one."""
        with self._db.view() as v:
            owed = v.count("oinodes") or v.count("onames")
        if not owed or not self.capabilities.writable:
            return
        for _ in range(_ROUNDS):
            if not self._follower.announce()[1]:
                return
        raise Busy("other machines write this pipe so fast that nothing gets in; try again")

    def commit(self, changes: Sequence[Change] | Callable[[], Sequence[Change]]) -> int:
        """Announce changes whose objects are in the store as the next commit, all in one.

        Args:
            changes: or what says them from the tree as it is then; asked again when another
                machine was faster, and may raise to refuse.
        Returns:
            Its number in the log; 0 where there is nothing to announce.
        Raises:
            Busy: another machine writes, on a store where only one can. Store errors: whether it
            landed is seen at the next `opened`.
        """
        plan = changes if callable(changes) else lambda: changes
        return self._follower.commit(plan)[1]


def _item(v: View, node: Inode, path: str) -> Item:
    own = links.target(v, node)
    names = tree.names_to(v, own.ino) if node.alias else None
    return item_of(own, path, link_of=to_path(names) if names else "")


def item_of(node: Inode, path: str, *, link_of: str = "") -> Item:
    """What an inode is, at a path."""
    content = node.content if node.is_file else None
    return Item(
        path=path,
        kind=_KINDS.get(node.kind, "special"),
        size=node.size if content is None else content.size,
        mtime_ns=node.mtime_ns,
        ctime_ns=node.ctime_ns,
        mode=None if node.mode & NO_MODE else stat.S_IMODE(node.mode),
        uid=None if node.uid < 0 else node.uid,
        gid=None if node.gid < 0 else node.gid,
        key=content.key if content else "",
        version_id=content.version_id if content else None,
        etag=content.etag if content else "",
        checksum=content.checksum if content else "",
        target=os.fsdecode(node.target),
        link_of=link_of,
        xattrs={os.fsdecode(k): x for k, x in node.xattrs.items()} if node.xattrs else _NOTHING,
    )
