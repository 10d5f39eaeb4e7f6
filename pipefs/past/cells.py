"""When two cells are equal, as integers: equal cells of a column get the same code.

Two columns, of the old table and of the new, are coded together. Missing is missing, whatever
stands for it, and has the code -1. Numbers are equal by value, exactly: 1 and 1.0 are, and
9007199254740993 is not 9007199254740992.0. In CSV a column is one of numbers when all that both
versions have in it reads as a number. Where one version has numbers and the other text, both
are compared as text. Needs pandas; pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Codes = np.ndarray[Any, np.dtype[np.int64]]

MISSING = -1
_NUMBERS = frozenset({"integer", "floating", "mixed-integer-float", "decimal"})
_KINDS = {"i": "number", "u": "number", "f": "number", "b": "bool", "M": "time", "m": "time"}
_TIMES = frozenset({"datetime64", "datetime", "timedelta64", "timedelta"})
_EXACT = 1 << 53
"""Every integer up to it is a float of its own."""
_MARK = "\0"
"""In front of text that stands for something else, so that no cell's text is equal to it."""


def code(old: pd.Series, new: pd.Series, *, text: bool) -> tuple[Codes, Codes]:
    """Codes of the cells of both; equal ones are equal cells.

    Args:
        text: both come from CSV.
    """
    import pandas as pd

    values = _in_one_form(old, new, text=text)
    codes, _ = pd.factorize(values, use_na_sentinel=True)
    return codes[: len(old)], codes[len(old) :]


def _in_one_form(old: pd.Series, new: pd.Series, *, text: bool) -> Any:
    """The cells of both, in a form in which equal ones are equal for pandas."""
    import pandas as pd

    if text:
        numbers = numbers_in_text(old, new)
        if numbers is not None:
            return numbers
        return _objects(old, new)
    kinds = {_kind(s) for s in (old, new)} - {"empty"}
    if kinds <= {"number"} or kinds <= {"string"} or kinds <= {"time"}:
        if old.dtype == new.dtype and old.dtype != object:
            return pd.concat([old, new], ignore_index=True)
        if kinds != {"time"}:
            # Each as Python has it: integers and floats of any size are compared exactly.
            return _objects(old, new)
        return _objects(_each(old, _moment), _each(new, _moment))
    if len(kinds) == 2 and "string" in kinds and "mixed" not in kinds:
        return _objects(_each(old, _as_text), _each(new, _as_text))
    return _objects(_each(old, _hashable), _each(new, _hashable))


def _objects(old: pd.Series, new: pd.Series) -> Any:
    import numpy as np

    return np.concatenate([old.astype(object).to_numpy(), new.astype(object).to_numpy()])


def _each(values: pd.Series, change: Callable[[Any], object]) -> pd.Series:
    """`map` without pandas' guess of a type, which would make floats of integers."""
    import numpy as np
    import pandas as pd

    found = np.empty(len(values), dtype=object)
    for n, (value, missing) in enumerate(zip(values.astype(object), values.isna(), strict=True)):
        found[n] = None if missing else change(value)
    return pd.Series(found, dtype=object)


def _kind(values: pd.Series) -> str:
    """empty, or what all cells are: number, bool, time, string; else mixed."""
    import pandas as pd
    from pandas.api.types import infer_dtype

    if values.isna().all():
        return "empty"
    kind = values.dtype.kind  # of pandas' own types too
    if not isinstance(values.dtype, pd.CategoricalDtype) and kind in _KINDS:
        return _KINDS[kind]
    if isinstance(values.dtype, pd.StringDtype):
        return "string"
    found = infer_dtype(values.astype(object), skipna=True)
    if found in _NUMBERS:
        return "number"
    if found in _TIMES:
        return "time"
    return {"boolean": "bool", "string": "string"}.get(found, "mixed")


# --- numbers ------------------------------------------------------------------------------------


def numbers_in_text(old: pd.Series, new: pd.Series) -> Any | None:
    """The cells of both as numbers; None where some are none."""
    import pandas as pd

    both = pd.concat([old, new], ignore_index=True)
    there = both.dropna()
    if there.empty:
        return None
    try:
        found = pd.to_numeric(there)
    except (ValueError, TypeError):
        return None
    if found.dtype.kind not in "iuf" or (found.dtype.kind == "f" and _beyond_floats(found)):
        try:
            found = _each(there, exact).set_axis(there.index)
        except ValueError:
            return None
    whole = len(there) == len(both)
    return found if whole else found.astype(object).reindex(both.index)


def _beyond_floats(found: pd.Series) -> bool:
    """Whether there may have been integers that are no floats of their own."""
    return bool((found.abs() >= _EXACT).any())


def exact(text: str) -> object:
    """A number as exactly as Python can have it."""
    try:
        return int(text)
    except ValueError:
        return float(text)


# --- times and the rest -------------------------------------------------------------------------


def _moment(value: Any) -> object:
    """A time with a zone as the moment it is; all else as it is."""
    import pandas as pd

    if getattr(value, "tzinfo", None) is not None:
        return pd.Timestamp(value).tz_convert("UTC")
    return value


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return str(value)


def _hashable(value: object) -> object:
    """A cell that pandas can look up; equal ones stay equal, and no others become so."""
    if isinstance(value, bool):
        return f"{_MARK}{value}"  # else True would be 1
    if isinstance(value, list | tuple | dict | set) or hasattr(value, "__array__"):
        return _MARK + json.dumps(_nested(value), sort_keys=True, default=repr)
    return value


def _nested(value: Any) -> object:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _nested(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_nested(v) for v in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value


# --- rows ---------------------------------------------------------------------------------------


def rows(columns: Iterable[tuple[Codes, Codes]], old: int, new: int) -> tuple[Codes, Codes]:
    """One code for each row of both tables, from the codes of its cells.

    Args:
        old, new: how many rows there are.
    """
    import numpy as np
    import pandas as pd

    found = np.zeros(old + new, dtype=np.int64)
    for one, two in columns:
        cells = np.concatenate([one, two]) + 1
        width = int(cells.max(initial=0)) + 1
        # Below the number of rows, squared: no overflow.
        found = pd.factorize(found * width + cells)[0].astype(np.int64)
    return found[:old], found[old:]
