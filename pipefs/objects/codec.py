"""One object to bytes and back, by its type and by the name it is put under.

    data, headers = encode(frame, "clean/storms.parquet", {"source": "NOAA"})
    decode(data, "clean/storms.parquet", headers)                   # the frame
    decode(data, "clean/storms.parquet", headers, want="arrow")     # as an Arrow table

The suffix says which format, the type what may be in it; without a suffix that says one, a table is
Parquet, an array `.npy`, a dict or list JSON. `.gz` packs text formats. Nothing is ever pickled:
reading a file must not run it. What was put is remembered in the object's metadata
(`pipefs-format`, `pipefs-object`), so it comes back as it was under any name; once other bytes are
there, and of files that others wrote, the name decides, and T4's own mark (`helium`).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import xxhash

from pipefs.errors import Corrupt, PipefsError, Refused, UsageError
from pipefs.objects import formats as f
from pipefs.objects import kinds as k
from pipefs.objects import plainly, tabular
from pipefs.objects.metadata import FORMAT_KEY, OBJECT_KEY, headers_for, t4_header

INSTALL = "pip install 'pipefs[tables]'"

_DEFAULT = {
    k.BYTES: f.BYTES,
    k.TEXT: f.TEXT,
    k.JSON: f.JSON,
    k.NUMPY: f.NPY,
    **dict.fromkeys(k.TABLES, f.PARQUET),
}
_ALLOWED = {
    k.TEXT: f.AS_TEXT,
    k.JSON: frozenset({f.JSON, f.JSONL, f.YAML, f.NPZ}),
    k.NUMPY: frozenset({f.NPY, f.NPZ}),
    **dict.fromkeys(k.TABLES, f.TABULAR),
}
_SUFFIXES = {
    k.TEXT: "any text, such as .txt .md .csv .json",
    k.JSON: ".json .jsonl .yaml, and .npz for arrays by name",
    k.NUMPY: ".npy .npz",
    **dict.fromkeys(k.TABLES, ".parquet .csv .tsv .jsonl .json .arrow"),
}
_OF_FORMAT = {
    **dict.fromkeys((f.PARQUET, f.ARROW, f.CSV, f.TSV, f.JSONL), k.PANDAS),
    **dict.fromkeys((f.JSON, f.YAML), k.JSON),
    **dict.fromkeys((f.NPY, f.NPZ), k.NUMPY),
    f.TEXT: k.TEXT,
    f.BYTES: k.BYTES,
}
"""As what a file comes back of which only the format is known."""
_OF_T4 = {
    "pyarrow": (f.PARQUET, k.PANDAS),
    "json": (f.JSON, k.JSON),
    "unicode": (f.TEXT, k.TEXT),
    "bytes": (f.BYTES, k.BYTES),
    "numpy": (f.NPY, k.NUMPY),
}
_PACKAGE = {k.PANDAS: "pandas", k.POLARS: "polars", k.ARROW: "pyarrow", k.NUMPY: "numpy"}
_GZIP = b"\x1f\x8b"


def encode(
    obj: object, path: str, meta: Mapping[str, Any] | None = None
) -> tuple[bytes, dict[str, str]]:
    """The bytes to put at a path, and the object metadata to put with them.

    The metadata has the format, and `meta` as `metadata.headers_for` writes it; pass it through
    `metadata.that_fit` before it goes to S3, and give `metadata.xattrs_for` to the commit.

    Args:
        path: in the pipe; its suffix decides the format.
        meta: what the author says of it: whatever JSON can hold.

    Raises:
        UsageError: no object that can be kept, or not under this suffix, or not this metadata.
        Refused: a package that writes it is missing.
    """
    kind = k.kind_of(obj)
    if not kind:
        raise UsageError(f"{_name(obj)} cannot be put as a file", hint=k.advice_for(obj))
    if not path or path.endswith("/"):
        raise UsageError(f"{path!r} names no file", hint=f"A name in it: {path}NAME")
    form = _format_for(kind, path, obj)
    headers = headers_for(meta)
    try:
        data = _write(obj, kind, form)
    except ImportError as e:
        raise _missing(e, kind) from e
    except PipefsError:
        raise
    except Exception as e:  # the packages have errors of many kinds
        raise UsageError(f"{_name(obj)} cannot be written as {form}: {_said(e)}") from e
    if f.is_packed(path) and form in f.AS_TEXT:
        data = gzip.compress(data, mtime=0)  # the same object is the same bytes
    return data, {FORMAT_KEY: form, OBJECT_KEY: f"{kind} {_digest(data)}", **headers}


def _digest(data: bytes) -> str:
    """What the mark is of: it may outlive these bytes, as an attribute of the file."""
    return f"xxh3:{xxhash.xxh3_64_hexdigest(data)}"


def _format_for(kind: str, path: str, obj: object) -> str:
    if kind == k.BYTES:
        return f.BYTES
    form = f.format_of(path)
    allowed = _ALLOWED[kind]
    if form == f.TEXT:
        form = "" if kind in (k.TEXT, k.JSON) else form  # JSON is text, under any name
    default = _DEFAULT[kind]
    packable = not f.is_packed(path) or (form or default) in f.AS_TEXT
    if (form and form not in allowed) or f.is_foreign(path) or not packable:
        last = path.rpartition("/")[2]
        raise UsageError(
            f"{_name(obj)} cannot be put as {last}",
            hint=f"It can be with these suffixes: {_SUFFIXES[kind]}; bytes with any",
        )
    # Text is what it is, whatever it tells: only its reader sees CSV in it.
    return f.TEXT if kind == k.TEXT else form or default


def _write(obj: Any, kind: str, form: str) -> bytes:
    if kind == k.BYTES:
        return bytes(obj)
    if kind == k.TEXT:
        return str(obj).encode("utf-8", "surrogatepass")
    if form == f.NPZ:
        return plainly.write_arrays(obj)
    if kind == k.JSON:
        return plainly.write_json(obj, form)
    if kind == k.NUMPY:
        return plainly.write_array(obj)
    return tabular.write(obj, kind, form)


def needs_metadata(path: str) -> bool:
    """Whether a file's name leaves open what `decode` makes of it, so that its object's metadata
    are worth a request."""
    return f.format_of(path) in ("", f.TEXT, f.NPZ)


def decode(
    data: bytes,
    path: str,
    metadata: Mapping[str, str] | None = None,
    want: Any = None,
    *,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """The object that a file's bytes are.

    Args:
        metadata: of the object; without them the name decides.
        want: `pandas`, `polars`, `arrow`, `numpy`, `json`, `text`, `bytes`, or a class of
            these; else as it was put, and a table of another tool as pandas'. `bytes` are the
            file's, as they are, and always possible.
        options: for the reader of a table (`sep`, `usecols`, `columns`, …).

    Raises:
        UsageError: it is nothing of that kind. Refused: a package that reads it is missing.
        Corrupt: the bytes are not what name or metadata say.
    """
    form, kind = _known(data, path, metadata or {})
    if want is not None:
        kind = k.wanted(want)
        if form in (f.BYTES, f.TEXT):
            form = f.format_of(path) or form  # text that a reader takes for more
    if kind == k.BYTES:
        return data
    reader = _reader(form, kind, path)
    try:
        if data[:2] == _GZIP and form in f.AS_TEXT:
            data = gzip.decompress(data)
        return reader(data, options or {})
    except ImportError as e:
        raise _missing(e, kind) from e
    except UsageError:
        raise
    except (Exception, zlib.error) as e:  # the packages have errors of many kinds
        raise Corrupt(
            f"{path} cannot be read as {form}: {_said(e)}", hint="Its bytes as they are: want=bytes"
        ) from e


def _known(data: bytes, path: str, metadata: Mapping[str, str]) -> tuple[str, str]:
    """Format and kind of a file: as its metadata say, else as its name says, else bytes."""
    form, (kind, _, of) = metadata.get(FORMAT_KEY, ""), metadata.get(OBJECT_KEY, "").partition(" ")
    if form in _OF_FORMAT and kind in k.ALL and of == _digest(data):
        return form, kind
    target = t4_header(metadata).get("target")
    if isinstance(target, str) and target in _OF_T4:
        return _OF_T4[target]
    form = f.format_of(path) or f.BYTES
    return form, _OF_FORMAT[form]


Reader = Callable[[bytes, Mapping[str, Any]], Any]


def _reader(form: str, kind: str, path: str) -> Reader:
    if kind in k.TABLES and form in f.TABULAR:
        return lambda data, options: tabular.read(data, kind, form, options)
    if kind == k.TEXT and form in f.AS_TEXT | {f.BYTES}:
        return lambda data, _: data.decode("utf-8", "surrogatepass")
    if kind == k.JSON and form in (f.JSON, f.JSONL, f.YAML, f.TEXT, f.BYTES):
        return lambda data, _: plainly.read_json(data, form)
    if form in (f.NPY, f.NPZ) and (kind == k.NUMPY or (kind == k.JSON and form == f.NPZ)):
        return lambda data, _: plainly.read_array(data, form)
    raise UsageError(
        f"{path} is {form}, which cannot be read as {kind}",
        hint=f"It can be as {_OF_FORMAT[form]}, and its bytes always: want=bytes",
    )


def _name(obj: object) -> str:
    kind = type(obj)
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"


def _said(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _missing(error: ImportError, kind: str) -> Refused:
    package = (error.name or _PACKAGE.get(kind, kind)).partition(".")[0]
    hint = INSTALL if package in ("pandas", "pyarrow", "numpy") else f"pip install {package}"
    return Refused(f"{kind} needs {package}, which is not installed", hint=f"Try: {hint}")
