"""The part of `Pipe` that puts and gets: objects, files, and several at once."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from pipefs.api.base import Base
from pipefs.api.moments import Moments
from pipefs.api.reading import AHEAD_BYTES, RemoteFile, Written, WrittenText
from pipefs.api.several import files_in, raise_failed
from pipefs.api.transactions import Transaction
from pipefs.errors import NotFound, Refused, UsageError
from pipefs.publishing import ANY, Deletion, Expected, Outcome, Publication
from pipefs.replicated import Item
from pipefs.sending import Progress

_PIECE_BYTES = 8 << 20


class Contents(Moments, Base):
    """Objects and files, in and out."""

    # --- objects ------------------------------------------------------------------------------

    def put(
        self,
        obj: object,
        path: str,
        meta: Mapping[str, Any] | None = None,
        *,
        expected: str | Expected = ANY,
    ) -> str:
        """Put a Python object as a file: a DataFrame (pandas, polars, Arrow) as Parquet, or as
        what the suffix says; a dict or list as JSON, an array as `.npy`, text and bytes as they
        are. It is in the store, and other machines see it, when this returns.

        Args:
            path: in the pipe, with the suffix that decides the format.
            meta: what there is to say of it, whatever JSON can hold: metadata of the object, and
                attributes of the file on a mount. None: those of a file that is there stay.
            expected: a version from `put`, `ls` or `files` that has to be there still, or
                `pipefs.ABSENT`.
        Returns:
            Its version.
        Raises:
            UsageError: nothing that can be kept, or not under this suffix. Conflict: another
            version than `expected` is there. ReadOnly, AccessDenied, store errors.

        >>> version = pipe.put({"rows": 3}, "runs/one.json", meta={"who": "Ann", "seed": 7})
        >>> pipe.get("runs/one.json")
        ({'rows': 3}, {'who': 'Ann', 'seed': 7})
        """
        from pipefs.objects.codec import encode
        from pipefs.objects.metadata import FORMAT_KEY, OBJECT_KEY

        data, headers = encode(obj, path, meta)
        kind = {k: headers[k] for k in (FORMAT_KEY, OBJECT_KEY)}
        metadata = {k: v for k, v in headers.items() if k not in kind}
        return self._put(
            Publication(
                path,
                data,
                metadata=None if meta is None else metadata,
                headers=kind,
                expected=expected,
            )
        )

    def get(
        self, path: str, version: str | None = None, snapshot: str | None = None, want: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """The object in a file, and its metadata.

        Args:
            version: a version's id, or its first six or more characters; else the newest.
            snapshot: tag, id, `latest` or `@TIME`; not with `version`.
            want: `pandas`, `polars`, `arrow`, `numpy`, `json`, `text` or `bytes`, or one of their
                classes; None: as it was put, of other files as their names say.
        Raises:
            NotFound: no such file, version or snapshot. Corrupt: it is not what its name says.
            Refused: a package to read it is missing.

        >>> first = pipe.put("one", "notes.txt")
        >>> second = pipe.put("two", "notes.txt")
        >>> pipe.get("notes.txt", version=first)[0], pipe.get("notes.txt")[0]
        ('one', 'two')
        """
        from pipefs.objects.codec import decode, needs_metadata
        from pipefs.objects.metadata import meta_of

        item = self._item(path, version, snapshot)
        data = self._bytes(item)
        told = item.xattrs and not needs_metadata(path)
        headers = {} if told else self._headers(item)
        xattrs = {os.fsencode(k): v for k, v in item.xattrs.items()}
        return decode(data, path, headers, want), meta_of(headers, xattrs)

    def read(
        self, path: str, *, snapshot: str | None = None, want: Any = None, **options: Any
    ) -> Any:
        """The object in a file, read as the pipe's `schema` and its name say.

        Args:
            options: for the reader (`usecols`, `columns`, …), before those of the schema.

        >>> _ = pipe.put_bytes(b"a;b\\n1;2\\n", "table.csv")
        >>> pipe.schema = {"pandas": {"sep": ";"}}
        >>> pipe.read("table.csv").to_dict("records")
        [{'a': 1, 'b': 2}]
        """
        from pipefs.api.schemas import options_for
        from pipefs.objects.codec import decode, needs_metadata

        item = self._item(path, None, snapshot)
        headers = self._headers(item) if needs_metadata(path) else {}
        chosen = {**options_for(self.schema, path, want), **options}
        return decode(self._bytes(item), path, headers, want, options=chosen)

    def put_bytes(
        self,
        data: bytes,
        path: str,
        meta: Mapping[str, Any] | None = None,
        *,
        expected: str | Expected = ANY,
    ) -> str:
        """Put bytes as they are, under any name. As `put`.

        >>> _ = pipe.put_bytes(b"GIF89a", "photo.jpg", meta={"place": "Oslo"})
        >>> pipe.meta("photo.jpg")
        {'place': 'Oslo'}
        """
        from pipefs.objects.metadata import headers_for

        metadata = None if meta is None else headers_for(meta)
        return self._put(Publication(path, data, metadata=metadata, expected=expected))

    def get_bytes(
        self, path: str, version: str | None = None, snapshot: str | None = None
    ) -> bytes:
        """The bytes of a file. As `get`.

        >>> _ = pipe.put_bytes(b"\\x00\\x01", "raw.bin")
        >>> pipe.get_bytes("raw.bin")
        b'\\x00\\x01'
        """
        return self._bytes(self._item(path, version, snapshot))

    def meta(self, path: str, snapshot: str | None = None) -> dict[str, Any]:
        """What the author of a file said of it."""
        from pipefs.objects.metadata import meta_of

        item = self._item(path, None, snapshot)
        xattrs = {os.fsencode(k): v for k, v in item.xattrs.items()}
        return meta_of({} if xattrs else self._headers(item), xattrs)

    # --- files --------------------------------------------------------------------------------

    def put_file(
        self,
        src: str | os.PathLike[str],
        dest: str = "",
        meta: Mapping[str, Any] | None = None,
        *,
        expected: str | Expected = ANY,
        progress: Progress = lambda _path, _bytes: None,
    ) -> list[str]:
        """Put a file of this machine, or all that is in a folder.

        Args:
            dest: path in the pipe; one that ends in "/" keeps the file's name. Where `src` is a
                folder it is the folder in the pipe; "" is the top.
            progress: called with a path and bytes sent, from several threads.
        Returns:
            The paths in the pipe.
        Raises:
            NotFound: there is no such file. Conflict, store errors: as `put`. PartlyDone: some
            files of a folder failed.

        >>> from pathlib import Path
        >>> results = Path(pipe.dir).parent / "results"
        >>> (results / "one").mkdir(parents=True)
        >>> _ = (results / "a.txt").write_text("1"), (results / "one" / "b.txt").write_text("2")
        >>> pipe.put_file(results / "a.txt", "runs/")
        ['runs/a.txt']
        >>> pipe.put_file(results, "all")
        ['all/a.txt', 'all/one/b.txt']
        """
        from pipefs.objects.metadata import headers_for

        metadata = None if meta is None else headers_for(meta)
        source = Path(src)
        if source.is_dir():
            items = [
                Publication(path, file, metadata=metadata)
                for path, file in files_in(source, dest.strip("/"))
            ]
            return self._put_all(items, progress)
        path = f"{dest}{source.name}" if not dest or dest.endswith("/") else dest
        item = Publication(path, source, metadata=metadata, expected=expected)
        return self._put_all([item], progress)

    def get_file(
        self,
        src: str,
        dest: str | os.PathLike[str] = ".",
        snapshot: str | None = None,
        version: str | None = None,
    ) -> list[Path]:
        """Copy a file of the pipe, or all that is in a folder (`src` ends in "/", or is one), to
        this machine. What is there is replaced when all bytes have come.

        Args:
            dest: a file's path; a folder, or one that ends in "/", keeps the name.
        Returns:
            What was written.
        Raises:
            NotFound, Conflict, store errors: as `get`. UsageError: a version of a folder.

        >>> from pathlib import Path
        >>> _ = pipe.put("1", "runs/a.txt"), pipe.put("2", "runs/one/b.txt")
        >>> here = Path(pipe.dir).parent / "here"
        >>> [p.name for p in pipe.get_file("runs/a.txt", f"{here}/")]
        ['a.txt']
        >>> [str(p.relative_to(here)) for p in pipe.get_file("runs/", here)]
        ['a.txt', 'one/b.txt']
        """
        target = os.fspath(dest)
        found = None if src.endswith("/") or not src else self._find(src, version, snapshot)
        if found is not None and found.kind != "dir":
            into = target.endswith(os.sep) or os.path.isdir(target)
            place = Path(target) / found.path.rpartition("/")[2] if into else Path(target)
            return [self._save(found, place)]
        if version is not None:
            raise UsageError(
                f"{src!r} is a folder, which has no versions", hint="Name a file in it"
            )
        top = src.strip("/")
        items = [i for i in self._walk(top, snapshot) if i.is_file]
        if not items and found is None and top:
            raise NotFound(f"there is no {top} in {self.name}")
        return [self._save(i, Path(target) / i.path[len(top) :].lstrip("/")) for i in items]

    def _save(self, item: Item, place: Path) -> Path:
        """Write a file beside its place, then give it its name."""
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as out, self._reader(item) as source:
                shutil.copyfileobj(source, out, _PIECE_BYTES)
            if item.mtime_ns:
                os.utime(part, ns=(item.mtime_ns, item.mtime_ns))
            if item.mode is not None:
                part.chmod(item.mode)
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)
        return place

    def delete(self, path: str, *, expected: str | Expected = ANY) -> bool:
        """Delete a file; its versions stay, where the store keeps them. False: there was none.

        >>> _ = pipe.put("x", "old.txt")
        >>> pipe.delete("old.txt"), pipe.delete("old.txt")
        (True, False)
        """
        item = Deletion(path, expected=expected)
        if (transaction := self._running()) is not None:
            transaction.add(item)
            return True
        (done,) = self._publisher().publish([item])
        self._reach.look_again()
        if done.error is not None:
            raise done.error
        return done.outcome is Outcome.DELETED

    # --- open ---------------------------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: str = "r",
        *,
        snapshot: str | None = None,
        version: str | None = None,
        encoding: str | None = None,
        newline: str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> IO[Any]:
        """A file of the pipe, open as `open` of Python does: to read (`r`, `rb`), or to write
        anew (`w`, `wb`; `x`, `xb` where there must be none). What is written is published when it
        is closed; an exception in its `with` block drops it.

        >>> with pipe.open("log.txt", "w") as file:
        ...     _ = file.write("done")
        >>> pipe.open("log.txt").read()
        'done'
        """
        kind, binary = mode.replace("b", "").replace("t", ""), "b" in mode
        if kind not in ("r", "w", "x"):
            raise UsageError(f"a file of a pipe cannot be opened {mode!r}", hint="r, w or x")
        if kind == "r":
            raw = self._reader(self._item(path, version, snapshot))
            return raw if binary else io.TextIOWrapper(raw, encoding or "utf-8", newline=newline)
        if snapshot is not None or version is not None:
            raise UsageError("what was cannot be written", hint="Leave snapshot and version out")
        written = self._writer(path, kind, meta)
        if binary:
            return cast("IO[bytes]", written)
        return WrittenText(written, encoding or "utf-8", newline=newline)

    def _reader(self, item: Item) -> io.BufferedReader:
        return io.BufferedReader(RemoteFile(self._reach, item), AHEAD_BYTES)

    def _writer(self, path: str, kind: str, meta: Mapping[str, Any] | None) -> Written:
        from pipefs.objects.metadata import headers_for
        from pipefs.publishing import ABSENT

        self._publisher()  # refused now, not at the end
        metadata = None if meta is None else headers_for(meta)
        expected = ABSENT if kind == "x" else ANY
        if kind == "x" and self._find(path, None, None) is not None:
            raise FileExistsError(f"there is a {path} in {self.name}")

        def publish(body: IO[bytes]) -> object:
            return self._put(Publication(path, body, metadata=metadata, expected=expected))

        return Written(path, publish)

    # --- several at once ----------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Publish what is put and deleted in the block all at once: other machines see all of it
        or nothing. An exception in the block, a conflict, or a failure leaves everything as it was.
        What is read in the block is what was there before it.

        Raises:
            Conflict: somebody else changed what was expected. Other errors as of `put`.

        >>> with pipe.transaction():
        ...     _ = pipe.put({"rows": 2}, "day/a.json")
        ...     _ = pipe.put({"rows": 3}, "day/b.json")
        >>> pipe.log()[0].changes
        2
        """
        publisher = self._publisher()
        with self._lock:
            if self._transaction is not None:
                raise Refused("a transaction of this pipe runs already", hint="One after the other")
            made = self._transaction = Transaction(self.name)
            try:
                yield made
                self._transaction = None
                made.publish(publisher)
                self._reach.look_again()
            finally:
                self._transaction = None
                made.close()

    def _running(self) -> Transaction | None:
        with self._lock:  # another thread's block is waited for
            return self._transaction

    def _put(self, item: Publication) -> str:
        if (transaction := self._running()) is not None:
            transaction.add(item)
            return ""
        (done,) = self._publisher().publish([item])
        self._reach.look_again()
        if done.error is not None:
            raise done.error
        return done.version

    def _put_all(self, items: list[Publication], progress: Progress) -> list[str]:
        if (transaction := self._running()) is not None:
            for item in items:
                transaction.add(item)
            return [item.path for item in items]
        done = self._publisher(progress).publish(items)
        self._reach.look_again()
        raise_failed(done)
        return [p.path for p in done]
