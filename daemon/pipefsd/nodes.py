"""Node ids: the 64-bit numbers by which the kernel knows our files.

A node id can be computed again after a restart, from kind, content epoch and inode number:

    bits 62…60  kind: 0 live, 1 snapshot, 2 versions
    bits 59…40  content epoch of a live file (snapshot index for the other kinds)
    bits 39… 0  inode number

When another machine's content takes the place of a file's, its epoch grows, so the file gets a
new node: handles and cached pages of the old one go on showing the version they were opened on.
"""

from __future__ import annotations

INO_BITS = 40
EPOCH_BITS = 20
_INO_MASK = (1 << INO_BITS) - 1
_EPOCH_MASK = (1 << EPOCH_BITS) - 1

ROOT_NODE = 1


def node_id(ino: int, epoch: int = 0) -> int:
    """The node of a live inode. Epochs wrap after a million remote changes of one file."""
    return (epoch & _EPOCH_MASK) << INO_BITS | ino


def ino_of(node: int) -> int:
    return node & _INO_MASK


def epoch_of(node: int) -> int:
    return node >> INO_BITS & _EPOCH_MASK
