"""From the overlay to the store: copies after renames, and markers of empty directories.

A rename is local and immediate; the objects follow, by server-side copies of exactly the version
that the file has, and the old keys are deleted after that. Same shape as `pipefs.transfers`: each
call does one thing whole, and a crash in between repeats it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable

from pipefs import latest, links, namespace, tree
from pipefs.attributes import metadata_of
from pipefs.conditional import ConditionalStore
from pipefs.content import ContentReader
from pipefs.db import StateDB, Txn, View
from pipefs.keys import PARKED, is_natural, names_of, stands_for_a_path
from pipefs.policy import Policy
from pipefs.records import (
    Content,
    Dirty,
    Inode,
    decode_content,
    encode,
    ino_key,
    key_id,
)
from pipefs.sent import Sent, landed, row, will_send
from pipefs.types import ObjectVersion

log = logging.getLogger(__name__)


def expected_at(v: View, key: str, node: Inode | None, ino: int = 0) -> Content | None:
    """The version this machine believes is current at a key; None: there should be none."""
    if node is not None and node.content is not None and node.content.key == key:
        return node.content
    raw = v.get("gone", key_id(key))
    if raw is not None:
        return decode_content(raw)
    base = tree.base_inode(v, ino)
    if base is not None and base.content is not None and base.content.key == key:
        return base.content
    other = occupant(v, key, ino)
    return other.content if other is not None else None


def occupant(v: View, key: str, ino: int) -> Inode | None:
    """Another live file whose bytes are still the object at this key: it was renamed, and its
    object has not followed yet."""
    raw = v.get("bykey", key_id(key))
    indexed = int.from_bytes(raw, "big") if raw is not None else 0
    for at in (tree.base_walk(v, names_of(key)), indexed):
        other = tree.inode(v, at) if at and at != ino else None
        if other is None or not other.parent or other.content is None:
            continue
        if other.content.key == key and not other.dirty & Dirty.CONTENT:
            return other
    return None


def is_moving(v: View, node: Inode) -> bool:
    """Whether the object of a renamed file is about to follow it, alone or with a directory."""
    ino = node.ino
    while ino and not v.has("relocate", ino_key(ino)):
        above = tree.inode(v, ino)
        ino = above.parent if above is not None else 0
    return ino != 0


def makes_way(v: View, other: Inode, ino: int) -> bool:
    """Whether the occupant of a key that `ino` wants leaves it by itself: not where both wait for
    each other, as after an exchange."""
    if not is_moving(v, other):
        return False
    waiting = {ino}
    while other.ino not in waiting:
        waiting.add(other.ino)
        names = tree.names_to(v, other.ino)
        following = occupant(v, tree.key_for(v, names), other.ino) if names else None
        if following is None:
            return True
        other = following
    return False


def follow_name(t: Txn, ino: int, content: Content) -> None:
    """Renamed while its object was under way: the object is to follow."""
    names = tree.names_to(t, ino)
    if names and not is_natural(content.key, names):
        t.put("relocate", ino_key(ino), b"%d" % time.time_ns())
        namespace.remember_key(t, ino, content)


def forget_key(t: Txn, ino: int, content: Content) -> None:
    """A file's object has left a key that was not its path's."""
    base = tree.base_inode(t, ino)
    known = base is not None and base.content is not None and base.content.key == content.key
    if not known and t.get("bykey", key_id(content.key)) == ino_key(ino):
        t.delete("bykey", key_id(content.key))


def remember_path(t: Txn, ino: int, key: str) -> None:
    """A listing may show the object before its commit is out: its key does not tell its path."""
    if stands_for_a_path(key):
        t.put("bykey", key_id(key), ino_key(ino))


class Relocator:
    """One pipe's copies and markers. Thread-safe."""

    def __init__(
        self,
        db: StateDB,
        store: ConditionalStore,
        reader: ContentReader,
        policy: Policy,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = db
        self._store = store
        self._reader = reader
        self._policy = policy
        self._clock = clock

    # --- copies after renames -----------------------------------------------------------------

    def due(self, limit: int = 1000, *, force: bool = False) -> list[int]:
        """Inodes whose objects, or those below them, do not have their path's key yet and that
        have been left alone for the quiet period (or not, with `force`)."""
        quiet = 0 if force else int(self._policy.quiet_period_s * 1e9)
        horizon = self._clock() - quiet
        with self._db.view() as v:
            rows = v.scan("relocate", limit=limit)
            return [int.from_bytes(k, "big") for k, raw in rows if int(raw or b"0") <= horizon]

    def waits(self, ino: int) -> bool:
        """Whether this inode's object, or one below it, still has to follow a rename."""
        with self._db.view() as v:
            return v.has("relocate", ino_key(ino))

    def relocate(self, ino: int) -> bool:
        """Copy one file's object to its path's key, or plan that for a directory's files; False:
        another file's object is to leave that key first."""
        with self._db.update() as t:
            node = tree.inode(t, ino)
            names = tree.names_to(t, ino) if node is not None else None
            if node is None or not names:
                t.delete("relocate", ino_key(ino))
                return True
            if node.is_dir:
                self._plan(t, node)
                return True
            local = links.all_local(t, node, names, self._policy.stays_local)
            if local or self._needs_no_copy(t, node, names):
                t.delete("relocate", ino_key(ino))
                return True
            key = tree.key_for(t, names)
            other = occupant(t, key, ino)
            if other is not None and makes_way(t, other, ino):
                return False
        with self._store.alone(key) as free:
            return free and self._move(node, other, key)

    def _move(self, node: Inode, other: Inode | None, key: str) -> bool:
        if other is not None and other.content is not None:
            # What a file remembers is what its key has: else it could not be renamed back to it,
            # and without versions its bytes would be gone. They wait elsewhere for their turn.
            self._copy(other, other.content, f"{PARKED}{uuid.uuid4().hex}", None)
        with self._db.view() as v:
            expected = expected_at(v, key, None, node.ino)
        assert node.content is not None
        self._copy(node, node.content, key, expected)
        return True

    @staticmethod
    def _plan(t: Txn, node: Inode) -> None:
        # With the time of its own rename: who waits for that one waits for what it led to.
        planned = t.get("relocate", ino_key(node.ino)) or b"0"
        for _, entry in tree.children(t, node.ino):
            t.put("relocate", ino_key(entry.ino), planned)
        t.delete("relocate", ino_key(node.ino))
        marker = t.get("markers", ino_key(node.ino))
        if marker:  # its marker object is named after the old path
            namespace.want_gone(t, decode_content(marker))
            t.delete("markers", ino_key(node.ino))
        if tree.is_empty(t, node.ino):
            namespace.want_marker(t, node.ino)

    @staticmethod
    def _needs_no_copy(v: View, node: Inode, names: list[bytes]) -> bool:
        if not node.is_file or node.content is None:
            return True
        # A file with new bytes goes up under its new key anyway.
        return bool(node.dirty & Dirty.CONTENT) or is_natural(node.content.key, names)

    def _copy(self, node: Inode, old: Content, key: str, expected: Content | None) -> None:
        done = self._copied_before(node, old, key)
        if done is None:
            will_send(self._db, Sent(key, node.ino, etag=old.etag, size=old.size))
            done = self._store.copy(old, key, expected)
        new = Content(key, done.version_id, done.etag, old.size, old.checksum)
        self._reader.share_blocks(old.ref(), new.ref())
        with self._db.update() as t:
            live = tree.inode(t, node.ino)
            landed(t, new, expected)
            if live is None or not live.parent or not old.same_version(live.content):
                namespace.want_gone(t, new)
                return
            live.content = new
            live.dirty |= Dirty.ANNOUNCE
            tree.put_inode(t, live)
            t.delete("relocate", ino_key(node.ino))
            forget_key(t, node.ino, old)
            follow_name(t, node.ino, new)
            remember_path(t, node.ino, key)
            namespace.want_gone(t, old)
            if not t.count("relocate"):
                latest.forget(t)

    def _copied_before(self, node: Inode, old: Content, key: str) -> ObjectVersion | None:
        """This very copy, if it landed though its answer was lost."""
        with self._db.view() as v:
            earlier = row(v, key)
        if earlier is None or (earlier.ino, earlier.etag) != (node.ino, old.etag):
            return None
        found = self._store.current(key)
        return found if earlier.is_it(found) else None

    # --- directory markers --------------------------------------------------------------------

    def markers(self, limit: int = 1000) -> list[int]:
        """Directories that may want a marker object now."""
        with self._db.view() as v:
            return [
                int.from_bytes(k, "big") for k, raw in v.scan("markers", limit=limit) if not raw
            ]

    def mark_directory(self, ino: int) -> bool:
        """Put `dir/` for a directory that stayed empty for the quiet period; True if settled."""
        quiet = int(self._policy.quiet_period_s * 1e9)
        with self._db.update() as t:
            node = tree.inode(t, ino)
            names = tree.names_to(t, ino) if node is not None else None
            if node is None or not names or not tree.is_empty(t, ino):
                t.delete("markers", ino_key(ino))
                return True
            if self._clock() - node.mtime_ns < quiet or self._policy.stays_local(names):
                return False
            key = tree.key_for(t, names)
            if stands_for_a_path(key):
                t.delete("markers", ino_key(ino))  # a marker says its directory's path, or nothing
                return True
            key += "/"
        done = self._store.put(key, b"", metadata_of(node, node.mtime_ns), "", None)
        content = Content(key, done.version_id, done.etag, 0)
        with self._db.update() as t:
            live = tree.inode(t, ino)
            if live is None or tree.names_to(t, ino) != names:
                namespace.want_gone(t, content)
            else:
                t.put("markers", ino_key(ino), encode(content))
                t.delete("gone", key_id(key))
        return True
