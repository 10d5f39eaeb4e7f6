"""Many files at once: other machines see all of them or none."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from pipefs.publishing import Deletion, Publication, Published, Publisher


class Transaction:
    """What is to be published together. Made by `Pipe.transaction`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._items: dict[str, Publication | Deletion] = {}
        self._folder: Path | None = None
        self.published: list[Published] = []
        """What became of each path, once the block was left."""

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Publication | Deletion) -> None:
        """Take part; a later item of the same path counts instead. Bodies that are no bytes are
        copied now: a file may change, or be closed, before the block is left."""
        if isinstance(item, Publication) and not isinstance(item.body, bytes):
            item = self._copied(item)
        self._items[item.path] = item

    def _copied(self, item: Publication) -> Publication:
        if isinstance(item.body, bytearray | memoryview):
            return replace(item, body=bytes(item.body))
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pipefs-transaction-"))
        place = self._folder / f"{len(self._items)}"
        while place.exists():
            place = place.with_name(f"{place.name}-")
        if isinstance(item.body, Path):
            shutil.copy2(item.body, place)
            return replace(item, body=place)
        assert not isinstance(item.body, bytes)
        with open(place, "wb") as target:
            shutil.copyfileobj(item.body, target, 1 << 20)
        mode = 0o644 if item.mode is None else item.mode
        return replace(item, body=place, mode=mode)

    def publish(self, publisher: Publisher) -> None:
        self.published = publisher.publish(list(self._items.values()), atomic=True)

    def close(self) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._folder)
