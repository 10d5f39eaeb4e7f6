"""What a pull or a push is to do. Pure: two sides, what was in step, and the user's wishes.

Of each path two questions are asked: did the folder's file change since both were in step, and did
the pipe's? Only one: it goes to the other side. Both, and to different bytes: a conflict, which the
user's rule decides, or nobody does. A file that one side deleted is never deleted on the other.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pipefs.folder.states import Known, Local, Remote

Mode = Literal["default", "new", "mod", "all"]
MergeMode = Literal["keep", "overwrite"]


class Compare(Protocol):
    """Answers that need a file's bytes; asked only where times and sizes leave it open."""

    def is_unchanged(self, path: str) -> bool:
        """Whether the local file has the bytes that it had when it was in step."""

    def is_equal(self, path: str) -> bool:
        """Whether the local file has the bytes of the pipe's."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for."""

    mode: Mode = "default"
    """default: new and changed files; new; mod: changed ones; all: every file, in step or not."""
    merge_mode: MergeMode | None = None
    """Of files that changed on both sides: keep ours, or overwrite ours; None: an error."""
    nrecent: int = 0
    """n > 0: only the n newest by time; n < 0: the n oldest; 0: all."""
    files: Collection[str] | None = None
    """Only these, in step or not."""

    @property
    def is_forced(self) -> bool:
        return self.files is not None or self.mode == "all"

    def takes_new(self) -> bool:
        return self.mode in ("default", "new")

    def takes_changed(self) -> bool:
        return self.mode in ("default", "mod")


class Side(enum.Enum):
    """One side of a path, against what was in step."""

    ABSENT = enum.auto()
    SAME = enum.auto()
    CHANGED = enum.auto()
    """Or new."""


@dataclass(frozen=True, slots=True)
class Step:
    """One file to transfer."""

    path: str
    local: Local | None
    """What is there now: what a pull replaces."""
    remote: Remote | None
    """What the pipe has now: what a push replaces."""
    is_new: bool
    """To the side that gets it."""


@dataclass(slots=True)
class Plan:
    """Steps in the order of paths, and what the user is to know."""

    steps: list[Step] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    """Changed on both sides, and no rule says what to do: nothing at all is done. Of a push: those
    of `unpulled` that changed here too."""
    unpulled: list[str] = field(default_factory=list)
    """Of a push: changed in the pipe since, and not here."""
    kept: list[str] = field(default_factory=list)
    """Ours stay by the rule; from now on the pipe's version counts as seen."""
    lost: list[str] = field(default_factory=list)
    """Of a pull: local changes that it overwrites, because it was told to."""
    gone: list[str] = field(default_factory=list)
    """Of a push: unchanged here, and deleted in the pipe since: not pushed again."""
    missing: list[str] = field(default_factory=list)
    """Files that were named and are not there."""
    in_step: list[str] = field(default_factory=list)
    """Equal on both sides, and the record does not say so yet."""


class Planner:
    """The sides of every path, for one plan."""

    def __init__(
        self,
        local: Mapping[str, Local],
        known: Mapping[str, Known],
        remote: Mapping[str, Remote],
        compare: Compare,
    ) -> None:
        self._local = local
        self._known = known
        self._remote = remote
        self._compare = compare
        self._plan = Plan()
        self._sides: dict[str, tuple[Side, Side]] = {}

    # --- one path -----------------------------------------------------------------------------

    def sides(self, path: str) -> tuple[Side, Side]:
        """(here, there); looked at once."""
        if path not in self._sides:
            self._sides[path] = self._look(path)
        return self._sides[path]

    def _look(self, path: str) -> tuple[Side, Side]:
        local, remote = self._local.get(path), self._remote.get(path)
        known = self._known.get(path)
        here, proven = self._here(path, local, known)
        there = Side.ABSENT
        if remote is not None:
            seen = known is not None and known.remote_is_same(remote)
            there = Side.SAME if seen else Side.CHANGED
        if here is there is Side.CHANGED and self._compare.is_equal(path):
            here = there = Side.SAME
            proven = True
        if proven and here is there is Side.SAME:
            self._plan.in_step.append(path)
        return here, there

    def _here(self, path: str, local: Local | None, known: Known | None) -> tuple[Side, bool]:
        """Our side; and whether it took more than a look to know that it is the same."""
        if local is None:
            return Side.ABSENT, False
        if known is None:
            return Side.CHANGED, False
        if known.local_is_same(local):
            return Side.SAME, False
        if known.size == local.size and self._compare.is_unchanged(path):
            return Side.SAME, True
        return Side.CHANGED, False

    # --- plans --------------------------------------------------------------------------------

    def pull(self, wanted: Wanted) -> Plan:
        """From the pipe into the folder."""
        times = {path: r.mtime_ns for path, r in self._remote.items()}
        for path in self._chosen(times, wanted):
            here, there = self.sides(path)
            if here is there is Side.CHANGED:
                self._conflict(path, wanted)
            elif wanted.is_forced:
                self._take(path, here is Side.ABSENT, lost=here is Side.CHANGED)
            elif here is Side.ABSENT:
                if wanted.takes_new():
                    self._take(path, True)
            elif there is Side.CHANGED and wanted.takes_changed():
                self._take(path, False)
        return self._plan

    def _conflict(self, path: str, wanted: Wanted) -> None:
        if wanted.mode == "new" and not wanted.is_forced:
            return
        if wanted.merge_mode == "keep":
            self._plan.kept.append(path)
        elif wanted.merge_mode == "overwrite":
            self._take(path, False, lost=True)
        else:
            self._plan.conflicts.append(path)

    def push(self, wanted: Wanted) -> Plan:
        """From the folder into the pipe."""
        times = {path: f.mtime_ns for path, f in self._local.items()}
        chosen = self._chosen(times, wanted)
        if wanted.is_forced:
            for path in chosen:
                self._take(path, path not in self._remote)
            return self._plan
        self._plan.unpulled = self.unpulled()
        self._plan.conflicts = [p for p in self._plan.unpulled if self.sides(p)[0] is Side.CHANGED]
        for path in chosen:
            here, there = self.sides(path)
            if there is Side.ABSENT:
                if here is Side.SAME:
                    self._plan.gone.append(path)
                elif wanted.takes_new():
                    self._take(path, True)
            elif here is Side.CHANGED and there is Side.SAME and wanted.takes_changed():
                self._take(path, False)
        return self._plan

    def unpulled(self) -> list[str]:
        """What changed in the pipe and is not here."""
        return [p for p in sorted(self._remote) if self.sides(p)[1] is Side.CHANGED]

    def _take(self, path: str, is_new: bool, *, lost: bool = False) -> None:
        step = Step(path, self._local.get(path), self._remote.get(path), is_new)
        self._plan.steps.append(step)
        if lost:
            self._plan.lost.append(path)

    def _chosen(self, times_ns: Mapping[str, int], wanted: Wanted) -> list[str]:
        if wanted.files is not None:
            names = sorted(set(wanted.files))
            self._plan.missing = [p for p in names if p not in times_ns]
            return [p for p in names if p in times_ns]
        if not wanted.nrecent:
            return sorted(times_ns)
        by_time = sorted(times_ns, key=lambda p: (times_ns[p], p))
        newest = wanted.nrecent > 0
        return sorted(by_time[-wanted.nrecent :] if newest else by_time[: -wanted.nrecent])
