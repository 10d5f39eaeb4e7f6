"""Requests to the store whose answer may be lost: what was sent is recorded before it is.

When a process dies, or an answer never comes, between the store's doing and our record of it, the
object would belong to nobody: a listing would take it for somebody else's. So each put and copy
leaves a row before it starts, which goes in the update that records its landing. A row that stays
is looked into: the object is adopted by the next try, or deleted if its file went another way.

Works in transactions that the caller gives; no I/O.
"""

from __future__ import annotations

import msgspec

from pipefs import latest, tree
from pipefs.db import StateDB, Txn, View
from pipefs.records import Content, Dirty, encode, ino_key, key_id
from pipefs.stores.base import WRITE_ID_KEY
from pipefs.types import ObjectVersion


class Sent(msgspec.Struct, array_like=True, frozen=True):
    key: str
    ino: int
    write_id: str = ""
    """Of a put."""
    etag: str = ""
    """Of a copy: the source's."""
    size: int = 0

    def is_it(self, found: ObjectVersion | None) -> bool:
        """Whether this object is what was sent."""
        if found is None:
            return False
        if self.write_id:
            return found.metadata.get(WRITE_ID_KEY) == self.write_id
        return (found.etag, found.size) == (self.etag, self.size)


_decode = msgspec.msgpack.Decoder(Sent).decode


def row(v: View, key: str) -> Sent | None:
    raw = v.get("sent", key_id(key))
    return _decode(raw) if raw is not None else None


def will_send(db: StateDB, sent: Sent) -> None:
    """Record it; the request follows."""
    with db.update() as t:
        t.put("sent", key_id(sent.key), encode(sent))


def landed(t: Txn, content: Content, expected: Content | None) -> None:
    """The landing of a version in the place of `expected` is recorded in this update."""
    t.delete("sent", key_id(content.key))
    t.delete("gone", key_id(content.key))
    latest.note(t, content, expected)


def left_over(v: View, limit: int) -> list[Sent]:
    """Rows that no try of their file's will settle any more."""
    return [s for _, raw in v.scan("sent", limit=limit) if not _is_awaited(v, s := _decode(raw))]


def _is_awaited(v: View, sent: Sent) -> bool:
    """Whether the file still wants to have its object at this key: then its next try settles."""
    node = tree.inode(v, sent.ino)
    names = tree.names_to(v, sent.ino) if node is not None else None
    if node is None or not names:
        return False
    waits = bool(node.dirty & Dirty.CONTENT) or v.has("relocate", ino_key(sent.ino))
    return waits and tree.key_for(v, names) == sent.key


def settle(t: Txn, sent: Sent, found: ObjectVersion | None) -> None:
    """What became of it is known: an object that nobody needs should go."""
    if row(t, sent.key) != sent:
        return
    t.delete("sent", key_id(sent.key))
    node = tree.inode(t, sent.ino)
    known = node.content if node is not None else None
    if not sent.is_it(found) or found is None:
        return
    content = Content(found.key, found.version_id, found.etag, found.size)
    if not content.same_version(known):
        t.put("gone", key_id(sent.key), encode(content))
