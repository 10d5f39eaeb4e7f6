"""Several files in one call: which they are, and what became of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipefs.errors import PartlyDone
from pipefs.folder.scan import scan
from pipefs.publishing import Published
from pipefs.units import show_count


def files_in(folder: Path, dest: str) -> list[tuple[str, Path]]:
    """(path in the pipe, file) of every file below a folder, links followed."""
    found = scan(os.fspath(folder))
    return [(f"{dest}/{p}" if dest else p, folder / p) for p in sorted(found.files)]


def raise_failed(done: Sequence[Published]) -> None:
    """Raise what failed: the error of one path alone, or `PartlyDone` that names some."""
    failed = [(p.path, p.error) for p in done if p.error is not None]
    if not failed:
        return
    path, error = failed[0]
    if len(failed) == len(done):
        raise error
    raise PartlyDone(
        f"{len(failed):,} of {show_count(len(done), 'file')} failed: {path}: {error.message}",
        hint=error.hint,
    )
