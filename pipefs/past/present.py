"""The present of a pipe as a manifest, for comparing it with the past.

What is not in the store yet has a line without a version. Made of the last manifest that this
machine knows and of what changed since, so it costs what changed; nothing is stored.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

from pipefs import links, manifest, touched, tree
from pipefs.db import View
from pipefs.keys import component_of
from pipefs.manifest import Root, path_of
from pipefs.past.building import build
from pipefs.past.entries import entry_of
from pipefs.past.walking import Listed, Sub
from pipefs.records import HARD_LINK, Dirty, Inode, NameEntry, decode_inode, decode_name
from pipefs.touched import Touched
from pipefs.types import ROOT_INO
from pipefs.volume import Volume


class LiveSource:
    """See `pipefs.past.walking.Source`: the live tree."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def root(self) -> Inode:
        return self._volume.inode(ROOT_INO)

    def directory(self, names: Sequence[bytes]) -> list[int]:
        found = [int(ROOT_INO)]
        with self._volume.db.view() as v:
            for name in names:
                entry = tree.name_entry(v, found[-1], name)
                if entry is None or not stat.S_ISDIR(entry.kind):
                    break
                found.append(entry.ino)
        return found

    def listed(self, ino: int, names: list[bytes], first: bytes, limit: int) -> list[Listed]:
        above = path_of(names) + "/" if names else ""
        with self._volume.db.view() as v:
            rows = tree.children_from(v, ino, first, limit)
            targets = {n: self._target(v, e) for n, e in rows if e.kind == HARD_LINK}
        nodes = dict(self._volume.child_inodes(rows))
        out: list[Listed] = []
        for name, found in rows:
            node = nodes.get(name)
            line = None
            if node is not None:
                further = max(0, node.nlink - 1) if not node.is_dir else 0
                path = above + component_of(name)
                line = entry_of(node, path, link=targets.get(name, ""), links=further)
                if node.dirty & Dirty.CONTENT:
                    line.version, line.etag, line.checksum = None, "", ""
            out.append((name, found.ino, line))
        return out

    @staticmethod
    def _target(v: View, entry: NameEntry) -> str:
        file = links.target(v, tree.need(v, entry.ino))
        return path_of(tree.names_to(v, file.ino) or [])

    def subdirectories(self, ino: int, first: bytes, limit: int) -> tuple[list[Sub], bytes]:
        with self._volume.db.view() as v:
            rows = tree.children_from(v, ino, first, limit)
        found = [(name, e.ino) for name, e in rows if stat.S_ISDIR(e.kind)]
        return found, rows[-1][0] + b"\0" if len(rows) == limit else b""


class Present:
    """The live tree as a manifest, whose new parts are kept in memory."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}

    def take(self, volume: Volume, old: Root | None) -> Root:
        """`old`: the manifest that the fact `baseline` names, if it can be read."""
        with volume.db.view() as v:
            changed = touched.all_of(v) + overlaid(v)
        return build(LiveSource(volume), self._keep, old, changed)

    def _keep(self, data: bytes) -> str:
        name = manifest.name_of_object(data)
        self.parts[name] = data
        return name


def overlaid(v: View) -> list[Touched]:
    """Every path at which the live tree may differ from the base."""
    out: list[Touched] = []
    for key, raw in v.scan("oinodes"):
        node = decode_inode(raw)
        base = tree.base_inode(v, node.ino)
        moved = base is not None and (base.parent, base.name) != (node.parent, node.name)
        below = node.is_dir and (moved or not node.parent)
        places = (tree.names_to(v, node.ino), tree.base_names_to(v, node.ino))
        out += [Touched(names, below) for names in places if names]
        if not node.is_dir and v.count("links"):
            out += _linked(v, key)
    for key, raw in v.scan("onames"):
        parent, name = int.from_bytes(key[:8], "big"), key[8:]
        known = tree.base_name(v, parent, name)
        kinds = (decode_name(raw).kind, known.kind if known is not None else 0)
        below = any(map(stat.S_ISDIR, kinds))
        for above in (tree.names_to(v, parent), tree.base_names_to(v, parent)):
            if above is not None:
                out.append(Touched([*above, name], below))
    return out


def _linked(v: View, file: bytes) -> list[Touched]:
    """Lines of the hard links of a file, which name its path."""
    out = []
    for key, _ in v.scan("links", file, (int.from_bytes(file, "big") + 1).to_bytes(8, "big")):
        ino = int.from_bytes(key[8:], "big")
        places = (tree.names_to(v, ino), tree.base_names_to(v, ino))
        out += [Touched(names, False) for names in places if names]
    return out
