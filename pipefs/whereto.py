"""Whether files may go to where they are to go: nothing can be a file and a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipefs.errors import PipefsError, Refused, UsageError
from pipefs.replicated import Now


def folder_problem(
    now: Now, folder: str, known: dict[str, PipefsError | None]
) -> PipefsError | None:
    """Why nothing can lie in a folder: it, or one above it, is a file.

    Args:
        known: answers for folders; gets those that are found.
    """
    if not folder:
        return None
    if folder not in known:
        found = now.entry(folder)
        if found is None:
            known[folder] = folder_problem(now, folder.rpartition("/")[0], known)
        elif found.kind != "dir":
            known[folder] = Refused(f"{folder} is no folder", hint="Choose another name")
        else:
            known[folder] = None
    return known[folder]


def refuse_tangled(paths: Iterable[str]) -> None:
    """
    Raises:
        UsageError: one of these files would lie in another one.
    """
    files = set(paths)
    for path in sorted(files):
        for above in _above(path):
            if above in files:
                raise UsageError(
                    f"{above} would be a file, and the folder of {path}: nothing was done",
                    hint="Give one of them another name",
                )


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
