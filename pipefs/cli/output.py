"""How results look to people: tables, paths, states. Pure text; prints nothing itself."""

from __future__ import annotations

import os
import shlex
import unicodedata
from collections.abc import Callable, Sequence

from pipefs.conflictmessages import ConflictItem
from pipefs.protocol import MountStatus
from pipefs.units import clock_text, show_count, show_seconds, show_size

NO_ANSWER = "no answer"
"""`MountStatus.state` of a worker that did not answer."""


def tilde(path: str) -> str:
    """A path with the home folder as `~`."""
    home = os.path.expanduser("~").rstrip("/")
    if home and (path == home or path.startswith(home + "/")):
        return "~" + path[len(home) :]
    return path


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def printable(text: str) -> str:
    """Names with control or undecodable bytes made visible, so that a file name cannot move the
    cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
                   for c in text)  # fmt: skip


def cut(text: str, columns: int) -> str:
    """A text in so many columns of a terminal, `…` at its end where something was left out."""
    if _width(text) <= columns:
        return text
    while text and _width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def table(rows: Sequence[Sequence[str]], *, gap: int = 2, right: Sequence[int] = ()) -> list[str]:
    """Rows as aligned lines; the last column is not padded. `right`: columns of figures."""
    if not rows:
        return []
    count = max(len(row) for row in rows)
    # The last cell of a row pads nothing, so a short row's long end widens no column.
    widths = [
        max((_width(r[i]) for r in rows if i + 1 < len(r) or i + 1 == len(r) == count), default=0)
        for i in range(count)
    ]
    lines = []
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            fill = " " * (widths[i] - _width(cell) if i < len(widths) else 0)
            cells.append(fill + cell if i in right else cell + fill)
        lines.append((" " * gap).join(cells).rstrip())
    return lines


def saved_text(status: MountStatus) -> str:
    """`all saved`, `3 files (12 MB) going up · 8 s`, `OFFLINE since 14:02Z (…) · …`. All is saved
    when a flush would return at once, or wait for copies of renamed objects only."""
    parts = []
    changes = status.dirty_files
    if status.offline_since is not None:
        reason = f" ({status.last_error})" if status.last_error else ""
        parts.append(f"OFFLINE since {clock_text(status.offline_since)}{reason}")
        parts.append("reading from cache")
        changes += status.announcing
        if changes:
            parts.append(f"{show_count(changes, 'change')} {'waits' if changes == 1 else 'wait'}")
    elif changes or status.uploading_files:
        files = max(changes, status.uploading_files)
        size = show_size(max(status.dirty_bytes, status.uploading_bytes))
        # A file still being written is not on its way: it waits for its writer to close it.
        verb = "going up" if status.uploading_files else "waiting to go up"
        parts.append(f"{show_count(files, 'file')} ({size}) {verb}")
        if status.seconds_left is not None and status.uploading_files:
            parts.append(show_seconds(status.seconds_left))
    elif status.announcing:
        parts.append(f"{show_count(status.announcing, 'change')} of names going up")
    else:
        parts.append("all saved" if status.snapshot is None else "the past, read-only")
    if status.relocating_files:
        size = show_size(status.relocating_bytes)
        parts.append(f"{show_count(status.relocating_files, 'object')} ({size}) being renamed")
    if status.refused_files and status.offline_since is None:
        parts.append(f"{status.refused_files} refused")
    if status.conflicts:
        parts.append(show_count(status.conflicts, "conflict"))
    if status.last_error and status.offline_since is None:
        parts.append(status.last_error)
    return " · ".join(parts)


def cache_text(status: MountStatus) -> str:
    """`cache 38 MB, 97 % hits`, `cache 4.1 GB of 50 GB`."""
    text = f"cache {show_size(status.cache_bytes)}"
    if status.cache_limit_bytes and status.cache_bytes * 20 > status.cache_limit_bytes:
        text += f" of {show_size(status.cache_limit_bytes)}"
    if status.pinned_files:
        text += f", {show_size(status.pinned_bytes)} pinned"
    if status.pinned_behind:
        text += f", {show_count(status.pinned_behind, 'pinned file')} to come"
    if status.cache_hit_ratio > 0:
        text += f", {status.cache_hit_ratio * 100:.0f} % hits"
    return text


def transport_text(status: MountStatus) -> str:
    """`kernel: 1 MiB reads, readdirplus, passthrough`; the other features are in --json."""
    seen = [f for f in status.features if f.endswith(" reads") or f in _WORTH_A_WORD]
    return f"{status.transport}: {', '.join(seen)}" if seen else status.transport


_WORTH_A_WORD = ("readdirplus", "passthrough", "a crash interrupts open files")


def state_text(status: MountStatus) -> str:
    """`live`, `read-only`, `@TAG`."""
    if status.snapshot is not None:
        return "@" + status.snapshot.removeprefix("@")
    return "read-only" if status.read_only and status.state == "live" else status.state


def status_row(status: MountStatus) -> list[str]:
    """The row of one mount in `pipefs status`."""
    row = [printable(status.name), tilde(status.path)]
    if status.state == NO_ANSWER:
        return [*row, "NO ANSWER", printable(status.last_error)]
    if status.offline_since is not None:
        # Long, and what it says matters more than its column.
        return [*row, saved_text(status)]
    return [
        *row,
        state_text(status),
        saved_text(status),
        cache_text(status),
        transport_text(status),
    ]


def conflict_lines(
    name: str, found: Sequence[ConflictItem], command: Callable[[str], str] = "pipefs {}".format
) -> list[str]:
    """What became of two contents of one path, and the command that settles it.

    Args:
        name: of the pipe. command: how this user types one.
    """
    lines = []
    for item in found:
        other = item.other or "somebody else"
        when = f" at {clock_text(item.time)}" if item.time else ""
        path, copy = printable(item.path), printable(item.kept_as)
        whose = ("yours", "theirs") if item.theirs_aside else ("theirs", "yours")
        several = [i for i in found if i.path == item.path][1:]
        target = shlex.quote(f"{name}/{item.kept_as if several else item.path}")
        lines += [
            f"  {path}  you and {other} both changed it{when}; both are kept:",
            f"    {path} ({whose[0]})   {copy} ({whose[1]})",
            f"    {command(f'resolve {target} --keep mine|theirs|both')}",
        ]
    return lines


def unsafe(status: MountStatus) -> bool:
    """Whether something of this mount exists on this machine only, is half renamed, or unknown."""
    if status.state == NO_ANSWER:
        return True
    going = status.dirty_files, status.uploading_files, status.relocating_files, status.announcing
    return any(going)
