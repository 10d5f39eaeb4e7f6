"""The kernel's passthrough ids, kept for the worker that comes after this one.

The ids live in the connection, which outlives workers, so a new worker must know them: an inode
opened with another id than the one it has gives EIO. The record is only good for one mount on one
boot; it lies next to the sockets and goes with the mount. Losing it costs those open files, never
data.
"""

from __future__ import annotations

import logging
import os

import msgspec

from pipefsd.transports.kernel.passthrough import Backing

log = logging.getLogger(__name__)


def save(path: str, table: list[Backing]) -> None:
    """Replace the record; a reader after kill -9 finds the old one or the new one."""
    fresh = f"{path}.new"
    # No fsync: it must survive this process, not the machine.
    with open(fresh, "wb") as file:
        file.write(msgspec.json.encode(table))
    os.replace(fresh, path)


def load(path: str) -> list[Backing]:
    """What the worker before this one recorded; [] when it never passed anything through."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=list[Backing])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        log.error("passthrough ids are lost: %s", error)
        return []
