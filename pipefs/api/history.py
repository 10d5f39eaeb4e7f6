"""The part of `Pipe` that looks back: snapshots, differences, the log, and bringing it back."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pipefs.api.moments import LIVE, Moments
from pipefs.api.tables import Change, Event, SnapshotRow, Table, Version, time_of
from pipefs.errors import NotFound, Unsupported
from pipefs.manifest import Entry, names_in
from pipefs.replicated import to_names, to_path

if TYPE_CHECKING:
    from pipefs.catalog import Snapshot
    from pipefs.commits import Commit
    from pipefs.past.comparing import Difference
    from pipefs.past.history import Event as Happened
    from pipefs.pastmessages import RestoreDone
    from pipefs.search.finding import Hit
    from pipefs.session import Session
    from pipefs.types import ObjectVersion


class History(Moments):
    """Snapshots, differences, the log, search."""

    def snapshot(
        self,
        tag: str = "",
        message: str = "",
        *,
        metrics: Mapping[str, object] | None = None,
        path: str = "",
        force: bool = False,
        timeout_s: float | None = None,
    ) -> SnapshotRow:
        """Keep this moment under a name. Nothing is copied; it costs what changed since the last
        one. What was written through a mount is waited for.

        Args:
            tag: its name; "" leaves it with its id alone.
            metrics: figures to keep with it.
            path: of a folder or file only.
            force: take the tag over from another snapshot; although old versions expire.
            timeout_s: bound for uploads to wait for, in seconds.
        Raises:
            AlreadyExists: another snapshot has the tag. Refused: this store keeps no versions, or
            deletes them. TimedOut. Busy: another command has the pipe's state.

        >>> _ = pipe.put("a", "notes.txt")
        >>> made = pipe.snapshot("raw", "as downloaded", metrics={"rows": 12})
        >>> made.tag, made.files, made.metrics
        ('raw', 1, {'rows': '12'})
        """
        from pipefs.client import WorkerClient
        from pipefs.pastmessages import TakeSnapshot

        self._publisher()  # refused for a snapshot, and offline
        request = TakeSnapshot(
            path=path.strip("/"),
            tag=tag,
            message=message,
            metrics={k: str(v) for k, v in (metrics or {}).items()},
            timeout_s=timeout_s,
            force=force,
        )
        mount = self._mount()
        if mount is not None:
            done = WorkerClient(mount.socket).snapshot(request)
        else:
            with self._session() as session:
                done = session.snapshot(request)
        self._reach.look_again()
        with self._replica.opened(listing=False) as now:
            return row_of(now.catalog().snapshots[done.id])

    def _session(self) -> Session:
        """The pipe's own state on this machine, where no daemon has it."""
        from pipefs.session import Session

        return Session(self._home, self._registered)

    def snapshots(self, contains: str = "") -> Table[SnapshotRow]:
        """The snapshots, the newest first.

        Args:
            contains: only those whose folder has this path.

        >>> _ = pipe.put("a", "notes.txt")
        >>> _ = pipe.snapshot("raw"), pipe.snapshot("clean")
        >>> [s.tags for s in pipe.snapshots()]
        [('raw', 'clean')]
        >>> pipe.snapshots().to_df()["tag"].tolist()
        ['raw']
        """
        from pipefs.manifest import path_of

        with self._present(listing=False) as now:
            catalog = now.catalog()
        path = path_of(to_names(contains))
        found = catalog.covering(path) if path else catalog.kept()
        return Table(map(row_of, found))

    def diff(self, a: str = "latest", b: str = LIVE, path: str = "") -> Table[Change]:
        """What is different in `b`, compared with `a`: each a tag, an id, `latest` (the newest
        snapshot), `@TIME`, or `live`, the present.

        >>> _ = pipe.put("1", "a.txt"), pipe.put("1", "b.txt")
        >>> _ = pipe.snapshot("raw")
        >>> _ = pipe.put("two", "a.txt"), pipe.delete("b.txt"), pipe.put("3", "c.txt")
        >>> [(d.status, d.path) for d in pipe.diff("raw")]
        [('modified', 'a.txt'), ('deleted', 'b.txt'), ('added', 'c.txt')]
        """
        from pipefs.past.comparing import compare
        from pipefs.past.renaming import with_renames

        names = to_names(path)
        found = with_renames(compare(self._view(a), self._view(b), names, names))
        return Table(_change(d) for d in found if not _is_only_a_time(d))

    def restore(
        self,
        snapshot: str,
        *paths: str,
        keep_extra: bool = False,
        dry_run: bool = False,
    ) -> RestoreDone:
        """Make the pipe, or some paths of it, what they were: as new versions, by copies in the
        store. What is replaced is in a snapshot of its own, which the answer names in `before`.

        Args:
            keep_extra: leave what the snapshot does not have.
            dry_run: only say what would be done.

        >>> _ = pipe.put("good", "a.txt")
        >>> _ = pipe.snapshot("good")
        >>> _ = pipe.put("bad", "a.txt")
        >>> pipe.restore("good", "a.txt").files
        ['a.txt']
        >>> pipe.get("a.txt")[0]
        'good'
        """
        from pipefs.client import WorkerClient
        from pipefs.pastmessages import Restore

        self._publisher()
        request = Restore(
            snapshot=snapshot,
            paths=[p.strip("/") for p in paths],
            keep_extra=keep_extra,
            dry_run=dry_run,
        )
        mount = self._mount()
        if mount is not None:
            return WorkerClient(mount.socket).restore(request)
        with self._session() as session:
            return session.restore(request)

    # --- what happened ------------------------------------------------------------------------

    def log(self, path: str = "", limit: int = 20) -> Table[Event]:
        """What happened, newest first: of the pipe or a folder its commits, of a file each of its
        versions, through renames, also those that other tools wrote.

        Args:
            limit: so many at most; 0: all.

        >>> first, second = pipe.put("1", "a.txt"), pipe.put("2", "a.txt")
        >>> [(e.what, e.version == second) for e in pipe.log("a.txt")]
        [('changed', True), ('added', False)]
        """
        from pipefs.manifest import path_of
        from pipefs.past.history import SCANNED, commits, of_file, touching

        with self._present(listing=False) as now:
            newest = now.position().number
        store, text = self._replica.store, path_of(to_names(path))
        if text:
            events = of_file(store, text, newest, limit=limit)
            if any(e.version for e in events):
                return Table(map(_event, events))
        found = commits(store, newest)
        entries = (
            touching(itertools.islice(found, SCANNED), text)
            if text
            else ((c, c.changes) for c in found)
        )
        return Table(_commit(c, len(some)) for c, some in itertools.islice(entries, limit or None))

    def versions(self, path: str) -> Table[Version]:
        """Every version of a file, newest first, deletions too.

        Raises:
            Unsupported: the store keeps no versions. NotFound: there never was such a file.

        >>> one, two = pipe.put("1", "a.txt"), pipe.put("2", "a.txt")
        >>> [v.version for v in pipe.versions("a.txt")] == [two, one]
        True
        """
        found = self._versions(path)
        if not found:
            if not self._replica.capabilities.versioning:
                raise Unsupported(f"the store of {self.name} keeps no versions")
            raise NotFound(f"there never was a {path} in {self.name}")
        return Table(version_row(v, path) for v in found)

    def search(self, query: str, limit: int = 50, *, cached: bool = True) -> Table[Hit]:
        """Find files and snapshots by names, metadata, columns of tables, text and messages; also
        files that are gone. The index is on this machine, and brought forward first.

        Args:
            query: words, all of which must be there, each also as the beginning of one; `"…"`,
                `-without`, `name:` `text:` `column:` `message:`, and `KEY:VALUE` of metadata.
            cached: False lists the pipe for what other tools wrote just now.

        >>> _ = pipe.put("storms over the sea", "notes.txt", meta={"author": "maria"})
        >>> [hit.path for hit in pipe.search("author:maria storms")]
        ['notes.txt']
        """
        from pipefs.search.finding import search

        self._catch_up()
        return Table(
            search(self._replica, self._home, query, limit, offline=self.offline, cached=cached)
        )


# --- rows ---------------------------------------------------------------------------------------


def row_of(s: Snapshot) -> SnapshotRow:
    body = s.body
    return SnapshotRow(
        id=s.id,
        tag=s.tags[0] if s.tags else None,
        tags=tuple(s.tags),
        time=datetime.fromisoformat(body.time),
        message=body.message,
        author=body.author,
        path=to_path(names_in(body.path)),
        files=body.files,
        bytes=body.bytes,
        metrics=dict(body.metrics),
        protected=s.protected,
    )


def version_row(v: ObjectVersion, path: str) -> Version:
    return Version(
        path=path,
        version=v.version_id or v.etag,
        time=time_of(v.last_modified_ns),
        size=v.size,
        etag=v.etag,
        latest=v.is_latest,
        deleted=v.is_delete_marker,
    )


def _is_only_a_time(d: Difference) -> bool:
    """A folder's times change with its names, and say nothing of their own."""
    return d.is_dir and d.kind == "attributes" and set(d.attributes) <= {"mtime"}


def _change(d: Difference) -> Change:
    def version(entry: Entry | None) -> str:
        return (entry.version or entry.etag) if entry is not None else ""

    moved = d.old is not None and d.new is not None and d.old.path != d.new.path
    return Change(
        status=d.kind,
        path=to_path(names_in(d.path)),
        source=to_path(names_in(d.old.path)) if moved and d.old is not None else "",
        old_size=d.old.size if d.old is not None else None,
        new_size=d.new.size if d.new is not None else None,
        old_version=version(d.old),
        new_version=version(d.new),
    )


def _event(e: Happened) -> Event:
    return Event(
        time=time_of(e.time_ns),
        what=e.what,
        author="" if e.external else e.author,
        path=to_path(names_in(e.path)),
        version=e.version or "",
        size=e.size,
        commit=e.commit,
    )


_DONE = {
    "put": "put",
    "delete": "deleted",
    "move": "renamed",
    "mkdir": "folders made",
    "attr": "attributes",
    "snapshot": "snapshot",
    "tag": "tag",
    "forget": "forgotten",
    "protect": "protected",
    "prune": "pruned",
}


def _commit(commit: Commit, changes: int) -> Event:
    counts: Counter[str] = Counter(_DONE.get(c.op, "made") for c in commit.changes)
    told: Sequence[str] = [f"{n:,} {what}" if n > 1 else what for what, n in counts.items()]
    return Event(
        time=time_of(commit.time),
        what=", ".join(told),
        author="" if commit.external else commit.author,
        path=to_path(names_in(commit.changes[0].path)) if len(commit.changes) == 1 else "",
        version=(commit.changes[0].version or "") if len(commit.changes) == 1 else "",
        commit=commit.number,
        changes=changes,
    )
