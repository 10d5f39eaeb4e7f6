"""quilt3: a snapshot as a package revision in the registry of the pipe's own bucket.

The manifest is put first, at a key that its top hash names, then the pointer of this revision, and
last `latest`, only if nobody moved it meanwhile. quilt3 itself puts `latest` without a condition.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipefs.errors import Conflict, NotFound, PreconditionFailed, UsageError
from pipefs.foreign import quiltmanifest as qm
from pipefs.foreign.exports import Exported, Source
from pipefs.foreign.hashing import Progress, Reader, nobody
from pipefs.foreign.pins import Pin
from pipefs.foreign.places import Place
from pipefs.keys import component_of

PACKAGES = ".quilt/packages/"
POINTERS = ".quilt/named_packages/"
MANIFESTS2 = ".quilt/v2/manifests/"
"""The registry's second layout."""

_NAME = re.compile(r"[\w-]+/[\w-]+\Z")
_OURS = "pipefs"
"""Key of the package's metadata that says which snapshot it is."""
HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Package:
    """The first lines of a revision's manifest, enough to know whose it is."""

    message: str
    inside: bool
    """It holds files of the pipe."""
    ours: bool
    """pipefs wrote it."""


def package_name(text: str) -> str:
    """USER/PACKAGE as quilt3 takes it.

    Raises:
        UsageError: it does not.
    """
    if not _NAME.match(text):
        raise UsageError(
            f"{text!r} cannot name a package",
            hint="Two words of letters, digits, _ and -, with a slash: --to team/sales",
        )
    return text


def default_name(pipe: str) -> str:
    """A package's name from a pipe's."""
    return f"{_OURS}/{re.sub(r'[^A-Za-z0-9_-]', '-', pipe)}"


def write(
    source: Source, name: str, *, force: bool = False, progress: Progress = nobody
) -> Exported:
    """Put the snapshot as the newest revision of a package.

    Args:
        force: also over a `latest` that another program put.
    Raises:
        Conflict: somebody else moved `latest`, before (without `force`) or meanwhile.
    """
    place = source.place
    package_name(name)
    latest = _Latest(place, name, force)
    found = source.read()
    files = sorted(found.files, key=lambda f: qm.walk_order(qm.logical_key(f.path, source.top)))
    hashes = Reader(place, progress).quilt_hashes(files)
    lines = [
        qm.line(
            qm.logical_key(f.path, source.top),
            qm.url_of(place.bucket, place.full(f.content.key), f.content.version_id),
            f.content.size,
            hash_of,
        )
        for f, hash_of in zip(files, hashes, strict=True)
    ]
    first = qm.head(source.message, {_OURS: _about(source)})
    top = qm.top_hash(first, lines)
    place.put_once(PACKAGES + top, qm.encode(first, lines), "application/json")
    latest.move(top)
    return Exported(
        "quilt3",
        top,
        [place.url(PACKAGES + top), place.url(latest.key)],
        len(files),
        found.bytes,
        found.warnings,
        [f"quilt3 install {name} --registry s3://{place.bucket} --top-hash {top[:7]}"],
    )


def _about(source: Source) -> dict[str, object]:
    body = source.snapshot.body
    about: dict[str, object] = {
        "snapshot": source.snapshot.id,
        "time": body.time,
        "author": body.author,
        "url": source.place.pipe_url,
    }
    if source.top:
        about["path"] = source.top
        if source.top_is_file():
            about["path"] = source.top.rpartition("/")[0]
    return about | ({"metrics": dict(body.metrics)} if body.metrics else {})


class _Latest:
    """The pointer to a package's newest revision, as it was when the export began."""

    def __init__(self, place: Place, name: str, force: bool) -> None:
        self._place = place
        self._pointers = f"{POINTERS}{name}/"
        self.key = f"{self._pointers}latest"
        self._etag, self._top = "", ""
        try:
            self._etag = place.root.head(self.key).etag
            self._top = _top_hash(place, self.key)
        except NotFound:
            return
        if not force and not self._is_ours():
            raise Conflict(
                f'the newest revision of the package "{name}" ({self._top[:7]}) was not '
                f"written by pipefs",
                hint="Choose another name: --to USER/PACKAGE · go before it all the same: --force",
            )

    def _is_ours(self) -> bool:
        try:
            return look(self._place, PACKAGES + self._top).ours
        except NotFound:
            return False

    def move(self, top: str) -> None:
        """Announce a revision. Nothing happens when it is the newest already."""
        if top == self._top:
            return
        data, second = top.encode(), int(time.time())
        while not self._place.put_once(f"{self._pointers}{second}", data, "text/plain"):
            second += 1  # two revisions within a second: quilt3 would lose one of them
        try:
            self._place.root.put(
                self.key,
                data,
                content_type="text/plain",
                if_match=self._etag,
                if_none_match=not self._etag,
            )
        except PreconditionFailed as e:
            raise Conflict(
                f"revision {top[:7]} is in the registry, but another one became the newest "
                f"meanwhile",
                hint="To make yours the newest, export again",
            ) from e


def _top_hash(place: Place, pointer: str) -> str:
    return place.root.get(pointer, None, 0, 128).decode("ascii", "replace").strip()


def look(place: Place, manifest_key: str) -> Package:
    """What the first lines of a manifest say; the rest is read only while they name no file of
    the pipe.

    Raises:
        NotFound: no such manifest. Corrupt: it is none.
    """
    where = place.url(manifest_key)
    data = place.root.get(manifest_key, None, 0, HEAD_BYTES)
    data = data[: data.rfind(b"\n") + 1]
    if not _any_inside(place, data, where):
        data = place.root.get(manifest_key, None, 0, 1 << 40)
    first = next(qm.decode(data, where), {})
    meta = first.get("user_meta")
    return Package(
        message=str(first.get("message") or ""),
        inside=_any_inside(place, data, where),
        ours=isinstance(meta, dict) and _OURS in meta,
    )


def _any_inside(place: Place, data: bytes, where: str) -> bool:
    pins = (qm.pin_of(one, place.bucket) for one in qm.decode(data, where))
    return any(p is not None and place.inside(p.full) is not None for p in pins)


def read(place: Place, manifest_key: str) -> tuple[list[Pin], str]:
    """(the versions of a package that lie in the pipe, the directory their paths are in).

    A file stands where its key is. Where pipefs made the package it stands where it was in the
    snapshot, and where the package has several versions of one key, at its logical key.

    Raises:
        NotFound: no such manifest. Corrupt: it is none.
    """
    where = place.url(manifest_key)
    data = place.root.get(manifest_key, None, 0, 1 << 40)
    lines = qm.decode(data, where)
    meta = next(lines, {}).get("user_meta")
    pins = [p for one in lines if (p := qm.pin_of(one, place.bucket)) is not None]
    pins = [p for p in pins if place.inside(p.full) is not None]
    about = meta.get(_OURS) if isinstance(meta, dict) else None
    if isinstance(about, dict) and about.get("url") == place.pipe_url:
        return [_at(p, p.path) for p in pins], str(about.get("path", ""))
    once = len({p.full for p in pins}) == len(pins)
    return [_at(p, "" if once else p.path) for p in pins], ""


def _at(pin: Pin, logical: str) -> Pin:
    path = "/".join(component_of(name.encode()) for name in logical.split("/")) if logical else ""
    return Pin(pin.full, pin.version, pin.size, pin.checksum, path)


def revisions(place: Place) -> Iterator[tuple[str, str, int]]:
    """(pointer's key, ETag, time in ns) of every revision in the registry. One listing."""
    for item in place.root.list(POINTERS):
        if item.key.rpartition("/")[2].isdigit():
            yield item.key, item.etag, item.last_modified_ns
