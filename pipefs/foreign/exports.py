"""What an export starts from and ends with: the files of a snapshot, and what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipefs.catalog import Snapshot
from pipefs.errors import NotFound
from pipefs.foreign.places import Place
from pipefs.manifest import Entry, names_in
from pipefs.past.entries import content_of
from pipefs.past.views import ROOT, PastView
from pipefs.records import Content
from pipefs.units import show_count


@dataclass(frozen=True, slots=True)
class File:
    """A name of a snapshot and the version that it stands for."""

    path: str
    """As in a manifest."""
    content: Content

    @property
    def version(self) -> str:
        """VersionId as S3 says it: objects older than versioning have "null"."""
        return self.content.version_id or "null"


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a snapshot."""

    files: list[File]
    warnings: list[str]
    """What has no place in any of the formats, one sentence each."""

    @property
    def bytes(self) -> int:
        return sum(f.content.size for f in self.files)


@dataclass(frozen=True, slots=True)
class Source:
    """A snapshot to export, or what it has at and below a path."""

    view: PastView
    snapshot: Snapshot
    place: Place
    path: str = ""
    """As in a manifest; "" is all the snapshot is of."""

    @property
    def top(self) -> str:
        return self.path or self.snapshot.body.path

    @property
    def message(self) -> str:
        """What its author said, else the tag it was made with."""
        return self.snapshot.body.message or self.snapshot.body.name

    def top_is_file(self) -> bool:
        """Whether the export is of one file.

        Raises:
            NotFound: the snapshot has nothing at this path.
        """
        if not self.top:
            return False
        first = next(self.view.entries(names_in(self.top)), None)
        if first is None:
            raise NotFound(f"the snapshot {self.view.label} has no {self.top!r}")
        return first.kind != "dir"

    def read(self) -> Files:
        """All files, hard links as files of their own.

        Raises:
            NotFound: there is nothing at this path.
        """
        self.top_is_file()
        files: list[File] = []
        further: list[Entry] = []
        left = Counter[str]()
        for entry in self.view.entries(names_in(self.top)):
            if entry.kind == "file":
                content = content_of(entry)
                if content is None:
                    left["file without a version in the store"] += 1
                else:
                    files.append(File(entry.path, content))
            elif entry.kind == "link":
                further.append(entry)
            elif entry.kind != "dir":
                left["symbolic link" if entry.kind == "symlink" else "special file"] += 1
        files += self._links(files, further, left)
        return Files(files, [f"{show_count(n, what)} left out" for what, n in left.items()])

    def _links(self, files: list[File], further: list[Entry], left: Counter[str]) -> Iterator[File]:
        wanted = {e.link for e in further}
        known = {f.path: f.content for f in files if f.path in wanted}
        for entry in further:
            content = known.get(entry.link) or self._elsewhere(entry.link)
            if content is None:
                left["hard link to a file that is not part of it"] += 1
            else:
                yield File(entry.path, content)

    def _elsewhere(self, path: str) -> Content | None:
        """Content of a file of the snapshot that is not below the exported path."""
        ino = ROOT
        try:
            for name in names_in(path):
                ino = self.view.lookup(ino, name).ino
            return self.view.node(ino).content
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    format: str
    hash: str
    """Its identity in that system; "" where it has none."""
    written: list[str]
    """URLs of objects or paths of files; the one that matters first."""
    files: int
    bytes: int
    """Of the files; none of them was copied."""
    warnings: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)
    """Commands with which that system uses it."""


def by_key(source: Source, found: Files) -> tuple[dict[str, File], list[str]]:
    """Files by the bucket's key, in the order of keys, for formats that know one version a key.

    A renamed file is at its old key until its copy is there; a new file may be there by then. Then
    only the one whose own key it is can be told, and the other is named in the warnings.
    """
    out: dict[str, File] = {}
    hidden: list[str] = []
    for file in found.files:
        key = source.place.full(file.content.key)
        other = out.get(key)
        if other is None or other.content.version_id == file.content.version_id:
            out.setdefault(key, file)
        elif file.content.key == file.path:
            hidden.append(other.path)
            out[key] = file
        else:
            hidden.append(file.path)
    warnings = [
        f"{path} left out: it was renamed and another file has its key; flush, then a new snapshot"
        for path in hidden
    ]
    return {k: out[k] for k in sorted(out, key=str.encode)}, found.warnings + warnings
