"""What a commit says of a thing is what another machine makes of it."""

from __future__ import annotations

import stat

import pytest

from pipefs.changes import inode_of
from pipefs.commits import Change
from pipefs.keys import component_of
from pipefs.outbox import wire_xattrs

TARGETS = [b"a", b".", b"..", b"../x/y", b"/abs/%2F/%25", b"a/\x01\xff", b"t" * 4000, b"a\\b%5C"]


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_a_link_target_comes_back_with_its_length(target: bytes) -> None:
    node = inode_of(Change(op="symlink", path="l", target=component_of(target)), 0)
    assert stat.S_ISLNK(node.mode)
    assert (node.target, node.size) == (target, len(target))


def test_attribute_names_come_back() -> None:
    xattrs = {b"user.a/%2F\x01": b"1", b"user." + b"n" * 250: b""}
    node = inode_of(Change(op="put", path="f", xattrs=wire_xattrs(xattrs)), 0)
    assert node.xattrs == xattrs
