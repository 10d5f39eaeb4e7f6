"""Foreign snapshots of a pipe: which there are, and each as a past tree.

    foreign = Foreign(Place.of(root_store, pipe.url))
    for item in foreign.refresh(): print(item.label, item.message)
    view = foreign.view("dws-4f2a91c")

A look costs four listings, and two small reads for each package revision not seen before.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipefs.catalog import MIN_DIGITS, SHORT_DIGITS
from pipefs.errors import AccessDenied, Conflict, Corrupt, NotFound
from pipefs.foreign import dws, quilt3, t4
from pipefs.foreign.pins import view_of
from pipefs.foreign.places import Place
from pipefs.keys import names_of
from pipefs.manifest import path_of
from pipefs.past.listed import ListedView

log = logging.getLogger(__name__)

_MANIFEST2 = re.compile(
    re.escape(quilt3.MANIFESTS2) + r"([\w-]+)@([\w-]+)/([0-9a-f]{64})/manifest\.jsonl\Z"
)
_REVISION = re.compile(re.escape(quilt3.POINTERS) + r"([\w-]+)/([\w-]+)/\d+\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_THREADS = 8


@dataclass(frozen=True, slots=True)
class ForeignSnapshot:
    """A snapshot that another system made, or that was exported for it."""

    format: str
    """dws, t4 or quilt3."""
    hash: str
    """In that system, all digits."""
    time_ns: int
    """When it was put into the bucket."""
    key: str
    """The bucket's key of its object."""
    name: str = ""
    """USER/PACKAGE of a quilt3 package."""
    path: str = ""
    """What it is of, as in a manifest; "" is all or not known."""
    message: str = ""
    """Of T4 snapshots only after `Foreign.described`."""
    size: int = 0
    """Bytes of its object, where the listing told."""

    @property
    def stem(self) -> str:
        """The label without digits of the hash."""
        if self.format == "quilt3":
            return f"quilt-{self.name.replace('/', '-')}@"
        return f"{self.format}-"

    @property
    def label(self) -> str:
        """What it is called below `.snapshots/`."""
        return self.stem + self.hash[:SHORT_DIGITS]


class Foreign:
    """The foreign snapshots of one pipe. Thread-safe."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._lock = threading.Lock()  # protects what is below; a leaf
        self._snapshots: list[ForeignSnapshot] = []
        # Revisions are never changed: what was read of one is kept by its key and ETag.
        self._revisions: dict[tuple[str, str], ForeignSnapshot | None] = {}

    def refresh(self) -> list[ForeignSnapshot]:
        """Look into the bucket; all there are, newest first.

        What the credentials may not list is left out.
        """
        looks = (self._dws, self._t4, self._quilt3, self._quilt3_second)
        with ThreadPoolExecutor(len(looks)) as pool:
            lists = list(pool.map(self._allowed, looks))
        unique: dict[tuple[str, str, str], ForeignSnapshot] = {}
        for item in sorted((i for one in lists for i in one), key=lambda i: i.time_ns):
            unique.setdefault((item.stem, item.hash, item.path), item)
        found = sorted(unique.values(), key=lambda i: (i.time_ns, i.label), reverse=True)
        with self._lock:
            self._snapshots = found
        return list(found)

    def snapshots(self) -> list[ForeignSnapshot]:
        """What the last `refresh` found."""
        with self._lock:
            return list(self._snapshots)

    def find(self, name: str) -> ForeignSnapshot:
        """The one that a label means; of its hash six digits are enough, and more are taken.

        Raises:
            NotFound: none. Conflict: several.
        """
        near = [
            s
            for s in self.snapshots()
            if name.startswith(s.stem)
            and len(name) - len(s.stem) >= MIN_DIGITS
            and s.hash.startswith(name[len(s.stem) :].lower())
        ]
        if len(near) > 1:
            hashes = ", ".join(s.stem + s.hash[:12] for s in near[:4])
            raise Conflict(f"{name} is the beginning of {len(near)} snapshots: {hashes}")
        if not near:
            raise NotFound(f"there is no snapshot {name!r}")
        return near[0]

    def described(self, found: ForeignSnapshot) -> ForeignSnapshot:
        """With its message, where its system keeps one. At most one read of its end."""
        if found.format != "t4" or found.message:
            return found
        message = t4.message_of(self.place, found.key, found.size)
        return dataclasses.replace(found, message=message)

    def view(self, name: str) -> ListedView:
        """The tree of one: reads its object, and lists the versions below its path.

        Raises:
            NotFound, Conflict: as `find`. Corrupt: its object cannot be read.
        """
        found = self.find(name)
        names = ""
        if found.format == "dws":
            pins = dws.read(self.place, found.hash)
        elif found.format == "t4":
            pins = t4.read(self.place, found.key)
        else:
            pins, names = quilt3.read(self.place, found.key)
        return view_of(self.place, pins, found.label, time_ns=found.time_ns, names=names)

    # --- the formats --------------------------------------------------------------------------

    def _allowed(self, look: Callable[[], list[ForeignSnapshot]]) -> list[ForeignSnapshot]:
        try:
            return look()
        except AccessDenied as e:
            log.info("foreign snapshots are not looked for: %s", e)
            return []

    def _dws(self) -> list[ForeignSnapshot]:
        return [
            ForeignSnapshot("dws", m[1], item.last_modified_ns, item.key, size=item.size)
            for item in self.place.root.list(dws.PREFIX)
            if (m := dws.KEY.match(item.key))
        ]

    def _t4(self) -> list[ForeignSnapshot]:
        return [
            ForeignSnapshot(
                "t4",
                m[1],
                item.last_modified_ns,
                item.key,
                path=self._path(m[2] or ""),
                size=item.size,
            )
            for item in self.place.root.list(t4.PREFIX)
            if (m := t4.KEY.match(item.key)) and t4.overlaps(self.place, m[2] or "")
        ]

    def _path(self, prefix: str) -> str:
        """The pipe's directory for a prefix of the bucket; "" where it is the whole pipe."""
        key = self.place.inside(prefix) or ""
        return path_of(names_of(key)) if key.strip("/") else ""

    def _quilt3(self) -> list[ForeignSnapshot]:
        return self._seen(quilt3.revisions(self.place), self._revision)

    def _quilt3_second(self) -> list[ForeignSnapshot]:
        listed = self.place.root.list(quilt3.MANIFESTS2)
        return self._seen(
            ((i.key, i.etag, i.last_modified_ns) for i in listed), self._second_revision
        )

    def _seen(
        self,
        listed: Iterable[tuple[str, str, int]],
        read: Callable[[str, int], ForeignSnapshot | None],
    ) -> list[ForeignSnapshot]:
        """Revisions that hold files of the pipe; only new ones are read."""
        items = list(listed)
        with self._lock:
            new = [i for i in items if i[:2] not in self._revisions]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = dict(zip(new, pool.map(lambda i: read(i[0], i[2]), new), strict=True))
        with self._lock:
            self._revisions |= {i[:2]: one for i, one in found.items()}
            kept = [self._revisions[i[:2]] for i in items]
        return [one for one in kept if one is not None]

    def _revision(self, pointer: str, time_ns: int) -> ForeignSnapshot | None:
        m = _REVISION.match(pointer)
        if m is None:
            return None
        text = self.place.root.get(pointer, None, 0, 128).decode("ascii", "replace").strip()
        if not _HASH.match(text):
            return None
        return self._package(f"{m[1]}/{m[2]}", text, quilt3.PACKAGES + text, time_ns)

    def _second_revision(self, key: str, time_ns: int) -> ForeignSnapshot | None:
        m = _MANIFEST2.match(key)
        return self._package(f"{m[1]}/{m[2]}", m[3], key, time_ns) if m is not None else None

    def _package(self, name: str, top: str, key: str, time_ns: int) -> ForeignSnapshot | None:
        try:
            package = quilt3.look(self.place, key)
        except (NotFound, Corrupt) as e:
            log.warning("%s is left out of the snapshots: %s", self.place.url(key), e)
            return None
        if not package.inside:
            return None
        return ForeignSnapshot("quilt3", top, time_ns, key, name, message=package.message)
