"""When a changed file goes up, and which files never do. Pure."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """When a sealed file goes up. Times in seconds."""

    quiet_period_s: float = 0.5
    min_version_interval_s: float = 30.0
    local_only: Sequence[str] = ()

    def stays_local(self, names: Sequence[bytes]) -> bool:
        """Whether `local_only` matches the file's name, a directory above it, or its path."""
        if not self.local_only:
            return False
        texts = [os.fsdecode(n) for n in names]
        candidates = [*texts, "/".join(texts)]
        return any(fnmatch.fnmatch(c, p) for p in self.local_only for c in candidates)


EVERYTHING = Policy()
"""Nothing stays local."""
