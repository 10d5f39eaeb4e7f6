"""Bringing back staging files that the local state does not know.

That happens when the state was lost or set aside as damaged, and in the moment between a staging
file's creation and its record. The sidecar says which file it was; the bytes come back under that
path, beside whatever is there now: nothing that was written is lost. Files without a sidecar go to
`lost+found` names in the root.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from typing import TYPE_CHECKING

from pipefs import namespace, tree
from pipefs.db import Txn
from pipefs.keys import names_of
from pipefs.records import Inode

if TYPE_CHECKING:
    from pipefs.volume import Volume

log = logging.getLogger(__name__)


def rescue(volume: Volume, ino: int) -> None:
    """Give the bytes of one unknown staging file a name again, as a new file to go up."""
    staging = volume.files.staging
    path = staging.path(ino)
    with volume.db.view() as v:
        known = tree.inode(v, ino) is not None
    if known:
        # Its mark was dropped on purpose just before the crash (the bytes are in the store), or
        # was never made (nothing was answered). A state that starts anew has no such inode.
        staging.remove(ino)
        return
    size = path.stat().st_size
    sidecar = staging.sidecar(ino)
    sparse = sidecar is not None and (sidecar.base or sidecar.copy_of) is not None
    if size == 0 or (sparse and path.stat().st_blocks * 512 < size):
        if size:
            _keep_incomplete(volume, ino)
        staging.remove(ino)
        return
    names = names_of(sidecar.path) if sidecar is not None and sidecar.path else []
    if not names:
        names = [b"lost+found-%x" % ino]
    mode = sidecar.mode if sidecar is not None else stat.S_IFREG | 0o644
    with volume.db.update() as t:
        parent = _directory(volume, t, names[:-1])
        name = names[-1]
        if tree.name_entry(t, parent, name) is not None:
            name = name[:200] + b".rescued-%x" % time.time_ns()
        node = namespace.new_inode(stat.S_IFREG, mode, -1, -1)
        node.size = size
        # The version it was changed from: if that is still current, this is its successor, and
        # if not, both are kept.
        node.content = sidecar.base if sidecar is not None else None
        namespace.make(t, volume.inos, parent, name, node, time.time_ns())
        volume.files.created(t, node, tree.path_text([*names[:-1], name]), 0)
        os.rename(path, staging.path(node.ino))
    log.warning("rescued %s (%d bytes) from its staging file", tree.path_text(names), size)
    staging.remove(ino)


def _keep_incomplete(volume: Volume, ino: int) -> None:
    """A part of a version that is in the store: what was written cannot be told from holes any
    more, so the file stays aside for the user."""
    staging = volume.files.staging
    aside = staging.directory / f"incomplete-{ino:x}-{time.time_ns():x}"
    os.rename(staging.path(ino), aside)
    log.warning("an incomplete staging file without state is kept as %s", aside)


def _directory(volume: Volume, t: Txn, names: list[bytes]) -> int:
    parent = 1
    for name in names:
        entry = tree.name_entry(t, parent, name)
        if entry is None:
            directory: Inode = namespace.new_inode(stat.S_IFDIR, 0o755, -1, -1)
            parent = namespace.make(t, volume.inos, parent, name, directory, time.time_ns()).ino
        elif stat.S_ISDIR(entry.kind):
            parent = entry.ino
        else:
            return 1
    return parent
