"""A finished file takes its name, and never the place of one that somebody changed meanwhile.

By renameat2(2) where the system has it: the new file and the old one change places, and if what
came out is not what was looked at before, they change back. Elsewhere a last look has to do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Callable

from pipefs.errors import Conflict
from pipefs.folder.scan import local_of, look_at
from pipefs.folder.states import Local

_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2
_LACKING = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""What systems say that have no such rename."""


def land(temporary: str, path: str, before: Local | None) -> Local:
    """Give a file its name; what it is there. The temporary name is free afterwards, also after
    an error.

    Args:
        before: what is to be replaced, as it was looked at; None: nothing is there.
    Raises:
        Conflict: something else is there; it is untouched.
    """
    try:
        if before is None:
            _place(temporary, path)
        else:
            _replace(temporary, path, before)
    except BaseException:
        _remove(temporary)
        raise
    return local_of(os.lstat(path))


def move_aside(path: str, free: str) -> None:
    """Give a file another name, in whose place nothing may be.

    Raises:
        Conflict: something is there; nothing was done.
    """
    _place(path, free)


def sync_file_system(folder: str) -> None:
    """All that was written to the folder's file system is on its disk when this returns."""
    call = _libc("syncfs")
    if call is None:
        os.sync()
        return
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if call(fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(fd)


def _place(temporary: str, path: str) -> None:
    try:
        if not _rename(temporary, path, _NOREPLACE):
            # A link refuses an existing name as well; not every file system has them.
            os.link(temporary, path)
            _remove(temporary)
    except FileExistsError:
        raise _changed(path) from None
    except OSError as e:
        if e.errno not in _LACKING:
            raise
        if look_at(path) is not None:
            raise _changed(path) from None
        os.rename(temporary, path)


def _replace(temporary: str, path: str, before: Local) -> None:
    now = look_at(path)
    if now is not None and not now.is_same_file(before):
        raise _changed(path)
    if now is None:
        _place(temporary, path)
        return
    if not _rename(temporary, path, _EXCHANGE):
        os.replace(temporary, path)
        return
    old = look_at(temporary)
    # The rename itself changed its ctime.
    if old is not None and (old.ino, old.size, old.mtime_ns) != (now.ino, now.size, now.mtime_ns):
        _rename(temporary, path, _EXCHANGE)
        raise _changed(path)
    _remove(temporary)


def _changed(path: str) -> Conflict:
    return Conflict(
        f"{path} was changed while the pipe's version was fetched; yours stays",
        hint="Push yours, or pull again to be asked",
    )


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def exchange(one: str, other: str) -> bool:
    """Let two paths change places in one step. False: this system cannot."""
    return _rename(one, other, _EXCHANGE)


def _rename(old: str, new: str, flags: int) -> bool:
    """False: this system cannot."""
    call = _libc("renameat2")
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _LACKING:
        return False
    raise OSError(code, os.strerror(code), new)


@functools.cache
def _libc(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
        return found
    except (AttributeError, OSError, TypeError):
        return None
