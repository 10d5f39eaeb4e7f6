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

_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}
"""Linux has one number for EOPNOTSUPP and ENOTSUP."""

on_kernel = pytest.mark.parametrize("mounted", ["passthrough", "kernel"], indirect=True)
"""For what libfuse 2 cannot carry; `test_libfuse` says what comes instead."""

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
        return _NAMES[e.errno]


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


class _Capabilities(ctypes.Structure):
    """Two times effective, permitted, inheritable."""

    _fields_ = (("words", ctypes.c_uint32 * 6),)


def _set_effective(words: tuple[int, int] | None) -> tuple[int, int]:
    """Set this thread's effective capabilities (None: to none) and return those before."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    found = _Capabilities()
    checked(_libc.capget(header, ctypes.byref(found)))
    before = found.words[0], found.words[3]
    found.words[0], found.words[3] = words or (0, 0)
    checked(_libc.capset(header, ctypes.byref(found)))
    return before


@contextlib.contextmanager
def acting_as(uid: int, gid: int, groups: tuple[int, ...] = ()) -> Iterator[None]:
    """File access of this thread is that of another user, who has no capabilities (unless 0)."""
    before = os.getgroups()
    _setgroups(list(groups))
    _libc.syscall(_SETFSGID, gid)
    _libc.syscall(_SETFSUID, uid)
    capabilities = _set_effective(None)
    if not uid:
        _set_effective(capabilities)
    try:
        yield
    finally:
        _set_effective(capabilities)
        _libc.syscall(_SETFSUID, os.geteuid())
        _libc.syscall(_SETFSGID, os.getegid())
        _setgroups(before)
