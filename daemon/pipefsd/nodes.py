"""Node ids: the 64-bit numbers by which the kernel knows our files.

A node id can be computed again after a restart, from kind, content epoch and inode number:

    bits 62…60  kind: see `Kind`
    bits 59…40  content epoch of a live file; index of a past one's view
    bits 39… 0  inode number, of the live tree or of the view

When another machine's content takes the place of a file's, its epoch grows, so the file gets a
new node: handles and cached pages of the old one go on showing the version they were opened on.
"""

from __future__ import annotations

from enum import IntEnum

INO_BITS = 40
EPOCH_BITS = 20
_INO_MASK = (1 << INO_BITS) - 1
_EPOCH_MASK = (1 << EPOCH_BITS) - 1

_KIND_SHIFT = INO_BITS + EPOCH_BITS

ROOT_NODE = 1
FIRST_PAST = 1 << _KIND_SHIFT
"""Nodes from here on are of the past."""
MAX_VIEWS = 1 << EPOCH_BITS


class Kind(IntEnum):
    """What a node is of."""

    LIVE = 0
    VIEW = 1
    """A file or directory of a past view."""
    SNAPDIR = 2
    """`.snapshots` of a live directory."""
    ALIAS = 3
    """A name in it that only points to another one: `latest`, `@2h`."""


def past_node(kind: Kind, index: int, ino: int) -> int:
    """A node of the past: of a view's inode, or of a live directory's `.snapshots`."""
    return kind << _KIND_SHIFT | (index & _EPOCH_MASK) << INO_BITS | ino


def kind_of(node: int) -> Kind:
    return Kind(node >> _KIND_SHIFT)


def node_id(ino: int, epoch: int = 0) -> int:
    """The node of a live inode. Epochs wrap after a million remote changes of one file."""
    return (epoch & _EPOCH_MASK) << INO_BITS | ino


def ino_of(node: int) -> int:
    return node & _INO_MASK


def epoch_of(node: int) -> int:
    return node >> INO_BITS & _EPOCH_MASK
