"""How a test proves a promise: it quotes the sentence of docs/SEMANTICS.md, and asks ext4 too.

`@promise(name, sentence)` ties a test to one row of a table of that page; the layout tests keep
page and quotes the same. A test gets a `Twin`: an empty folder on a mounted pipe and one on a real
ext4. What it does in both must come out equal, so that the expectation is never our own idea.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
promise = pytest.mark.promise
"""`@promise("its-name", "The sentence of the page, word for word.")`"""

NOBODY, OTHER = 65534, 12345
"""Two ids without any right."""


@dataclass(frozen=True)
class Twin:
    """Two empty folders for one test."""

    ours: Path
    ext4: Path
    transport: str
    """`passthrough`, `kernel` (without passthrough) or `libfuse`."""

    def same(self, act: Callable[[Path], T]) -> T:
        """Do it in both folders; the outcomes must be equal. Returns it."""
        wanted = act(self.ext4)
        found = act(self.ours)
        assert found == wanted, f"{found} on the mount, {wanted} on ext4"
        return found


def tried(call: Callable[..., object], *args: object, **more: object) -> object:
    """What a call returned, or the name of its errno."""
    try:
        return call(*args, **more)
    except OSError as e:
        assert e.errno is not None
        return errno.errorcode[e.errno]


@contextlib.contextmanager
def opened(
    path: Path | str | bytes, flags: int, mode: int = 0o644, dir_fd: int | None = None
) -> Iterator[int]:
    """A descriptor, closed at the end."""
    fd = os.open(path, flags, mode, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def mode_of(path: Path) -> int:
    """Permission bits, set-id bits included."""
    return stat.S_IMODE(path.lstat().st_mode)


# --- what Python's library does not call -----------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, path: object = None) -> int:
    """A libc result; -1 is raised as the OSError it means."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return result


def c_function(name: str, *arguments: object, result: object = ctypes.c_int) -> Callable[..., int]:
    """A function of the C library, with its argument types; -1 raises."""
    function = getattr(_libc, name)
    function.argtypes, function.restype = arguments, result

    def call(*values: object) -> int:
        return checked(int(function(*values)), values)

    return call


_renameat2 = c_function(
    "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)
_fallocate = c_function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_AT_FDCWD = -100
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


def rename2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2)."""
    _renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _fallocate(fd, mode, offset, length)


# Raw calls: glibc's would change every thread of the process, the kernel's change this one.
_SETGROUPS, _SETFSUID, _SETFSGID = {
    "x86_64": (116, 122, 123),
    "aarch64": (159, 151, 152),
}[os.uname().machine]


def _setgroups(groups: list[int]) -> None:
    array = (ctypes.c_uint * len(groups))(*groups)
    checked(_libc.syscall(_SETGROUPS, len(groups), array))


@contextlib.contextmanager
def acting_as(uid: int, gid: int, groups: tuple[int, ...] = ()) -> Iterator[None]:
    """File access of this thread is that of another user, who has no capability for it."""
    before = os.getgroups()
    _setgroups(list(groups))
    _libc.syscall(_SETFSGID, gid)
    _libc.syscall(_SETFSUID, uid)
    try:
        yield
    finally:
        _libc.syscall(_SETFSUID, os.geteuid())
        _libc.syscall(_SETFSGID, os.getegid())
        _setgroups(before)
