"""`pipefs://NAME[@SNAP]/PATH` for fsspec: pandas, pyarrow, dask, duckdb, zarr and all that use it.

    pd.read_parquet("pipefs://sales@v1/2026/q3.parquet")
    df.to_parquet("pipefs://sales/2026/q4.parquet")

Needs no mount and no daemon. The past is read by its versions; the present by the pipe's commits
(what a mount on this machine has not sent up yet is not seen: `pipefs flush`). A write is in the
store, and shows on every machine, when its file is closed. Files written inside `with
fs.transaction` are published together: other machines see all or none.

A file system that was made for a URL means one snapshot for good, also by `@latest`. It pickles as
URLs, settings and ids of snapshots. So it works in a process that has no registry of pipes, and
means the same there. Credentials do not travel.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.transaction import Transaction

from pipefs.altering import Alterer, Copying
from pipefs.errors import PipefsError
from pipefs.fsspec_file import PipeReader, PipeWriter
from pipefs.fsspec_reading import ReadingFileSystem
from pipefs.objects.metadata import headers_for
from pipefs.oserrors import as_os_errors
from pipefs.publishing import ABSENT, ANY, Deletion, Outcome, Publication
from pipefs.reaching import Reach

Publications = Sequence[Publication | Deletion]


class PipeTransaction(Transaction):  # type: ignore[misc]  # fsspec has no types
    """Files that are published together, one commit a pipe."""

    fs: Any

    def complete(self, commit: bool = True) -> None:
        files, fs = list(self.files), self.fs
        self.files.clear()
        fs._intrans = False
        fs._transaction = None
        self.fs = None
        try:
            if commit:
                fs._publish_files(files, atomic=True)
        finally:
            for file in files:
                file.discard()


class PipeFileSystem(ReadingFileSystem):
    """The pipes of this user, or those it is told of.

    Args:
        pipe: NAME[@SNAP] of the URL it is made for.
        meant: what that snapshot was when the URL was read. Both are filled in by fsspec.
        profile, system: whose registry of pipes.
        pipes: pipes that need no registry: NAME → URL, or a mapping with `url`, `pipe_id` and
            settings such as `endpoint_url` and `aws_profile`.
        snapshots: what snapshots are meant: NAME@SNAP → id. Others are looked up.
    """

    transaction_type = PipeTransaction

    # --- single files -------------------------------------------------------------------------

    def _open(
        self, path: str, mode: str = "rb", metadata: Any = None, **kwargs: Any
    ) -> PipeReader | PipeWriter:
        if mode == "rb":
            item = self._item(path)
            if item.kind == "dir":
                raise _is_a_directory(path)
            return PipeReader(self, path, item, **kwargs)
        self._writable(path)
        try:
            base = self._item(path)
        except FileNotFoundError:
            base = None
        if base is not None and base.kind == "dir":
            raise _is_a_directory(path)
        if mode == "xb" and base is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        expected: Any = ANY
        if mode == "xb" or (mode == "ab" and base is None):
            expected = ABSENT
        elif mode == "ab" and base is not None:
            expected = base.version
        with as_os_errors(path):
            said = headers_for(metadata) if metadata is not None else None
            return PipeWriter(self, path, mode, base, expected=expected, metadata=said, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self._intrans:
            super().pipe_file(path, value, mode=mode, **kwargs)
        else:
            self.pipe({path: value}, mode=mode)

    def pipe(self, path: Any, value: Any = None, **kwargs: Any) -> None:
        """Set the bytes of a file, or of many at once: path → bytes."""
        if self._intrans:
            super().pipe(path, value, **kwargs)
            return
        expected = ABSENT if kwargs.get("mode") == "create" else ANY
        items: dict[str, bytes] = {path: value} if isinstance(path, str) else path
        there = next((p for p in items if expected is ABSENT and self.exists(p)), None)
        if there is not None:  # also with the same bytes, which are no conflict
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), there)
        self._publish(
            [
                (p, Publication(self._writable(p), body, expected=expected))
                for p, body in items.items()
            ]
        )

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make a file empty, or, without `truncate`, its time now; make it where there is none."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
            return
        with as_os_errors(path):
            self._alterer(path).touch(self._writable(path))

    def _publish_files(self, files: Sequence[PipeWriter], *, atomic: bool = False) -> None:
        self._publish([(f.path, f.publication(self._writable(f.path))) for f in files], atomic)

    def _publish(
        self, items: Sequence[tuple[str, Publication | Deletion]], atomic: bool = False
    ) -> None:
        """Put and delete, with one commit a pipe."""
        by_pipe: dict[str, list[Publication | Deletion]] = defaultdict(list)
        for path, item in items:
            by_pipe[self._split(path)[0]].append(item)
        for name, some in by_pipe.items():
            with as_os_errors(some[0].path if len(some) == 1 else name):
                try:
                    done = self._alterer(name).publish(some, atomic=atomic)
                except PipefsError:
                    if any(i.expected is ABSENT and self.exists(f"{name}/{i.path}") for i in some):
                        raise FileExistsError(
                            errno.EEXIST, os.strerror(errno.EEXIST), some[0].path
                        ) from None
                    raise
            absent = [one.path for one in done if one.outcome is Outcome.ABSENT]
            if absent:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), absent[0])

    # --- many files ---------------------------------------------------------------------------

    def put_file(
        self,
        lpath: Any,
        rpath: str,
        callback: Any = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        if self._intrans:
            super().put_file(lpath, rpath, callback=callback, mode=mode, **kwargs)
        elif not self._gatherer.took("put", (lpath, rpath, mode)):
            self._put_all([(lpath, rpath, mode)], callback)

    def put(self, lpath: Any, rpath: Any, *args: Any, **kwargs: Any) -> None:
        """Copy files of this machine, many at once; one commit announces them all."""
        callback = kwargs.pop("callback", DEFAULT_CALLBACK)
        with self._gathering("put", rpath) as steps:
            super().put(lpath, rpath, *args, **kwargs)
        self._put_all(steps, callback)

    def _put_all(self, steps: Sequence[tuple[Any, str, str]], callback: Any) -> None:
        folders = [rpath for lpath, rpath, _ in steps if os.path.isdir(lpath)]
        files = [step for step in steps if not os.path.isdir(step[0])]
        callback.set_size(len(files))
        self._publish(
            [
                (rpath, Publication(self._writable(rpath), Path(lpath), expected=_expected(mode)))
                for lpath, rpath, mode in files
            ]
        )
        self._make_all(folders)
        callback.relative_update(len(files))

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file, inside the store if it is one store: also out of a snapshot."""
        with as_os_errors(path1):
            reach, snapshot, inside = self._place(path1)
            item = reach.item(snapshot, inside)
        step = (reach, item, path2)
        if not self._gatherer.took("copy", step):
            self._copy_all([step])

    def copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
        """Copy files and, with `recursive`, folders; one commit announces them all."""
        with self._gathering("copy", path1, path2) as steps:
            super().copy(path1, path2, *args, **kwargs)
        self._copy_all(steps)

    def _copy_all(self, steps: Sequence[tuple[Reach, Any, str]]) -> None:
        by_pipe: dict[str, list[Copying]] = defaultdict(list)
        for reach, item, path in steps:
            if item.is_file:
                name = self._split(path)[0]
                by_pipe[name].append(Copying(reach, item, self._writable(path)))
        for name, some in by_pipe.items():
            with as_os_errors(name):
                self._alterer(name).copy(some)
        self._make_all([path for _, item, path in steps if item.kind == "dir"])

    def rm_file(self, path: str) -> None:
        self._publish([(path, Deletion(self._writable(path)))])

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files and, with `recursive`, folders, with one commit. What the store keeps as
        versions stays."""
        with self._looking(path):
            paths = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        self._publish([(p, Deletion(self._writable(p))) for p in paths])

    # --- folders ------------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        self._make([path], parents=create_parents, exist_ok=False)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._make([path], parents=True, exist_ok=exist_ok)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        if not self.isdir(path):
            self._item(path)
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if self.ls(path, detail=False):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        self.rm_file(path)

    def _make_all(self, paths: Sequence[str]) -> None:
        if paths:
            self._make(paths, parents=True, exist_ok=True)

    def _make(self, paths: Sequence[str], *, parents: bool, exist_ok: bool) -> None:
        by_pipe: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            inside = self._split(path)[2]
            if inside:
                by_pipe[self._split(path)[0]].append(self._writable(path))
            elif not exist_ok:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        for name, some in by_pipe.items():
            with as_os_errors(paths[0]):
                self._alterer(name).make_folders(some, parents=parents, exist_ok=exist_ok)

    # --- inside -------------------------------------------------------------------------------

    def _alterer(self, path: str) -> Alterer:
        return Alterer(self._reach_of(path))

    def _writable(self, path: str) -> str:
        """The path in its pipe, if it is of the present."""
        name, snapshot, inside = self._split(path)
        if snapshot is not None:
            said = f"{name}@{snapshot} is the past, which never changes. The present is {name}/…"
            raise OSError(errno.EROFS, said, path)
        if not inside:
            raise _is_a_directory(path)
        return inside

    def invalidate_cache(self, path: str | None = None) -> None:
        super().invalidate_cache(path)
        if path:
            with as_os_errors(path):
                self._reach_of(path).look_again()


def _expected(mode: str) -> Any:
    return ABSENT if mode == "create" else ANY


def _is_a_directory(path: str) -> IsADirectoryError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
