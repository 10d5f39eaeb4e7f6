"""TOML files of settings: read strictly, replaced atomically, durable when the call returns.

Files are 0600 unless told otherwise: a registry tells where somebody's data is. Knows nothing of
what is in them.
"""

from __future__ import annotations

import errno
import os
import tomllib
import uuid
from collections.abc import Mapping
from pathlib import Path

from pipefs.errors import NoSpace, UsageError


def read_toml(path: Path) -> dict[str, object]:
    """Contents of a TOML file, {} when there is none. `UsageError` when it cannot be read."""
    try:
        with open(path, "rb") as f:
            return tomllib.load(f)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path} is not valid TOML: {e}") from e
    except OSError as e:
        raise UsageError(f"{path} cannot be read: {e.strerror}") from e


def write_toml(path: Path, content: Mapping[str, object], *, exclusive: bool = False) -> None:
    """Replace a file with this content, 0600; as `write_file`."""
    import tomli_w  # Here: only commands that write pay for it.

    write_file(path, tomli_w.dumps(dict(content)).encode(), exclusive=exclusive)


def write_file(path: Path, data: bytes, *, exclusive: bool = False, mode: int = 0o600) -> None:
    """Replace a file atomically and durably: a reader or a crash sees old or new.

    Args:
        exclusive: raise `FileExistsError` instead of replacing.
        mode: permissions of the new file; the umask takes its part.
    Raises:
        NoSpace, UsageError: it was not written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as e:
        raise _write_error(path, e) from e
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        if exclusive:
            os.link(temp, path)
            os.unlink(temp)
        else:
            os.replace(temp, path)
    except FileExistsError:
        os.unlink(temp)
        raise
    except OSError as e:
        temp.unlink(missing_ok=True)
        raise _write_error(path, e) from e
    sync_folder(path.parent)


def _write_error(path: Path, error: OSError) -> UsageError | NoSpace:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path} was not written: {error.strerror}")
    return UsageError(f"{path} cannot be written: {error.strerror}")


def sync_folder(folder: Path) -> None:
    """Make names created, replaced or removed in a folder survive a power loss."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
