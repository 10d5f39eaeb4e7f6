"""Data Workspaces: `.snapshots/HASH.json.gz` at the bucket's root.

One JSON object from key to VersionId, of the whole bucket. HASH is git's blob hash of the JSON
before it is packed. dws restores by reading the pinned versions; it changes nothing in the bucket.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib

from pipefs.errors import Corrupt
from pipefs.foreign.exports import Exported, Source, by_key
from pipefs.foreign.pins import Pin
from pipefs.foreign.places import Place

PREFIX = ".snapshots/"
KEY = re.compile(r"\.snapshots/([0-9a-f]{40})\.json\.gz\Z")


def encode(versions: dict[str, str]) -> bytes:
    """The bytes that dws itself would write for these keys and versions, not yet packed."""
    return json.dumps(versions, sort_keys=True, indent=2).encode()


def hash_of(data: bytes) -> str:
    """`git hash-object` of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def key_of(hashval: str) -> str:
    return f"{PREFIX}{hashval}.json.gz"


def decode(packed: bytes, where: str) -> list[Pin]:
    """
    Raises:
        Corrupt: these bytes are no snapshot of dws.
    """
    try:
        versions = json.loads(gzip.decompress(packed))
    except (OSError, EOFError, ValueError, zlib.error) as e:
        raise Corrupt(f"{where} is no snapshot of Data Workspaces: {e}") from e
    if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
        raise Corrupt(f"{where} is no snapshot of Data Workspaces: it maps no keys to versions")
    return [Pin(key, version) for key, version in versions.items()]


def write(source: Source) -> Exported:
    """Put the snapshot where dws looks for it."""
    found = source.read()
    files, warnings = by_key(source, found)
    data = encode({key: f.version for key, f in files.items()})
    hashval = hash_of(data)
    place = source.place
    place.put_once(key_of(hashval), gzip.compress(data, mtime=0), "application/gzip")
    if place.prefix or source.top:
        here = place.url(place.full(source.top))
        warnings.append(
            f"dws takes a snapshot for the whole bucket: this one has nothing but {here}"
        )
    return Exported(
        "dws",
        hashval,
        [place.url(key_of(hashval))],
        len(files),
        sum(f.content.size for f in files.values()),
        warnings,
    )


def read(place: Place, hashval: str) -> list[Pin]:
    """The versions that a snapshot of dws holds.

    Raises:
        NotFound: no such snapshot. Corrupt: as `decode`.
    """
    key = key_of(hashval)
    return decode(place.root.get(key, None, 0, 1 << 30), place.url(key))
