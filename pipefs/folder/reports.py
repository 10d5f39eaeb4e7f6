"""What was asked for and what was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

from pipefs.errors import PartlyDone
from pipefs.filters import Patterns
from pipefs.folder.plan import MergeMode, Mode
from pipefs.units import show_count, show_size

Direction = Literal["pull", "push"]


@dataclass(frozen=True, slots=True)
class Options:
    """The wishes of one pull or push.

    Args:
        files: only these paths, in step or not; None: those that the mode takes.
        include, exclude: patterns as in `pipefs.filters`; None takes the pipe's own.
        nrecent: n > 0: of the paths that the filters take only the n newest by time; n < 0: the n
            oldest; 0: all.
        merge_mode: of a pull, for files that changed on both sides; None: an error.
        cached: whether a listing of the last five minutes will do for what other tools wrote.
        delete: also delete, on the side that gets the files, what the other side does not have;
            not where the other side has nothing at all, unless `empty_ok`.
    """

    files: tuple[str, ...] | None = None
    include: Patterns = None
    exclude: Patterns = None
    mode: Mode = "default"
    merge_mode: MergeMode | None = None
    nrecent: int = 0
    dry_run: bool = False
    cached: bool = True
    delete: bool = False
    empty_ok: bool = False
    unpulled_ok: bool = False
    """Of a push: go on where the pipe has changes that were not pulled, if not to the same files.
    Not with `delete`: it would take what others put there."""
    follow_links: bool = True
    """Whether links in the folder count as what they lead to."""


class Moved(str):
    """The path of a file that was (or would be) transferred, with what there is to say of it."""

    size: int
    mtime_ns: int
    version: str
    """Version id; the ETag on a store without versions; "" where it is not known yet."""
    is_new: bool
    """To the side that got it."""

    def __new__(
        cls, path: str, size: int, mtime_ns: int, version: str = "", *, is_new: bool = False
    ) -> Moved:
        made = super().__new__(cls, path)
        made.size, made.mtime_ns, made.version, made.is_new = size, mtime_ns, version, is_new
        return made

    @property
    def modified_at(self) -> datetime:
        """UTC."""
        return datetime.fromtimestamp(self.mtime_ns / 1e9, UTC)


@dataclass(slots=True, repr=False)
class Report:
    """What a pull or push did, or would do."""

    name: str
    """Of the pipe."""
    folder: str
    direction: Direction
    dry_run: bool = False
    files: list[Moved] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Changed on both sides, and ours stayed."""
    lost: list[str] = field(default_factory=list)
    """Of a pull: what is nowhere else and goes, because it was told to: local changes that are
    overwritten or deleted."""
    gone: list[str] = field(default_factory=list)
    """Not pushed: unchanged here, and deleted in the pipe since."""
    left_out: dict[str, str] = field(default_factory=dict)
    """What is no regular file, and why it was left out."""
    failed: dict[str, str] = field(default_factory=dict)
    """Path and reason."""
    documents: list[str] = field(default_factory=list)
    """README.md and LICENSE.md, where they came for the first time or changed."""
    seconds: float = 0.0

    def __repr__(self) -> str:
        """One line, however many files: notebooks print what a cell ends with."""
        would = "would be " if self.dry_run else ""
        way = "pulled to" if self.direction == "pull" else "pushed from"
        what = f"{show_count(len(self.files), 'file')}, {show_size(self.bytes)}"
        others = [
            f" · {len(found):,} {word.replace('_', ' ')}"
            for word in ("deleted", "kept", "lost", "gone", "left_out", "failed")
            if (found := getattr(self, word))
        ]
        return f"<{self.name}: {what} {would}{way} {self.folder}{''.join(others)}>"

    def __iter__(self) -> Iterator[Moved]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def bytes(self) -> int:
        return sum(f.size for f in self.files)

    def check(self) -> None:
        """
        Raises:
            PartlyMoved: some files could not be transferred.
        """
        if self.failed:
            raise PartlyMoved(self)


class PartlyMoved(PartlyDone):
    """Some files were transferred and some could not be; `report` says which."""

    def __init__(self, report: Report) -> None:
        path, reason = next(iter(report.failed.items()))
        verb = "pulled" if report.direction == "pull" else "pushed"
        super().__init__(
            f"{len(report.failed):,} of {len(report.failed) + len(report.files):,} files were not "
            f"{verb}; {path}: {reason}",
            hint=f"What was {verb} stays so. Again: the same command",
        )
        self.report = report


def named(paths: Sequence[str], limit: int = 10) -> str:
    """Paths for a message."""
    more = f" and {len(paths) - limit:,} more" if len(paths) > limit else ""
    return ", ".join(paths[:limit]) + more


class Progress(Protocol):
    """Told how far it is; called from several threads."""

    def start(self, files: int, size: int) -> None:
        """What there is to do, in bytes."""

    def add(self, count: int) -> None:
        """So many bytes more went over the wire."""

    def done(self, path: str) -> None:
        """A file is done with."""


class Silent:
    """No progress."""

    def start(self, files: int, size: int) -> None: ...

    def add(self, count: int) -> None: ...

    def done(self, path: str) -> None: ...
