"""Every invariant of the local state, as functions that yield problems.

An intact state yields none.

Read-only: nothing here repairs. Each function looks at one part, in the view the caller gives,
without a network. The names of the problems (`Problem.kind`) are stable: `pipefs check` prints
them and tests name them. Memory: one number for each inode of the overlay or with a name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pipefs import tree
from pipefs.db import View
from pipefs.keys import component_of, is_natural
from pipefs.records import (
    Dirty,
    Inode,
    decode_conflict,
    decode_content,
    decode_inode,
    decode_name,
    decode_staging,
    key_id,
)
from pipefs.staging import StagingArea
from pipefs.types import ROOT_INO


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken invariant. `path` is the live path where one is known, else an inode number."""

    kind: str
    path: str
    detail: str


def check(v: View, staging: StagingArea | None = None) -> Iterator[Problem]:
    """All invariants.

    Args:
        staging: the folder of local bytes; None leaves it out.
    """
    yield from names_have_inodes(v)
    yield from inodes_have_names(v)
    yield from directories_form_a_tree(v)
    yield from base_is_clean(v)
    yield from overlay_differs(v)
    yield from ready_is_announced(v)
    yield from side_tables(v)
    yield from links_have_files(v)
    yield from keys_are_found(v)
    if staging is not None:
        yield from staging_has_marks(v, staging)


def _where(v: View, ino: int) -> str:
    names = tree.names_to(v, ino)
    return tree.path_text(names) if names is not None else f"inode {ino}"


def _ino(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def names_have_inodes(v: View) -> Iterator[Problem]:
    """Every name, of base and live tree, means an inode of its kind in a directory that exists,
    and the inode points back."""
    for k, raw in v.scan("names"):
        entry = decode_name(raw)
        yield from _name_fits(v, "base", k, entry.kind, tree.base_inode(v, entry.ino))
        if _ino(k) != ROOT_INO:
            parent = tree.base_inode(v, _ino(k))
            if parent is None or not parent.is_dir:
                yield Problem("base-parent", _where(v, entry.ino), f"no directory {_ino(k)}")
    for k, raw in v.scan("onames"):
        entry = decode_name(raw)
        if entry.ino:
            yield from _name_fits(v, "live", k, entry.kind, tree.inode(v, entry.ino))
    for k, raw in v.scan("names"):
        if not v.has("onames", k):
            entry = decode_name(raw)
            yield from _name_fits(v, "live", k, entry.kind, tree.inode(v, entry.ino))


def _name_fits(v: View, side: str, k: bytes, kind: int, node: Inode | None) -> Iterator[Problem]:
    path = "/".join([_where(v, _ino(k)), component_of(k[8:])])
    if node is None:
        yield Problem(f"{side}-name-without-inode", path, "the inode is missing")
        return
    if (node.parent, node.name) != (_ino(k), k[8:]):
        yield Problem(
            f"{side}-name-not-mutual", path, f"inode {node.ino} is at {node.parent}, {node.name!r}"
        )
    if node.kind != kind:
        yield Problem(f"{side}-kind", path, f"the name says {kind:o}, the inode {node.mode:o}")


def inodes_have_names(v: View) -> Iterator[Problem]:
    """Every inode is named by the entry it points to; an overlay inode without a name is an
    orphan, or hides a base inode whose name is gone here."""
    for k, raw in v.scan("inodes"):
        node = decode_inode(raw)
        if node.ino == ROOT_INO:
            continue
        entry = tree.base_name(v, node.parent, node.name)
        if entry is None or entry.ino != node.ino:
            yield Problem("base-inode-without-name", _where(v, node.ino), f"inode {_ino(k)}")
        if not v.has("oinodes", k):
            live = tree.name_entry(v, node.parent, node.name)
            if live is None or live.ino != node.ino:
                yield Problem("live-inode-without-name", _where(v, node.ino), f"inode {node.ino}")
    for k, raw in v.scan("oinodes"):
        node = decode_inode(raw)
        if node.ino == ROOT_INO:
            continue
        if node.parent:
            live = tree.name_entry(v, node.parent, node.name)
            if live is None or live.ino != node.ino:
                yield Problem("live-inode-without-name", _where(v, node.ino), f"inode {node.ino}")
        elif not v.has("orphans", k) and not v.has("inodes", k):
            yield Problem("lost-inode", _where(v, node.ino), "no name, no orphan, no base")


def directories_form_a_tree(v: View) -> Iterator[Problem]:
    """From every live directory the way up ends at the root, and in the base too."""
    for side, look in (("live", tree.inode), ("base", tree.base_inode)):
        safe = {int(ROOT_INO)}
        tables = ("inodes", "oinodes") if side == "live" else ("inodes",)
        for table in tables:
            for k, _ in v.scan(table):
                node = look(v, _ino(k))
                if node is None or not node.parent:
                    continue
                chain: list[int] = []
                at = node.parent
                while at not in safe and at not in chain:
                    chain.append(at)
                    above = look(v, at)
                    if above is None or not above.is_dir or not above.parent:
                        yield Problem(f"{side}-detached", _where(v, node.ino), f"below {at}")
                        break
                    at = above.parent
                else:
                    if at in chain:
                        yield Problem(f"{side}-cycle", f"inode {node.ino}", f"{chain}")
                    safe.update(chain)


def base_is_clean(v: View) -> Iterator[Problem]:
    """Base inodes owe nothing; their files have a version."""
    for _, raw in v.scan("inodes"):
        node = decode_inode(raw)
        if node.dirty:
            yield Problem("base-dirty", _where(v, node.ino), f"dirty {node.dirty}")
        if node.is_file and node.content is None:
            yield Problem("base-without-version", _where(v, node.ino), f"inode {node.ino}")
        if node.is_file and node.content is not None and node.content.size != node.size:
            yield Problem("base-size", _where(v, node.ino), f"{node.size}, {node.content}")


def overlay_differs(v: View) -> Iterator[Problem]:
    """An overlay name never says what the base says; a tombstone hides a base name."""
    for k, raw in v.scan("onames"):
        entry = decode_name(raw)
        path = "/".join([_where(v, _ino(k)), component_of(k[8:])])
        below = v.get("names", k)
        if below is not None and decode_name(below).ino == entry.ino:
            yield Problem("overlay-equals-base", path, f"inode {entry.ino}")
        if not entry.ino and below is None:
            yield Problem("idle-tombstone", path, "the base has no such name")
    for _, raw in v.scan("oinodes"):
        node = decode_inode(raw)
        if node.parent and not node.dirty:
            yield Problem("overlay-owes-nothing", _where(v, node.ino), f"inode {node.ino}")


def ready_is_announced(v: View) -> Iterator[Problem]:
    """`ready` names overlay inodes with something to announce, and all that can be."""
    for k, _ in v.scan("ready"):
        node = tree.overlay_inode(v, _ino(k))
        if node is None or not node.dirty & Dirty.ANNOUNCE:
            yield Problem("ready-for-nothing", _where(v, _ino(k)), f"inode {_ino(k)}")
    for k, raw in v.scan("oinodes"):
        node = decode_inode(raw)
        waits = tree.waits_for_content(v, node)
        if node.parent and node.dirty & Dirty.ANNOUNCE and not waits and not v.has("ready", k):
            yield Problem("not-ready", _where(v, node.ino), f"inode {node.ino}")


def links_have_files(v: View) -> Iterator[Problem]:
    """A hard link means a file that exists on its side, and the file knows of it."""
    for side, table, look in (
        ("base", "inodes", tree.base_inode),
        ("live", "inodes", tree.inode),
        ("live", "oinodes", tree.overlay_inode),
    ):
        for k, _ in v.scan(table):
            link = look(v, _ino(k))
            if link is None or not link.alias or not link.parent:
                continue
            file = (tree.base_inode if side == "base" else tree.inode)(v, link.alias)
            if file is None or not file.parent or file.is_dir or file.alias:
                yield Problem(f"{side}-link-without-file", _where(v, link.ino), f"{link.alias}")
            elif not v.has("links", link.alias.to_bytes(8, "big") + k):
                yield Problem("link-not-indexed", _where(v, link.ino), f"{link.alias}")


def side_tables(v: View) -> Iterator[Problem]:
    """Orphans, epochs, markers, relocations and conflicts speak of inodes that exist."""
    for k, _ in v.scan("orphans"):
        node = tree.overlay_inode(v, _ino(k))
        if node is None or node.parent:
            yield Problem("orphan-with-name", _where(v, _ino(k)), f"inode {_ino(k)}")
    for k, raw in v.scan("epochs"):
        node = tree.inode(v, _ino(k))
        epoch = int.from_bytes(k[8:], "big")
        decode_content(raw)
        if node is not None and node.is_file and epoch >= node.epoch:
            yield Problem("epoch-of-the-future", _where(v, _ino(k)), f"{epoch} >= {node.epoch}")
    for k, raw in v.scan("markers"):
        node = tree.inode(v, _ino(k))
        if node is not None and not node.is_dir:
            yield Problem("marker-of-a-file", _where(v, _ino(k)), f"inode {_ino(k)}")
        if raw and not decode_content(raw).key.endswith("/"):
            yield Problem("marker-key", _where(v, _ino(k)), decode_content(raw).key)
    for k, raw in v.scan("conflicts"):
        node = tree.inode(v, _ino(k))
        if node is None or not node.parent:
            yield Problem("conflict-of-nothing", decode_conflict(raw).ours, f"inode {_ino(k)}")


def keys_are_found(v: View) -> Iterator[Problem]:
    """An object; a live file whose object is not at its
    path's key, and has no new bytes, waits for a copy (itself or a directory above it)."""
    for k, raw in v.scan("gone"):
        if k != key_id(decode_content(raw).key):
            yield Problem("gone-key", decode_content(raw).key, "filed under another key")
    for _, raw in v.scan("inodes"):
        node = decode_inode(raw)
        names = tree.base_names_to(v, node.ino)
        if node.content is None or names is None or is_natural(node.content.key, names):
            continue
        found = v.get("bykey", key_id(node.content.key))
        if found is None:
            yield Problem("key-not-indexed", tree.path_text(names), node.content.key)
    for _, raw in v.scan("oinodes"):
        node = decode_inode(raw)
        if node.content is None or node.dirty & Dirty.CONTENT or not node.parent:
            continue
        names = tree.names_to(v, node.ino)
        if names is not None and not is_natural(node.content.key, names):
            base = tree.base_inode(v, node.ino)
            announced = base is not None and base.content == node.content
            if not announced and not _is_relocating(v, node.ino):
                yield Problem("copy-not-planned", tree.path_text(names), node.content.key)


def _is_relocating(v: View, ino: int) -> bool:
    while ino and ino != ROOT_INO:
        if v.has("relocate", ino.to_bytes(8, "big")):
            return True
        node = tree.inode(v, ino)
        ino = node.parent if node is not None else 0
    return False


def staging_has_marks(v: View, staging: StagingArea) -> Iterator[Problem]:
    """Each mark has its staging file and each staging file its mark; a file with new bytes has
    one, and a changed one belongs to a file that says so."""
    marked = set()
    for k, raw in v.scan("staging"):
        mark = decode_staging(raw)
        marked.add(_ino(k))
        if not staging.exists(mark.ino):
            yield Problem("mark-without-bytes", _where(v, mark.ino), f"inode {mark.ino}")
        node = tree.inode(v, mark.ino)
        if node is None or not stat.S_ISREG(node.mode):
            yield Problem("mark-without-file", _where(v, mark.ino), f"inode {mark.ino}")
        elif mark.changed and node.parent and not node.dirty & Dirty.CONTENT:
            yield Problem("mark-but-clean", _where(v, mark.ino), f"inode {mark.ino}")
    for ino in staging.inos():
        if ino not in marked:
            yield Problem("bytes-without-mark", _where(v, ino), f"inode {ino}")
    for k, raw in v.scan("oinodes"):
        node = decode_inode(raw)
        if node.is_file and node.parent and node.dirty & Dirty.CONTENT and _ino(k) not in marked:
            yield Problem("bytes-lost", _where(v, node.ino), f"inode {node.ino}")


__all__ = ["Problem", "check"]
