"""Whether two entries of trees are the same: contents by what is known of them, then attributes.

Nothing is read for it. What proves that two files have the same bytes, the first that applies:

    size         another size is another content; two empty files are equal
    version      the same version of the same key
    checksum     where both are known, they decide
    ETag         equal ETags are equal contents

An ETag of one part is the MD5 of the bytes, so another one is another content. That of a multipart
upload is the MD5 of its parts' MD5s with their number: if two are equal, so are all parts and with
them their lengths, hence the bytes. If they differ, only the cut may: the same bytes, uploaded in
parts of 8 and of 16 MiB, or copied by the server in one piece, have different ETags. That is not
known, and counts as changed. So do the bytes of two uploads under SSE-KMS or SSE-C, whose ETags
are no digests. Pure.
"""

from __future__ import annotations

import enum
import hashlib
import re

from pipefs.manifest import Entry

_PLAIN = re.compile(r"[0-9a-f]{32}\Z")
_ONE_PART = re.compile(r"([0-9a-f]{32})-1\Z")


class Same(enum.Enum):
    """Whether two contents are equal."""

    YES = 1
    NO = 0
    UNKNOWN = -1


def content_of(old: Entry, new: Entry) -> Same:
    """Whether two paths have the same content: bytes, link target or device; directories have
    none. Not for a hard link (kind `link`): ask about its file."""
    if old.kind != new.kind:
        return Same.NO
    if old.kind == "file":
        return _bytes_of(old, new)
    return Same.YES if (old.target, old.rdev) == (new.target, new.rdev) else Same.NO


def _bytes_of(old: Entry, new: Entry) -> Same:
    if old.size != new.size:
        return Same.NO
    if old.size == 0 or same_version(old, new):
        return Same.YES
    if comparable(old.checksum, new.checksum):
        return Same.YES if old.checksum == new.checksum else Same.NO
    return _by_etag(old.etag, new.etag)


def same_version(old: Entry, new: Entry) -> bool:
    """Whether both are one version of one object. The version `null` is replaced in place, so it
    proves nothing."""
    if old.version in (None, "", "null"):
        return False
    return old.version == new.version and old.object_key == new.object_key


def comparable(old: str, new: str) -> bool:
    """Whether both checksums are known and of one kind."""
    return bool(old and new) and old.partition(":")[0] == new.partition(":")[0]


def _by_etag(old: str, new: str) -> Same:
    if not old or not new:
        return Same.UNKNOWN
    if plain_etag(old) == plain_etag(new):
        return Same.YES
    for one, other in ((old, new), (new, old)):
        if _PLAIN.match(one) and (_PLAIN.match(other) or _ONE_PART.match(other)):
            return Same.NO
    return Same.UNKNOWN


def plain_etag(etag: str) -> str:
    """An ETag in the form in which equal contents have it: that of one plain MD5 becomes that of
    a multipart upload of one part."""
    if _PLAIN.match(etag):
        return hashlib.md5(bytes.fromhex(etag), usedforsecurity=False).hexdigest() + "-1"
    return etag


ATTRIBUTES = ("mode", "uid", "gid", "mtime", "xattrs")
"""That count as a change of their own. ctime and atime say when, not what."""


def attributes_of(old: Entry, new: Entry) -> tuple[str, ...]:
    """Names of the attributes that differ. One that nobody set differs from none."""
    return tuple(name for name in ATTRIBUTES if _differs(name, old, new))


def _differs(name: str, old: Entry, new: Entry) -> bool:
    one, other = getattr(old, name), getattr(new, name)
    if name == "xattrs":
        return (one or {}) != (other or {})
    return one is not None and other is not None and one != other
