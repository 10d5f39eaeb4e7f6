"""Errors as Python's own file functions raise them, for callers that know no pipefs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipefs.errors import PipefsError


@contextlib.contextmanager
def as_os_errors(path: str) -> Iterator[None]:
    """What pipefs raises inside becomes the `OSError` of its errno (FileNotFoundError,
    PermissionError, …), with message, next step and path."""
    try:
        yield
    except PipefsError as e:
        said = f"{e.message}. {e.hint}" if e.hint else e.message
        # The base class gives the class that belongs to the number.
        raise OSError(e.errno, said, path) from e
