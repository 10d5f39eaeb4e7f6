"""What a pipe has on this machine: mounts, pulled files, a cached tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipefs.folder.places import folder_of
from pipefs.home import Home
from pipefs.registry import Pipe


@dataclass(frozen=True, slots=True)
class Here:
    """Where the files of a pipe are on this machine; false when it has none."""

    mounts: tuple[str, ...] = ()
    folder: str = ""
    """What was pulled is there; "" when nothing was."""
    cached: bool = False
    """It was mounted once: its names and what was read are in state and cache."""

    def __bool__(self) -> bool:
        return bool(self.mounts or self.folder or self.cached)

    def words(self) -> list[tuple[str, str]]:
        """For people: what, and the path that goes with it or ""."""
        found = [("mounted at", path) for path in self.mounts]
        if self.folder:
            found.append(("pulled to", self.folder))
        if self.cached and not self.mounts:
            found.append(("cached", ""))
        return found


def here_of(home: Home, pipe: Pipe, mounts: Iterable[str] = ()) -> Here:
    """Asks the disk only. `mounts`: where it is mounted now."""
    folder = folder_of(home, pipe)
    mounted = tuple(mounts)
    return Here(
        mounts=mounted,
        folder=str(folder) if _has_something(folder) else "",
        cached=(home.pipe_state(pipe.name) / "tree").is_dir(),
    )


def _has_something(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False
