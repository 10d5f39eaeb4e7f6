"""The reading half of `pipefs://`: what is there, now and then, and its bytes.

Everything is looked up by its path each time, at most `reaching.FRESH_S` late. See `fsspec_driver`.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.spec import AbstractFileSystem, make_instance
from fsspec.utils import isfilelike, stringify_path, tokenize

from pipefs.errors import PipefsError
from pipefs.gathering import Gatherer
from pipefs.oserrors import as_os_errors
from pipefs.reaches import Reaches
from pipefs.reaching import PIECE_BYTES, Reach
from pipefs.replicated import Item
from pipefs.target import split_snapshot

_AT_ONCE = 16
"""Requests for many ranges or files at once."""
_ROUND_BYTES = 4 * PIECE_BYTES
"""Of a file that is copied here: in memory at once."""
_FSSPEC_OPTIONS = {
    "use_listings_cache",
    "listings_expiry_time",
    "max_paths",
    "asynchronous",
    "loop",
}
"""What fsspec itself may pass to any file system."""
_TYPES = {"dir": "directory", "file": "file"}


class ReadingFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """See `fsspec_driver.PipeFileSystem`."""

    protocol = "pipefs"
    root_marker = ""
    blocksize = 4 << 20

    def __init__(
        self,
        pipe: str = "",
        *,
        profile: str = "",
        system: bool = False,
        pipes: Mapping[str, Any] | None = None,
        snapshots: Mapping[str, str] | None = None,
        meant: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        if strange := sorted(kwargs.keys() - _FSSPEC_OPTIONS):
            raise TypeError(f"pipefs:// has no option {', '.join(strange)}")
        super().__init__(**kwargs)
        self._first = pipe
        hints = {pipe: meant} if meant else {}
        self._reaches = Reaches(profile, system, pipes or {}, snapshots or {}, hints)
        self._gatherer = Gatherer()

    def __reduce__(self) -> tuple[Any, ...]:
        options = {k: v for k, v in self.storage_options.items() if k != "meant"}
        with as_os_errors(self._first):
            if self._first:
                self._reaches.place(*split_snapshot(self._first))
            options["pipes"], options["snapshots"] = self._reaches.known()
        return make_instance, (type(self), self.storage_args, options)

    @property
    def fsid(self) -> str:
        return "pipefs"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(p) for p in path]
        text = stringify_path(path)
        return text.removeprefix("pipefs://").removeprefix("pipefs::").strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        if not path.startswith("pipefs://"):
            return {}
        head = path.removeprefix("pipefs://").lstrip("/").partition("/")[0]
        # Looked up here, so that a file system means one snapshot for as long as it lives, and the
        # same URL another one when there is a newer: fsspec keeps file systems by these.
        with suppress(PipefsError, OSError):
            name, snapshot = split_snapshot(head)
            if snapshot is not None:
                reach = Reaches("", False, {}, {}, {}).get(name)
                return {"pipe": head, "meant": (reach.pipe.url, reach.meant(snapshot))}
        return {"pipe": head} if head else {}

    # --- where a path is ----------------------------------------------------------------------

    def _split(self, path: str) -> tuple[str, str | None, str]:
        """(pipe, snapshot, path in it)."""
        head, _, inside = self._strip_protocol(path).partition("/")
        name, snapshot = split_snapshot(head)
        return name, snapshot, "/".join(n for n in inside.split("/") if n)

    def _reach_of(self, path: str) -> Reach:
        return self._reaches.get(self._split(path)[0])

    def _place(self, path: str) -> tuple[Reach, str | None, str]:
        name, snapshot, inside = self._split(path)
        return *self._reaches.place(name, snapshot), inside

    def _item(self, path: str) -> Item:
        with as_os_errors(path):
            reach, snapshot, inside = self._place(path)
            return reach.item(snapshot, inside)

    # --- looking ------------------------------------------------------------------------------

    def _info_of(self, path: str, item: Item) -> dict[str, Any]:
        found: dict[str, Any] = {
            "name": self._strip_protocol(path),
            "size": item.size if item.is_file else 0,
            "type": _TYPES.get(item.kind, "other"),
            "mtime": item.mtime_ns / 1e9,
            "mode": item.mode,
        }
        if item.is_file:
            found |= {"ETag": item.etag, "VersionId": item.version_id}
        if item.metadata:
            found["metadata"] = item.metadata
        return found

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """name, size, type, mtime (s since 1970), mode; of a file also ETag and VersionId."""
        path = self._strip_protocol(path)
        if not path:
            return {"name": "", "size": 0, "type": "directory"}
        return self._info_of(path, self._item(path))

    def exists(self, path: str, **_: Any) -> bool:
        """Whether something is there. A store out of reach is an error, not an answer."""
        try:
            self.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def isdir(self, path: str) -> bool:
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        return self._type(path) == "file"

    def _type(self, path: str) -> str:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if not path:
            found = [{"name": n, "size": 0, "type": "directory"} for n in self._reaches.names()]
        else:
            found = self._ls(path)
        return found if detail else [i["name"] for i in found]

    def _ls(self, path: str) -> list[dict[str, Any]]:
        item = self._item(path)
        if item.kind != "dir":
            return [self._info_of(path, item)]
        with as_os_errors(path):
            reach, snapshot, inside = self._place(path)
            found = reach.children(snapshot, inside)
            return [self._below(path, inside, i, reach, snapshot) for i in found]

    def _below(
        self, path: str, inside: str, item: Item, reach: Reach, snapshot: str | None
    ) -> dict[str, Any]:
        """The line of what is below a path; a link's as what it leads to, if that is there."""
        name = path + item.path[len(inside) :] if inside else f"{path}/{item.path}"
        if item.kind == "symlink":
            try:
                return self._info_of(name, reach.item(snapshot, item.path)) | {"islink": True}
            except OSError:
                return self._info_of(name, item) | {"islink": True}
        return self._info_of(name, item)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        """All files at and below a path. Without `maxdepth` the tree is read in one go."""
        path = self._strip_protocol(path)
        if maxdepth is not None or not path:
            return super().find(path, maxdepth, withdirs, detail, **kwargs)
        found: dict[str, dict[str, Any]] = {}
        try:
            with as_os_errors(path):
                reach, snapshot, inside = self._place(path)
                top = reach.item(snapshot, inside)
                if withdirs or top.is_file:
                    found[path] = self._info_of(path, top)
                for item in reach.walk(snapshot, inside) if top.kind == "dir" else ():
                    if item.path != inside and (withdirs or item.kind != "dir"):
                        line = self._below(path, inside, item, reach, snapshot)
                        found[line["name"]] = line
        except (FileNotFoundError, NotADirectoryError):
            pass
        names = sorted(found)
        return {n: found[n] for n in names} if detail else names

    def created(self, path: str) -> datetime:
        """When the content was made: no version ever changes, so it is `modified`."""
        return self.modified(path)

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self._item(path).mtime_ns / 1e9, UTC)

    def checksum(self, path: str) -> int:
        """A number for the content: the same as long as its version is the same."""
        return int(tokenize(*self._identity(path)), 16)

    def ukey(self, path: str) -> str:
        return hashlib.sha256(repr(self._identity(path)).encode()).hexdigest()

    def _identity(self, path: str) -> tuple[str, str, str, int]:
        item = self._item(path)
        return self._reach_of(path).pipe.url, item.key, item.version, item.size

    # --- reading ------------------------------------------------------------------------------

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        return self._cat(path, self._item(path), start, end)

    def _cat(self, path: str, item: Item, start: int | None, end: int | None) -> bytes:
        if item.kind == "dir":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        first, last, _step = slice(start, end).indices(item.size)
        with as_os_errors(path):
            return self._reach_of(path).read(item, first, last)

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Ranges of files, many at once. `max_gap` is of no use here: there is no cost of a byte
        that lies between two ranges which are asked for at the same time."""
        starts = starts if isinstance(starts, list) else [starts] * len(paths)
        ends = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("as many starts and ends as paths")
        return self._many(list(zip(paths, starts, ends, strict=True)), on_error)

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        paths = self.expand_path(path, recursive=recursive, **kwargs)
        if (
            len(paths) == 1
            and not isinstance(path, list)
            and paths[0] == self._strip_protocol(path)
        ):
            return self.cat_file(paths[0])
        paths = [p for p in paths if not self.isdir(p)] if recursive else paths
        wanted: list[tuple[str, Any, Any]] = [(p, None, None) for p in paths]
        found = self._many(wanted, "raise" if on_error == "raise" else "return")
        pairs = zip(paths, found, strict=True)
        return {p: f for p, f in pairs if on_error != "omit" or isinstance(f, bytes)}

    def _many(self, wanted: Sequence[tuple[str, Any, Any]], on_error: str) -> list[Any]:
        def looked_up(path: str) -> Any:
            try:
                return self._item(path)
            except Exception as e:
                return e

        def one(what: tuple[str, Any, Any]) -> Any:
            path, start, end = what
            try:
                if isinstance(items[path], Exception):
                    raise items[path]
                return self._cat(path, items[path], start, end)
            except Exception as e:
                if on_error == "return":
                    return e
                raise

        if not wanted:
            return []
        paths = list(dict.fromkeys(path for path, _, _ in wanted))
        with self._looking(paths):
            items = {path: looked_up(path) for path in paths}
        with ThreadPoolExecutor(min(_AT_ONCE, len(wanted))) as pool:
            return list(pool.map(one, wanted))

    # --- to this machine ------------------------------------------------------------------------

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **_: Any,
    ) -> None:
        """Copy a file to a path or an open file here, large ones in several pieces at once."""
        if outfile is None and isfilelike(lpath):
            outfile = lpath
        item = self._item(rpath)
        if outfile is not None:
            self._copy_out(rpath, item, outfile, callback)
        elif not self._gatherer.took("get", (rpath, lpath, item)):
            self._fetch(rpath, lpath, item, callback)

    def _fetch(self, rpath: str, lpath: Any, item: Item, callback: Any) -> None:
        if item.kind == "dir":
            Path(lpath).mkdir(parents=True, exist_ok=True)
        else:
            Path(lpath).parent.mkdir(parents=True, exist_ok=True)
            with open(lpath, "wb") as file:
                self._copy_out(rpath, item, file, callback)

    def _copy_out(self, path: str, item: Item, file: Any, callback: Any) -> None:
        callback.set_size(item.size)
        with as_os_errors(path):
            reach = self._reach_of(path)
            for start in range(0, item.size, _ROUND_BYTES):
                callback.relative_update(
                    file.write(reach.read(item, start, start + _ROUND_BYTES)) or 0
                )

    def get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy files to this machine, many at once."""
        with self._gathering("get", rpath) as steps:
            super().get(rpath, lpath, recursive=recursive, maxdepth=maxdepth, **kwargs)

        def one(step: tuple[str, Any, Item]) -> None:
            with callback.branched(step[0], step[1]) as child:
                self._fetch(*step, child)

        callback.set_size(len(steps))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for _ in pool.map(one, steps):
                callback.relative_update(1)

    # --- many at once -------------------------------------------------------------------------

    @contextmanager
    def _gathering(self, what: str, *paths: Any) -> Iterator[list[Any]]:
        """Gather steps of a kind. To look up paths of these pipes costs little meanwhile."""
        with self._gatherer.gathering(what) as found, self._looking(*paths):
            yield found

    @contextmanager
    def _looking(self, *paths: Any) -> Iterator[None]:
        """Keep the present of these paths' pipes open for this thread. Nothing is to be sent or
        fetched meanwhile."""
        flat = [p for path in paths for p in (path if isinstance(path, list) else [path])]
        places = {self._split(p)[:2] for p in flat if self._strip_protocol(p)}
        with ExitStack() as opened:
            for name in sorted(name for name, snapshot in places if snapshot is None):
                with as_os_errors(name):
                    opened.enter_context(self._reaches.get(name).present())
            yield
