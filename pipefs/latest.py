"""What this machine put last at a key, while objects follow renames.

Several files may remember versions of one key then: one that was there, was renamed, and has not
moved on; the one that came after it. A key's row says which of these the store has now, so that a
file that moves on late does not ask for the deletion of what is long replaced, and a look at the
key finds what is ours.

Works in transactions that the caller gives; no I/O. Rows go when no object lags behind.
"""

from __future__ import annotations

import msgspec

from pipefs.db import Txn, View
from pipefs.records import Content, encode, key_id
from pipefs.types import ObjectVersion


class Latest(msgspec.Struct, array_like=True, frozen=True):
    content: Content
    replaced: tuple[str, ...] = ()
    """VersionIds that ours took the place of."""


_decode = msgspec.msgpack.Decoder(Latest).decode


def _row(v: View, key: str) -> Latest | None:
    raw = v.get("latest", key_id(key))
    return _decode(raw) if raw is not None else None


def note(t: Txn, content: Content, expected: Content | None) -> None:
    """A version of ours landed, in the place of `expected`."""
    if not t.count("relocate"):
        forget(t)
        return
    before = _row(t, content.key)
    replaced = set(before.replaced) if before is not None else set()
    for one in (expected, before.content if before is not None else None):
        if one is not None and one.key == content.key and one.version_id is not None:
            replaced.add(one.version_id)
    replaced.discard(content.version_id or "")
    t.put("latest", key_id(content.key), encode(Latest(content, tuple(sorted(replaced)))))


def forget(t: Txn) -> None:
    """No object lags behind its name: every key has the version that its file remembers."""
    if t.count("latest"):
        for key, _ in t.scan("latest"):
            t.delete("latest", key)


def is_latest(v: View, found: ObjectVersion) -> bool:
    """Whether this is what we put there last."""
    row = _row(v, found.key)
    if row is None or row.content.etag != found.etag:
        return False
    return found.version_id in (None, row.content.version_id)


def was_replaced(v: View, content: Content) -> bool:
    """Whether a later version of ours took this one's place. Never where there are no versions:
    there the same bytes may have come back."""
    row = _row(v, content.key)
    return row is not None and content.version_id in row.replaced
