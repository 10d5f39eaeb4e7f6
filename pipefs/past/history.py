"""What happened to a pipe, a folder or a file: from the commit log and the store's own versions.

The log knows who, why and renames; it is read newest first, each commit with one small GET, several
at once. The store knows every version of a key, also those that other tools wrote or that are older
than the log; so the history of a file has both, each version once. Reads only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipefs.commits import Change, Commit, commit_key, decode_commit
from pipefs.errors import NotFound, Unsupported
from pipefs.past.levels import versions_of
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion

SCANNED = 2_000
"""Commits looked through for one path."""
_AT_ONCE = 16
_SLACK_NS = 60 * 10**9
"""How far a commit's clock and the store's may be apart."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a file."""

    time_ns: int
    what: str
    """added, changed, deleted, renamed, attributes, made (what is no file)."""
    path: str = ""
    """Its name then."""
    source: str = ""
    """renamed: its name before."""
    version: str | None = None
    """Of a deletion: of the delete marker."""
    size: int = 0
    etag: str = ""
    author: str = ""
    """user@host; empty: the log does not know, another tool did it."""
    program: str = ""
    commit: int = 0
    external: bool = False
    """`author` only noticed it."""


def commits(store: Store, newest: int) -> Iterator[Commit]:
    """The log from a number down. Ends where it ends: at its beginning, or at a hole."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        numbers = iter(range(newest, 0, -1))
        # The first few one after the other: who wants one commit fetches few.
        for size in itertools.chain((4,), itertools.repeat(_AT_ONCE)):
            some = list(itertools.islice(numbers, size))
            if not some:
                return
            for found in pool.map(lambda n: read_commit(store, n), some):
                if found is None:
                    return
                yield found


def read_commit(store: Store, number: int) -> Commit | None:
    key = commit_key(number)
    try:
        return decode_commit(store.get(key, None, 0, 1 << 30), key)
    except NotFound:
        return None


def touching(found: Iterable[Commit], path: str) -> Iterator[tuple[Commit, list[Change]]]:
    """Of commits from the newest on those that changed something at or below a path, with those
    changes; through renames of the path or of a folder above it."""
    for commit in found:
        changes = [c for c in commit.changes if _is_at(c.path, path) or _is_at(c.source, path)]
        above = [c for c in commit.changes if c.op == "move" and path and _is_at(path, c.path)]
        if changes or above:
            yield commit, [*above, *(c for c in changes if c not in above)]
        for move in above[:1]:
            path = move.source + path[len(move.path) :]


def _is_at(one: str, path: str) -> bool:
    return bool(one) and (not path or one == path or one.startswith(path + "/"))


def of_file(
    store: Store, path: str, newest: int, *, limit: int = 0, before_ns: int = 0
) -> list[Event]:
    """The history of one file, newest first; through renames of the file or of a folder above it.

    Args:
        path: as a manifest has it.
        newest: number of the last commit that counts.
        limit: how many events are wanted; 0: all.
        before_ns: versions later than this do not count; 0: all do.
    """
    trail = _Trail(path)
    for commit in itertools.islice(commits(store, newest), SCANNED):
        trail.follow(commit)
        if limit and len(trail.events) >= limit:
            break
    events = [*trail.events, *_unknown(store, trail, before_ns)]
    events.sort(key=lambda e: e.time_ns, reverse=True)
    return events[:limit] if limit else events


class _Trail:
    """A file followed back through the log, under the names it had."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.events: list[Event] = []
        self.known: set[tuple[str, str | None]] = set()
        """(key, version) of what the log tells of."""
        self.until: dict[str, int] = {path: 0}
        """Key → until when its versions were this file's (ns); 0: to this day."""
        self.others: dict[tuple[str, str | None], Commit] = {}
        """What other files had at these keys before this one took the name, and who told of it."""
        self.gone_ns: list[int] = []
        """When it was deleted, and when it got another name (then its old key goes later)."""
        self.away_ns: list[int] = []

    def follow(self, commit: Commit) -> None:
        """Take what a commit, the next older one, did to the file."""
        source, gone = "", False
        for change in commit.changes:
            if change.op == "move" and _is_at(self.path, change.path):
                source = change.source + self.path[len(change.path) :]
            elif change.op == "move" and change.source == self.path:
                self.away_ns.append(commit.time)
                event = self._event(commit, "renamed")
                self.events.append(replace(event, path=change.path, source=self.path))
            elif change.op == "delete":
                gone = gone or _is_at(self.path, change.path)
            elif change.path == self.path:
                self._took(commit, change)
            elif change.op == "put" and (key := change.key or change.path) in self.until:
                self.others[key, change.version] = commit
        if gone:
            self.gone_ns.append(commit.time)
            self.events.append(self._event(commit, "deleted"))
        if source:
            self.events.append(replace(self._event(commit, "renamed"), source=source))
            self.path = source
            self.until.setdefault(source, commit.time)

    def _took(self, commit: Commit, change: Change) -> None:
        if change.op == "put":
            key = change.key or change.path
            self.until.setdefault(key, self.until.get(self.path, 0))
            self.known.add((key, change.version))
            if change.same:
                return  # a copy to its own key: no other content
            what = "added" if change.replaces is None else "changed"
        elif change.op in _WORDS:
            what = _WORDS[change.op]
        else:
            return
        event = self._event(commit, what)
        self.events.append(
            replace(event, version=change.version, size=change.size, etag=change.etag)
        )

    def _event(self, commit: Commit, what: str) -> Event:
        return Event(
            time_ns=commit.time,
            what=what,
            path=self.path,
            author=commit.author,
            program=commit.program,
            commit=commit.number,
            external=commit.external,
        )


_WORDS = {
    "attr": "attributes",
    "mkdir": "made",
    "symlink": "made",
    "special": "made",
    "link": "made",
}


def _unknown(store: Store, trail: _Trail, before_ns: int) -> Iterator[Event]:
    """Versions of the keys that the file had, which the log does not tell of."""
    for key, left in trail.until.items():
        try:
            versions = versions_of(store, key)
        except Unsupported:
            return  # without versions there is nothing but the log
        oldest = versions[-1].version_id if versions else None
        until = min(n for n in (left, before_ns, 1 << 63) if n)
        versions = [v for v in versions if v.last_modified_ns <= until]
        if left:
            # The file was there when it left this name, so the newest markers are of its going.
            versions = list(itertools.dropwhile(lambda v: v.is_delete_marker, versions))
        for version in versions:
            told = (key, version.version_id) in trail.known
            if told or (version.is_delete_marker and _is_told(version, trail)):
                continue
            event = _event_of(version, key, first=version.version_id == oldest)
            teller = trail.others.get((key, version.version_id))
            yield event if teller is None else _told_by(event, teller)


def _told_by(event: Event, commit: Commit) -> Event:
    return replace(
        event,
        author=commit.author,
        program=commit.program,
        commit=commit.number,
        external=commit.external,
    )


def _is_told(marker: ObjectVersion, trail: _Trail) -> bool:
    """Whether the log has the deletion or the rename that made this marker; each made one."""
    at = marker.last_modified_ns
    for times, later in ((trail.gone_ns, _SLACK_NS), (trail.away_ns, 1 << 63)):
        for time_ns in times:
            if time_ns - _SLACK_NS <= at <= time_ns + later:
                times.remove(time_ns)
                return True
    return False


def _event_of(version: ObjectVersion, key: str, *, first: bool) -> Event:
    what = "deleted" if version.is_delete_marker else "added" if first else "changed"
    return Event(
        time_ns=version.last_modified_ns,
        what=what,
        path=key,
        version=version.version_id,
        size=version.size,
        etag=version.etag,
    )
