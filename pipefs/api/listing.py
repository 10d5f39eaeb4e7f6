"""The part of `Pipe` that lists: what the pipe has, and what of it is on this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from pipefs.api.base import order_of
from pipefs.api.history import version_row
from pipefs.api.moments import Moments
from pipefs.api.tables import Entry, Table, Version, time_of
from pipefs.errors import NotFound, UsageError
from pipefs.filters import Filters, Patterns
from pipefs.folder.reports import Moved
from pipefs.folder.scan import scan
from pipefs.replicated import Item

_PIECE_BYTES = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file, with the names that d6tpipe gives its attributes."""

    filename: str
    size: int
    modified_at: datetime | None
    """UTC."""
    crc: str = ""
    """Locally the MD5 of its bytes; remotely the ETag, which of a file that went up in one piece
    is the same."""
    version: str = ""


class Listing(Moments):
    """Names of files, here and there."""

    def files(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        sortby: str | None = None,
        *,
        check_exists: bool = True,
    ) -> list[Moved]:
        """Files of the pipe that are on this machine, as `pull` brought them or a mount shows
        them: texts that also have `size`, `modified_at` and `version`.

        Args:
            include, exclude: patterns as of `pull`; None takes the pipe's own.
            sortby: `name`, `mod` (the newest last) or `size`; None takes that of the `Pipe`.
            check_exists: False gives all files of the pipe, wherever they are.

        >>> _ = pipe.put("1", "b.csv"), pipe.put("22", "a.csv"), pipe.pull()
        >>> pipe.files()
        ['a.csv', 'b.csv']
        >>> pipe.files(sortby="mod")[-1], pipe.files(sortby="mod")[-1].size
        ('a.csv', 2)
        """
        filters = self._filters(include, exclude)
        items = [i for i in self._walk("", None) if i.is_file and filters.takes(i.path)]
        if check_exists and self.snapshot_name is None:
            here = scan(os.fspath(self.dirpath), filters).files
            items = [i for i in items if i.path in here]
        found = [Moved(i.path, i.size, i.mtime_ns, i.version) for i in items]
        return _sorted(found, sortby or self.sortby, lambda f: (f, f.mtime_ns, f.size))

    def filepaths(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        sortby: str | None = None,
        *,
        check_exists: bool = True,
        aspathlib: bool = True,
    ) -> list[Path] | list[str]:
        """The same as paths on this machine, to be read with anything.

        Args:
            aspathlib: False gives texts.

        >>> _ = pipe.put("1", "b.csv"), pipe.pull()
        >>> [p.read_text() for p in pipe.filepaths("*.csv")]
        ['1']
        """
        found = self.files(include, exclude, sortby, check_exists=check_exists)
        paths = [self.dirpath / name for name in found]
        return paths if aspathlib else [os.fspath(p) for p in paths]

    @overload
    def scan_local(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        *,
        attributes: Literal[False] = False,
        sortby: str | None = None,
    ) -> list[str]: ...

    @overload
    def scan_local(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        *,
        attributes: Literal[True],
        sortby: str | None = None,
    ) -> Table[FileRow]: ...

    def scan_local(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        *,
        attributes: bool = False,
        sortby: str | None = None,
    ) -> list[str] | Table[FileRow]:
        """What is in the pipe's folder, pushed or not.

        Args:
            attributes: a table with `filename`, `size`, `modified_at` and `crc`, for which every
                file is read.

        >>> (pipe.dirpath / "new.csv").write_text("abc")
        3
        >>> pipe.scan_local()
        ['new.csv']
        >>> pipe.scan_local(attributes=True)[0].crc
        '900150983cd24fb0d6963f7d28e17f72'
        """
        folder = self.dirpath
        found = scan(os.fspath(folder), self._filters(include, exclude)).files
        names = _sorted(
            found,
            sortby or self.sortby,
            lambda name: (name, found[name].mtime_ns, found[name].size),
        )
        if not attributes:
            return names
        return Table(
            FileRow(n, found[n].size, time_of(found[n].mtime_ns), _md5(folder / n)) for n in names
        )

    @overload
    def scan_remote(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        *,
        attributes: Literal[False] = False,
        cached: bool = True,
        sortby: str | None = None,
    ) -> list[str]: ...

    @overload
    def scan_remote(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        *,
        attributes: Literal[True],
        cached: bool = True,
        sortby: str | None = None,
    ) -> Table[FileRow]: ...

    def scan_remote(
        self,
        include: Patterns = None,
        exclude: Patterns = None,
        *,
        attributes: bool = False,
        cached: bool = True,
        sortby: str | None = None,
    ) -> list[str] | Table[FileRow]:
        """What the pipe has. The log of changes is followed each time; what other tools wrote is
        looked for where the last look is older than five minutes.

        Args:
            attributes: a table with `filename`, `size`, `modified_at`, `crc` and `version`.
            cached: False looks now.

        >>> _ = pipe.put("1", "b.csv"), pipe.put("22", "a.csv")
        >>> pipe.scan_remote()
        ['a.csv', 'b.csv']
        >>> pipe.scan_remote(attributes=True).to_df()["size"].tolist()
        [2, 1]
        """
        filters = self._filters(include, exclude)
        items = {
            i.path: i
            for i in self._walk("", None, cached=cached)
            if i.is_file and filters.takes(i.path)
        }
        names = _sorted(
            items,
            sortby or self.sortby,
            lambda name: (name, items[name].mtime_ns, items[name].size),
        )
        if not attributes:
            return names
        return Table(
            FileRow(i.path, i.size, time_of(i.mtime_ns), i.etag, i.version)
            for i in (items[name] for name in names)
        )

    @overload
    def ls(
        self,
        path: str = "",
        *,
        recursive: bool = False,
        versions: Literal[False] = False,
        snapshot: str | None = None,
    ) -> Table[Entry]: ...

    @overload
    def ls(
        self,
        path: str = "",
        *,
        recursive: bool = False,
        versions: Literal[True],
        snapshot: str | None = None,
    ) -> Table[Version]: ...

    def ls(
        self,
        path: str = "",
        *,
        recursive: bool = False,
        versions: bool = False,
        snapshot: str | None = None,
    ) -> Table[Entry] | Table[Version]:
        """What is in a folder of the pipe (or the one row of a file), now or in a snapshot.

        Args:
            recursive: all that is below.
            versions: every version and deletion instead, of the files that are or were there.
        Raises:
            NotFound: there is nothing.

        >>> _ = pipe.put("1", "2026/a.csv", meta={"unit": "EUR"}), pipe.put("2", "b.csv")
        >>> [(e.path, e.kind) for e in pipe.ls()]
        [('2026', 'dir'), ('b.csv', 'file')]
        >>> pipe.ls("2026")[0].metadata
        {'unit': 'EUR'}
        >>> [(v.path, v.latest) for v in pipe.ls("b.csv", versions=True)]
        [('b.csv', True)]
        """
        path = path.strip("/")
        if versions:
            if snapshot is not None:
                raise UsageError("versions are the whole history", hint="Leave snapshot out")
            return self._ls_versions(path, recursive)
        found = list(self._walk(path, snapshot))
        if path and not found:
            raise NotFound(f"there is no {path} in {self.name}")
        if path and found[0].path == path and found[0].kind == "dir":
            found = found[1:]
        if not recursive:
            depth = path.count("/") + 2 if path else 1
            found = [i for i in found if i.path.count("/") < depth]
        return Table(map(entry_of, found))

    def _ls_versions(self, path: str, recursive: bool) -> Table[Version]:
        from pipefs.keys import names_of
        from pipefs.past.looking import all_versions
        from pipefs.replicated import to_names, to_path

        items = all_versions(self._replica.store, to_names(path), recursive=recursive)
        found = [v for v in items if not isinstance(v, str) and not v.key.endswith("/")]
        if path and not found:
            raise NotFound(f"there never was a {path} in {self.name}")
        return Table(version_row(v, to_path(names_of(v.key))) for v in found)

    def _filters(self, include: Patterns, exclude: Patterns) -> Filters:
        own = self._registered.settings
        return Filters.of(include, exclude, otherwise=(own.include, own.exclude))


def entry_of(item: Item) -> Entry:
    from pipefs.objects.metadata import meta_of

    xattrs = {os.fsencode(name): value for name, value in item.xattrs.items()}
    return Entry(
        path=item.path,
        kind=item.kind,
        size=item.size,
        modified_at=time_of(item.mtime_ns),
        version=item.version,
        etag=item.etag,
        checksum=item.checksum,
        mode=item.mode,
        metadata=meta_of({}, xattrs) if xattrs else {},
        target=item.target,
    )


def _sorted(
    found: Iterable[T], sortby: str, values: Callable[[T], tuple[str, int, int]]
) -> list[T]:
    """In the order of names, or of times or sizes and then of names."""
    order = {"name": 0, "mod": 1, "size": 2}[order_of(sortby)]

    def key(one: T) -> tuple[Any, str]:
        told = values(one)
        return told[order], told[0]

    return sorted(found, key=key)


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_PIECE_BYTES):
            digest.update(block)
    return digest.hexdigest()
