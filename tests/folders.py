"""A pipe in an embedded store, and folders of two users beside it."""

from __future__ import annotations

import os
from pathlib import Path

from pipefs.folder.deciding import Folder
from pipefs.folder.pulling import pull
from pipefs.folder.pushing import push
from pipefs.folder.reports import Options, Report
from pipefs.replica import Replica
from tests.replicas import replica_of


class User:
    """A home and a folder on one machine."""

    def __init__(self, base: Path, store: Path, name: str) -> None:
        self.replica: Replica = replica_of(base / f"home-{name}", store)
        self.path = base / name
        self.folder = Folder.at(self.path)

    def write(self, path: str, content: str | bytes, *, mtime: float | None = None) -> Path:
        place = self.path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        if mtime is not None:
            os.utime(place, (mtime, mtime))
        return place

    def has(self) -> dict[str, str]:
        """What the folder has, by path."""
        return {
            str(p.relative_to(self.path)): p.read_text()
            for p in sorted(self.path.rglob("*"))
            if p.is_file()
        }

    def pull(self, *files: str, **options: object) -> Report:
        options.setdefault("cached", False)
        return pull(self.replica, self.folder, _options(files, options))

    def push(self, *files: str, **options: object) -> Report:
        options.setdefault("cached", False)
        return push(self.replica, self.folder, _options(files, options))

    def close(self) -> None:
        self.replica.close()


def _options(files: tuple[str, ...], options: dict[str, object]) -> Options:
    return Options(files=files or None, **options)  # type: ignore[arg-type]  # names are Options'
