"""T4 (later quilt3's ancestor): `.quilt/snapshots/<sha256>/<prefix>` at the bucket's root.

One JSON object with the versions below a prefix, a message and the path. The hash covers its
bytes, so also the message. T4 finds versions in it by their key and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from pipefs.errors import Corrupt
from pipefs.foreign.exports import Exported, File, Source, by_key
from pipefs.foreign.pins import Pin
from pipefs.foreign.places import Place

PREFIX = ".quilt/snapshots/"
KEY = re.compile(r"\.quilt/snapshots/([0-9a-f]{64})(?:/(.*))?\Z", re.DOTALL)

# What follows the contents. In JSON no text holds a quote that no backslash precedes.
_STRING = rb'"(?:[^"\\]|\\.)*"'
_TAIL = re.compile(rb'"message": (null|' + _STRING + rb'), "path": ' + _STRING + rb"\}\s*\Z")
_TAIL_BYTES = 4096


def encode(files: Mapping[str, File], message: str, path: str) -> bytes:
    """The bytes that T4 would write. `files` by the bucket's key, in the order of a listing;
    `path` begins with the bucket."""
    contents = {
        key: {"Key": key, "ETag": f'"{f.content.etag}"', "VersionId": f.version}
        for key, f in files.items()
    }
    return json.dumps({"contents": contents, "message": message, "path": path}).encode()


def key_of(hashval: str, prefix: str) -> str:
    return f"{PREFIX}{hashval}/{prefix}"


def decode(data: bytes, where: str) -> list[Pin]:
    """
    Raises:
        Corrupt: these bytes are no snapshot of T4.
    """
    try:
        contents = json.loads(data)["contents"]
        return [Pin(key, str(item["VersionId"])) for key, item in contents.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Corrupt(f"{where} is no snapshot of T4: {e!r}") from e


def write(source: Source) -> Exported:
    """Put the snapshot where T4 looks for it."""
    files, warnings = by_key(source, source.read())
    place = source.place
    prefix = place.full(source.top).rstrip("/")
    data = encode(files, source.message, f"{place.bucket}/{prefix}")
    hashval = hashlib.sha256(data).hexdigest()
    key = _put(place, hashval, prefix, data)
    return Exported(
        "t4",
        hashval,
        [place.url(key)],
        len(files),
        sum(f.content.size for f in files.values()),
        warnings,
    )


def _put(place: Place, hashval: str, prefix: str, data: bytes) -> str:
    """The key at which the snapshot is. That of a whole bucket ends in a slash, where some servers
    keep no bytes; T4 reads it as well without."""
    key = key_of(hashval, prefix)
    place.put_once(key, data, "application/json")
    if prefix or len(place.root.get(key, None, 0, len(data))) == len(data):
        return key
    place.root.delete(key)
    key = key.removesuffix("/")
    place.put_once(key, data, "application/json")
    return key


def read(place: Place, key: str) -> list[Pin]:
    """The versions that the snapshot at this key holds.

    Raises:
        NotFound: no such snapshot. Corrupt: as `decode`.
    """
    return decode(place.root.get(key, None, 0, 1 << 30), place.url(key))


def message_of(place: Place, key: str, size: int) -> str:
    """What a snapshot's author said of it, from its last bytes: the contents may be long."""
    start = max(0, size - _TAIL_BYTES)
    found = _TAIL.search(place.root.get(key, None, start, _TAIL_BYTES))
    if found is None and start:
        found = _TAIL.search(place.root.get(key, None, 0, 1 << 30))
    return str(json.loads(found[1]) or "") if found is not None else ""


def overlaps(place: Place, prefix: str) -> bool:
    """Whether a snapshot of what begins with `prefix` can hold files of the pipe."""
    return prefix.startswith(place.prefix) or place.prefix.startswith(prefix)
