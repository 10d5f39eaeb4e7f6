"""Which paths count: d6tpipe's filters.

Patterns are those of `fnmatch`, several joined by `|` (`*.csv|*.xls*`); `*` also crosses `/`. What
`include` lets in, `exclude` may take out again. Case counts on every system.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Patterns = str | Iterable[str] | None


def patterns_of(given: Patterns) -> tuple[str, ...]:
    """Patterns as one text with `|`, or several; None and empty ones are none."""
    texts = [given] if isinstance(given, str) else list(given or ())
    return tuple(part for text in texts for one in text.split("|") if (part := one.strip()))


@dataclass(frozen=True, slots=True)
class Filters:
    """Patterns that a path must and must not match."""

    include: tuple[str, ...] = ()
    """None of them: every path."""
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        include: Patterns = None,
        exclude: Patterns = None,
        *,
        otherwise: tuple[Sequence[str], Sequence[str]] = ((), ()),
    ) -> Filters:
        """Filters of one call.

        Args:
            include, exclude: None takes the pipe's own, "" is no filter.
            otherwise: the pipe's own `include` and `exclude`.
        """
        return cls(
            patterns_of(otherwise[0] if include is None else include),
            patterns_of(otherwise[1] if exclude is None else exclude),
        )

    def takes(self, path: str) -> bool:
        """Whether a path counts."""
        include, exclude = _compiled(self.include), _compiled(self.exclude)
        if include is not None and include.match(path) is None:
            return False
        return exclude is None or exclude.match(path) is None

    def shuts_out(self, folder: str) -> bool:
        """Whether `exclude` takes out a folder, or all that is in it."""
        exclude = _compiled(self.exclude)
        return exclude is not None and any(map(exclude.match, (folder, f"{folder}/")))

    @property
    def is_empty(self) -> bool:
        return not (self.include or self.exclude)


NO_FILTERS = Filters()
"""Everything counts."""


@functools.lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    # `translate` takes any text for a pattern: what is no valid set stands for itself.
    return re.compile("|".join(f"(?:{fnmatch.translate(p)})" for p in patterns))
