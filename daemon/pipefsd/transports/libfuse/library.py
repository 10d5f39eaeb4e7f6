"""libfuse 2 itself: loading it, and what fusepy's declarations of it lack.

Importing this module loads the library, so only a worker that is to serve a mount through libfuse
imports it, by way of `session`. Everything here is declarations; nothing is called at import but
the loader.

fusepy 3.0.1 declares the structures of libfuse 2.6 with some of 2.8. Missing and added here: the
umask of the caller, the connection's agreement, `fallocate`, and the functions of a loop of our
own (see `session` for why).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any  # fusepy has no types, and ctypes cannot express these

from pipefs.errors import Unsupported

PACKAGE = "macFUSE" if sys.platform == "darwin" else "libfuse2"
"""What to install, as the package is called on this system."""

try:
    import fuse
except ImportError as _error:
    raise Unsupported(
        "the libfuse transport needs the Python package fusepy",
        hint="pip install fusepy, or mount with --transport kernel",
    ) from _error
except OSError as _error:
    # EnvironmentError('Unable to find libfuse'), or a library of another architecture.
    raise Unsupported(
        f"the libfuse transport needs libfuse 2, which is not installed ({_error})",
        hint=f"install {PACKAGE} (Debian: apt-get install libfuse2; macOS: macFUSE)",
    ) from _error

lib: ctypes.CDLL = fuse._libfuse

FileInfo: Any = fuse.fuse_file_info
Stat: Any = fuse.c_stat


class Context(ctypes.Structure):
    """Who asks, during a callback."""

    _fields_ = (
        ("fuse", ctypes.c_void_p),
        ("uid", fuse.c_uid_t),
        ("gid", fuse.c_gid_t),
        ("pid", fuse.c_pid_t),
        ("private_data", ctypes.c_void_p),
        ("umask", fuse.c_mode_t),
    )


class Connection(ctypes.Structure):
    """What INIT agreed on (`struct fuse_conn_info`)."""

    _fields_ = (
        ("proto_major", ctypes.c_uint),
        ("proto_minor", ctypes.c_uint),
        ("async_read", ctypes.c_uint),
        ("max_write", ctypes.c_uint),
        ("max_readahead", ctypes.c_uint),
        ("capable", ctypes.c_uint),
        ("want", ctypes.c_uint),
        ("max_background", ctypes.c_uint),
        ("congestion_threshold", ctypes.c_uint),
        ("reserved", ctypes.c_uint * 23),
    )


CAP_BIG_WRITES = 1 << 5

FALLOCATE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    fuse.c_off_t,
    fuse.c_off_t,
    ctypes.POINTER(FileInfo),
)


class Callbacks(fuse.fuse_operations):  # type: ignore[misc]  # fusepy has no types
    """`struct fuse_operations` of libfuse 2.9: fusepy's ends at `ioctl`."""

    _fields_ = (
        ("poll", ctypes.c_void_p),
        ("write_buf", ctypes.c_void_p),
        ("read_buf", ctypes.c_void_p),
        ("flock", ctypes.c_void_p),
        ("fallocate", FALLOCATE),
    )


def prototypes() -> dict[str, Any]:
    """Name → C type of each callback that can be given to libfuse."""
    fields = (*fuse.fuse_operations._fields_, *Callbacks._fields_)
    return {name: kind for name, kind, *_bits in fields if hasattr(kind, "_argtypes_")}


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A prototype of our own: fusepy sets one for all users of the library on some of them."""
    return ctypes.CFUNCTYPE(result, *arguments)((name, lib))


def _quick(name: str, result: Any, *arguments: Any) -> Any:
    """As `_function`, and other Python threads stand still during the call: for those that return
    at once, since a thread that computes is in no hurry to give the interpreter back."""
    return ctypes.PYFUNCTYPE(result, *arguments)((name, lib))


_P = ctypes.c_void_p


class IoVector(ctypes.Structure):
    """One part of a message."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


SEND = ctypes.CFUNCTYPE(ctypes.c_int, _P, ctypes.POINTER(IoVector), ctypes.c_size_t)


class ChannelOperations(ctypes.Structure):
    """`struct fuse_chan_ops`: a way of our own for replies."""

    _fields_ = (("receive", _P), ("send", SEND), ("destroy", _P))


get_context = _quick("fuse_get_context", ctypes.POINTER(Context))
interrupted = _quick("fuse_interrupted", ctypes.c_int)
setup = _function(
    "fuse_setup",
    _P,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(Callbacks),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.POINTER(ctypes.c_int),
    _P,
)
get_session = _function("fuse_get_session", _P, _P)
next_channel = _function("fuse_session_next_chan", _P, _P, _P)
buffer_size = _function("fuse_chan_bufsize", ctypes.c_size_t, _P)
receive = _function("fuse_chan_recv", ctypes.c_int, ctypes.POINTER(_P), _P, ctypes.c_size_t)
new_channel = _function("fuse_chan_new", _P, _P, ctypes.c_int, ctypes.c_size_t, _P)
send = _quick("fuse_chan_send", ctypes.c_int, _P, ctypes.POINTER(IoVector), ctypes.c_size_t)
forget_attributes = _function(
    "fuse_lowlevel_notify_inval_inode",
    *(ctypes.c_int, _P, ctypes.c_ulong, fuse.c_off_t, fuse.c_off_t),
)
_PROCESS = ("fuse_session_process", None, _P, _P, ctypes.c_size_t, _P)
process = _function(*_PROCESS)
process_alone = _quick(*_PROCESS)
"""For a request beside which no other is served: else it might wait for a path that another
request holds, which cannot go on without the interpreter."""
