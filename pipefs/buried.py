"""Versions that the log has left behind but the store still shows: known, and nobody's news.

A commit may come before the store follows: files that are published all at once wait below
`.pipefs/moving/` until the commit is there, and objects that it deletes go after it. Until then a
listing finds the old version at its key. Whoever applied the commit remembers it here, and does not
take it for the work of another tool.

The table `buried`: key_id → Content. Works in the caller's transaction; no I/O.
"""

from __future__ import annotations

from pipefs import tree
from pipefs.commits import Commit
from pipefs.db import Txn, View
from pipefs.keys import PARKED, names_of
from pipefs.records import Content, decode_content, encode, key_id
from pipefs.types import ObjectVersion


def record(t: Txn, commit: Commit) -> None:
    """What a commit leaves behind; called before it is applied."""
    for change in commit.changes:
        if change.op == "delete" and change.later:
            ino = tree.base_walk(t, names_of(change.path))
            node = tree.base_inode(t, ino) if ino is not None else None
            if node is not None and node.content is not None:
                t.put("buried", key_id(node.content.key), encode(node.content))
        elif change.op == "put" and change.key.startswith(PARKED):
            if change.replaces:
                old = Content(change.path, change.replaces, change.replaces, 0)
                t.put("buried", key_id(change.path), encode(old))
        elif change.op == "put" and t.count("buried"):
            t.delete("buried", key_id(change.key or change.path))


def has(v: View, found: ObjectVersion) -> bool:
    """Whether this is such a version."""
    raw = v.get("buried", key_id(found.key))
    return raw is not None and _is_it(decode_content(raw), found)


def _is_it(content: Content, found: ObjectVersion) -> bool:
    if found.version_id is not None:
        return found.version_id == content.version_id
    return found.etag == content.etag


class Watch:
    """One listing: what of the buried it still shows. The rest is forgotten at its end, so that
    the same version is news when it comes back."""

    def __init__(self, v: View) -> None:
        self._rows = {k for k, _ in v.scan("buried")}
        """As it began; what is buried meanwhile may have been listed before."""

    def see(self, v: View, found: ObjectVersion) -> None:
        if self._rows and (k := key_id(found.key)) in self._rows:
            raw = v.get("buried", k)
            content = decode_content(raw) if raw is not None else None
            # A listing without versions tells of an ETag, which a row may not know.
            if content is not None and (found.version_id is None or _is_it(content, found)):
                self._rows.discard(k)

    def forget(self, t: Txn) -> None:
        for k in self._rows:
            t.delete("buried", k)
