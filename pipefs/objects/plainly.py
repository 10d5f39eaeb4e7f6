"""What is no table as bytes and back: JSON, YAML, text, and arrays of numpy."""

from __future__ import annotations

import io
import json
from typing import Any

from pipefs.objects.formats import JSONL, NPZ, YAML


def write_json(obj: Any, form: str) -> bytes:
    """An object of dicts, lists, text, numbers, True, False and None.

    Raises:
        TypeError, ValueError: what would not come back as it is.
    """
    _check(obj)
    if form == JSONL:
        if not isinstance(obj, list | tuple):
            raise TypeError("JSON Lines need a list, with one object a line")
        return "".join(_text(item) + "\n" for item in obj).encode("utf-8", "surrogatepass")
    if form == YAML:
        import yaml

        return yaml.safe_dump(json.loads(_text(obj)), allow_unicode=True, sort_keys=False).encode()
    return _text(obj).encode("utf-8", "surrogatepass")


def _text(obj: object) -> str:
    return json.dumps(obj, ensure_ascii=False, allow_nan=False, default=_number)


def _number(value: Any) -> object:
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
        return value.item()
    raise TypeError(f"JSON has nothing for {type(value).__name__}")


def _check(obj: object) -> None:
    """JSON would quietly make text of other keys."""
    todo = [obj]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise TypeError(f"names in JSON are text, and {key!r} is none")
            todo += item.values()
        elif isinstance(item, list | tuple):
            todo += item


def read_json(data: bytes, form: str) -> Any:
    text = data.decode("utf-8-sig", "surrogatepass")
    if form == JSONL:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    if form == YAML:
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise ValueError(str(e).splitlines()[0]) from e
    return json.loads(text)


def write_array(obj: Any) -> bytes:
    """`np.save`, never with pickle."""
    import numpy as np

    out = io.BytesIO()
    np.save(out, obj, allow_pickle=False)
    return out.getvalue()


def write_arrays(obj: Any) -> bytes:
    """`np.savez_compressed` of one array, or of a dict of arrays by name."""
    import numpy as np

    named = obj if isinstance(obj, dict) else {"arr_0": obj}
    for name, array in named.items():
        # Asked here: older numpy would take `allow_pickle` for the name of an array.
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise TypeError(f"{name!r} is no array of numbers or text")
    out = io.BytesIO()
    np.savez_compressed(out, **named)
    return out.getvalue()


def read_array(data: bytes, form: str) -> Any:
    """An array, or of `.npz` those in it by name."""
    import numpy as np

    with io.BytesIO(data) as source:
        found = np.load(source, allow_pickle=False)
        return {name: found[name] for name in found.files} if form == NPZ else found
