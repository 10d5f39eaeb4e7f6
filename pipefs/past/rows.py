"""Two versions of a table, row by row: what was added, removed, changed.

Columns are matched by their names, so their order is no difference, and neither is that of the
rows. Rows are compared in the columns that both versions have.

With a key (columns whose values are unique and never missing in both versions), a row is the one
with its key: it is there in one version only, or in both and perhaps changed. Without, rows are
counted: of a row that is there three times and then twice, one was removed. A key that nobody named
is used only if it accounts for the difference with fewer rows than counting does: a column that is
unique by chance, or numbers the rows anew, explains nothing. Which cells are equal is said in
`pipefs.past.cells`. Needs pandas and memory for both tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipefs.errors import NotFound, UsageError
from pipefs.past import cells
from pipefs.past.tables import Table, counts_rows

if TYPE_CHECKING:
    import pandas as pd

    from pipefs.past.cells import Codes

_CANDIDATES = 8
"""Columns tried as a key."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A value that all rows of a set have in one column, and as few others as possible."""

    column: str
    value: object
    """None: it is missing in all of them."""


@dataclass(frozen=True, slots=True)
class RowDifference:
    """What differs between two versions of a table."""

    old_rows: int
    new_rows: int
    columns_added: list[str]
    columns_removed: list[str]
    retyped: dict[str, tuple[str, str]]
    """Column → its types, where the files say such."""
    key: list[str]
    """Empty: rows were counted."""
    removed: pd.DataFrame
    """Whole rows of the old version, and `added` of the new one."""
    added: pd.DataFrame
    changed_from: pd.DataFrame
    """Rows whose key is in both, as they were; `changed_to` has them in the same order."""
    changed_to: pd.DataFrame
    changed_cells: dict[str, int]
    """Column → in how many of the changed rows it changed."""
    removed_where: Shared | None = None
    added_where: Shared | None = None
    left_out: list[str] = field(default_factory=list)
    """Columns that only number the rows; not compared."""
    reordered: bool = False
    """No row differs, but their order does."""

    @property
    def same_rows(self) -> bool:
        return not (len(self.removed) or len(self.added) or len(self.changed_to))


@dataclass(frozen=True, slots=True)
class _Account:
    """One way to account for the difference: positions of rows."""

    removed: Codes
    added: Codes
    changed_from: Codes
    changed_to: Codes
    key: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def cost(self) -> int:
        return len(self.removed) + len(self.added) + len(self.changed_to)


def compare_rows(old: Table, new: Table, key: Sequence[str] = ()) -> RowDifference:
    """The difference of two versions of a table.

    Args:
        key: columns that identify a row; without, they are looked for.
    Raises:
        NotFound: there is no such column. UsageError: the key is not unique, or missing somewhere.
    """
    return _Comparison(old, new).difference(tuple(key))


class _Comparison:
    def __init__(self, old: Table, new: Table) -> None:
        self.old, self.new = old, new
        self.common = [c for c in old.frame.columns if c in new.frame.columns]
        self._text = old.text and new.text
        self._codes: dict[str, tuple[Codes, Codes]] = {}

    def codes(self, column: str) -> tuple[Codes, Codes]:
        if column not in self._codes:
            one, two = self.old.frame[column], self.new.frame[column]
            self._codes[column] = cells.code(one, two, text=self._text)
        return self._codes[column]

    def rows(self, columns: Sequence[str]) -> tuple[Codes, Codes]:
        coded = (self.codes(c) for c in columns)
        return cells.rows(coded, len(self.old.frame), len(self.new.frame))

    # --- accounts -----------------------------------------------------------------------------

    def difference(self, key: tuple[str, ...]) -> RowDifference:
        account = self._given(key) if key else self._best()
        old, new = self.old.frame, self.new.frame
        compared = [c for c in self.common if c not in account.left_out]
        changed = (account.changed_from, account.changed_to)
        order = self.rows(compared) if account.cost == 0 else None
        return RowDifference(
            old_rows=len(old),
            new_rows=len(new),
            columns_added=[c for c in new.columns if c not in old.columns],
            columns_removed=[c for c in old.columns if c not in new.columns],
            retyped=self._retyped(),
            key=list(account.key),
            removed=old.iloc[account.removed],
            added=new.iloc[account.added],
            changed_from=old.iloc[changed[0]],
            changed_to=new.iloc[changed[1]],
            changed_cells=self._changed_cells(compared, *changed),
            removed_where=self._shared(0, account.removed),
            added_where=self._shared(1, account.added),
            left_out=list(account.left_out),
            reordered=order is not None and bool((order[0] != order[1]).any()),
        )

    def _given(self, key: tuple[str, ...]) -> _Account:
        for column in key:
            if column not in self.common:
                raise NotFound(
                    f"there is no column {column!r} in both versions",
                    hint=f"Columns: {', '.join(self.common)}",
                )
        ids = self._key(key)
        if ids is None:
            names = ", ".join(key)
            raise UsageError(
                f"{names} is no key: a value occurs twice in one version, or is missing",
                hint="Without --key rows are counted; --key may be given several times",
            )
        return self._keyed(key, ids)

    def _best(self) -> _Account:
        best = self._counted(())
        counters = tuple(c for c in self.common if self._is_counter(c))
        if counters and best.cost:
            best = min(best, self._counted(counters), key=lambda a: a.cost)
        found = [(c, ids) for c in self.common if (ids := self._key((c,))) is not None]
        found.sort(key=lambda item: -_overlap(*item[1]))
        for column, ids in found[:_CANDIDATES]:
            account = self._keyed((column,), ids)
            if account.cost < best.cost or (account.cost == best.cost and not best.key):
                best = account
        return best

    def _is_counter(self, column: str) -> bool:
        return counts_rows(column, self.old.frame[column]) and counts_rows(
            column, self.new.frame[column]
        )

    def _key(self, columns: tuple[str, ...]) -> tuple[Codes, Codes] | None:
        """Codes of these columns together; None: they are no key."""
        for column in columns:
            if any((c == cells.MISSING).any() for c in self.codes(column)):
                return None
        ids = self.codes(columns[0]) if len(columns) == 1 else self.rows(columns)
        counted = _counts(*ids)
        return ids if all(c.max(initial=0) <= 1 for c in counted) else None

    def _keyed(self, key: tuple[str, ...], ids: tuple[Codes, Codes]) -> _Account:
        import numpy as np

        old, new = ids
        size = int(max(old.max(initial=-1), new.max(initial=-1))) + 1
        place = np.full(size, -1, dtype=np.int64)
        place[new] = np.arange(len(new))
        here = np.flatnonzero(place[old] >= 0)
        there = place[old[here]]
        rest = [c for c in self.common if c not in key]
        one, two = self.rows(rest)
        differ = one[here] != two[there]
        kept = np.zeros(len(new), dtype=bool)
        kept[there] = True
        return _Account(
            removed=np.flatnonzero(place[old] < 0),
            added=np.flatnonzero(~kept),
            changed_from=here[differ],
            changed_to=there[differ],
            key=key,
        )

    def _counted(self, left_out: tuple[str, ...]) -> _Account:
        import numpy as np

        old, new = self.rows([c for c in self.common if c not in left_out])
        none = np.zeros(0, dtype=np.int64)
        if not self.common:
            return _Account(np.arange(len(old)), np.arange(len(new)), none, none)
        before, after = _counts(old, new)
        return _Account(_beyond(old, after), _beyond(new, before), none, none, (), left_out)

    # --- what is told of it ---------------------------------------------------------------------

    def _changed_cells(self, columns: Sequence[str], old: Codes, new: Codes) -> dict[str, int]:
        if not len(old):
            return {}
        found = {}
        for column in columns:
            one, two = self.codes(column)
            count = int((one[old] != two[new]).sum())
            if count:
                found[column] = count
        return found

    def _shared(self, side: int, at: Codes) -> Shared | None:
        """What all these rows of one version have in common and the fewest others have."""
        frame = (self.old, self.new)[side].frame
        best: tuple[int, str] | None = None
        for column in self.common if len(at) else ():
            codes = self.codes(column)[side]
            value = codes[at[0]]
            others = int((codes == value).sum()) - len(at)
            alone = others + len(at) == len(frame)
            if alone or (codes[at] != value).any() or (best is not None and best[0] <= others):
                continue
            best = others, column
        if best is None:
            return None
        return Shared(best[1], self._value(side, best[1], int(at[0])))

    def _value(self, side: int, column: str, at: int) -> object:
        """A cell as the value that it is compared as."""
        frames = self.old.frame, self.new.frame
        if self.codes(column)[side][at] == cells.MISSING:
            return None
        found = frames[side][column].iloc[at]
        if self._text and cells.numbers_in_text(*(f[column] for f in frames)) is not None:
            return cells.exact(found)
        return found

    def _retyped(self) -> dict[str, tuple[str, str]]:
        one, two = self.old.types, self.new.types
        return {c: (one[c], two[c]) for c in one if c in two and one[c] != two[c]}


def _counts(old: Codes, new: Codes) -> tuple[Codes, Codes]:
    """How often each code occurs on both sides; codes count from 0."""
    import numpy as np

    size = int(max(old.max(initial=-1), new.max(initial=-1))) + 1
    return np.bincount(old, minlength=size), np.bincount(new, minlength=size)


def _overlap(old: Codes, new: Codes) -> int:
    """How many keys are on both sides."""
    one, two = _counts(old, new)
    return int((one * two).sum())


def _beyond(codes: Codes, others: Codes) -> Codes:
    """Positions of the rows of each code that are more than there are of it on the other side:
    the last ones."""
    import numpy as np

    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.searchsorted(ordered, ordered, side="left")
    nth = np.arange(len(codes)) - starts
    return np.sort(order[nth >= others[ordered]])
