"""The filters of one call of pull and push, under the name by which this folder knows them."""

from __future__ import annotations

from pipefs.filters import Filters, Patterns, patterns_of

__all__ = ["Filters", "Patterns", "patterns_of"]
