"""The whole bucket of a pipe, where other systems keep their folders at the root."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipefs.errors import Refused
from pipefs.foreign.places import Place
from pipefs.registry import Pipe, open_store_for


@contextlib.contextmanager
def open_place(pipe: Pipe, *, patience_s: float | None = None) -> Iterator[Place]:
    """The pipe's place in its bucket, until the end of the context.

    Args:
        patience_s: as `Pipe.open_store`.
    Raises:
        Refused: an embedded store.
    """
    if not pipe.url.startswith("s3://"):
        raise Refused(
            f'"{pipe.name}" is in an embedded store, which other systems do not read',
            hint="Only a pipe whose URL begins with s3:// has a bucket",
        )
    bucket = pipe.url.removeprefix("s3://").partition("/")[0]
    store = open_store_for(
        f"s3://{bucket}", pipe.settings, pipe.credentials(), patience_s=patience_s
    )
    with contextlib.closing(store):
        yield Place.of(store, pipe.url)
