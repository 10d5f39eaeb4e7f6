"""When a changed file goes up, and which files never do. Pure."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pipefs.filters import NO_FILTERS, Filters


@dataclass(frozen=True, slots=True)
class Policy:
    """When a sealed file goes up. Times in seconds."""

    quiet_period_s: float = 0.5
    min_version_interval_s: float = 30.0
    local_only: Sequence[str] = ()
    filters: Filters = NO_FILTERS

    def stays_local(self, names: Sequence[bytes]) -> bool:
        """Whether `local_only` matches the file's name, a directory above it, or its path; or the
        filters leave the path out. A directory's path ends with an empty name: filters are for
        what is in it."""
        directory = names[-1:] == [b""]
        texts = [os.fsdecode(n) for n in (names[:-1] if directory else names)]
        if not directory and not self.filters.takes("/".join(texts)):
            return True
        candidates = [*texts, "/".join(texts)]
        return any(fnmatch.fnmatch(c, p) for p in self.local_only for c in candidates)


EVERYTHING = Policy()
"""Nothing stays local."""
