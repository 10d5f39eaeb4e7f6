"""Access lists: their bytes, and what they do to modes, as posix_acl(7) and acl(5) have it."""

from __future__ import annotations

import errno
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipefs import acl
from pipefs.acl import GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Acl, Entry

perms = st.integers(0, 7)
ids = st.integers(0, acl.NO_ID - 1)
modes = st.integers(0, 0o7777)
kinds = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO])


@st.composite
def lists(draw: st.DrawFn) -> Acl:
    """Any list that is allowed."""
    users = [Entry(USER, p, i) for i, p in draw(st.dictionaries(ids, perms, max_size=4)).items()]
    groups = [Entry(GROUP, p, i) for i, p in draw(st.dictionaries(ids, perms, max_size=4)).items()]
    masks = [Entry(MASK, draw(perms))] if users or groups or draw(st.booleans()) else []
    own, group, other = draw(perms), draw(perms), draw(perms)
    head = (Entry(USER_OBJ, own), *users, Entry(GROUP_OBJ, group))
    return (*head, *groups, *masks, Entry(OTHER, other))


def minimal(mode: int) -> Acl:
    return (
        Entry(USER_OBJ, mode >> 6 & 7),
        Entry(GROUP_OBJ, mode >> 3 & 7),
        Entry(OTHER, mode & 7),
    )


@given(lists())
def test_a_list_survives_its_bytes(found: Acl) -> None:
    raw = acl.encode(found)
    assert acl.parse(raw) == found
    assert acl.encode(acl.parse(raw)) == raw


@given(st.binary(max_size=80))
def test_any_bytes_are_a_list_or_refused_with_an_errno(raw: bytes) -> None:
    try:
        found = acl.parse(raw)
    except OSError as e:
        assert e.errno in (errno.EINVAL, errno.EOPNOTSUPP)
    else:
        assert acl.encode(found) == raw


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 7)],
        [Entry(USER_OBJ, 7), Entry(USER, 7, 5), Entry(GROUP_OBJ, 7), Entry(OTHER, 7)],
        [Entry(GROUP_OBJ, 7), Entry(USER_OBJ, 7), Entry(OTHER, 7)],
        [Entry(USER_OBJ, 8), Entry(GROUP_OBJ, 7), Entry(OTHER, 7)],
        [Entry(USER_OBJ, 7, 3), Entry(GROUP_OBJ, 7), Entry(OTHER, 7)],
        [Entry(USER_OBJ, 7), Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 7), Entry(OTHER, 7)],
        [Entry(USER_OBJ, 7), Entry(GROUP_OBJ, 7), Entry(OTHER, 7), Entry(0x40, 7)],
    ],
    ids=["empty", "no other", "no mask", "order", "bits", "id", "twice", "tag"],
)
def test_what_is_no_list_is_refused(entries: list[Entry]) -> None:
    with pytest.raises(OSError) as caught:
        acl.parse(acl.encode(tuple(entries)))
    assert caught.value.errno == errno.EINVAL


@given(modes)
def test_a_list_that_is_a_mode_becomes_one(mode: int) -> None:
    old = {acl.ACCESS: b"old", b"user.x": b"1"}
    found, xattrs = acl.set_access(old, stat.S_IFREG | 0o4000, acl.encode(minimal(mode)))
    assert found == stat.S_IFREG | 0o4000 | mode & 0o777
    assert xattrs == {b"user.x": b"1"}
    assert acl.set_access(None, 0, acl.encode(minimal(mode)))[1] is None


@given(lists(), kinds, modes)
def test_a_list_is_shown_as_it_was_set(found: Acl, kind: int, before: int) -> None:
    raw = acl.encode(found)
    mode, xattrs = acl.set_access(None, kind | before, raw)
    assert mode & 0o777 == acl.mode_of(found)
    assert mode & ~0o777 == (kind | before) & ~0o777
    assert acl.shown(xattrs, acl.ACCESS, mode) == (None if acl.is_mode(found) else raw)


@given(lists())
def test_the_set_gid_bit_goes_when_the_kernel_says_so(found: Acl) -> None:
    mode, _ = acl.set_access(None, stat.S_IFREG | 0o6755, acl.encode(found), kill_sgid=True)
    assert mode & 0o7000 == 0o4000


@given(lists(), modes)
def test_chmod_changes_owner_mask_and_others_only(found: Acl, mode: int) -> None:
    changed = acl.with_mode(found, mode)
    assert acl.mode_of(changed) == mode & 0o777
    assert acl.with_mode(changed, acl.mode_of(found)) == found
    kept = (USER, GROUP, GROUP_OBJ) if any(e.tag == MASK for e in found) else (USER, GROUP)
    assert [e for e in changed if e.tag in kept] == [e for e in found if e.tag in kept]


@given(lists(), kinds, modes, modes)
def test_new_things_inherit_no_more_than_they_were_made_with(
    default: Acl, kind: int, mode: int, umask: int
) -> None:
    parent = acl.set_default(None, acl.encode(default))
    made, xattrs = acl.inherit(parent, kind | mode)
    assert made & ~mode & 0o777 == 0
    assert made & ~acl.mode_of(default) & 0o777 == 0
    assert made & ~0o777 == (kind | mode) & ~0o777
    assert acl.new_mode(parent, mode, umask) == made & 0o7777, "the umask does not count"
    assert acl.inherit(parent, made) == (made, xattrs), "doing it again changes nothing"
    access = acl.shown(xattrs, acl.ACCESS, made)
    assert (access is None) == acl.is_mode(default)
    if access is not None:
        assert acl.mode_of(acl.parse(access)) == made & 0o777
        assert [e.id for e in acl.parse(access)] == [e.id for e in default]
    handed_down = (xattrs or {}).get(acl.DEFAULT)
    assert handed_down == (parent[acl.DEFAULT] if kind == stat.S_IFDIR else None)


@given(modes, modes)
def test_without_a_default_list_the_umask_counts(mode: int, umask: int) -> None:
    for xattrs in (None, {b"user.x": b"1"}):
        assert acl.new_mode(xattrs, mode, umask) == mode & ~umask
        assert acl.inherit(xattrs, mode) == (mode, None)


@given(st.binary(max_size=40), modes, modes)
def test_a_damaged_list_from_elsewhere_counts_as_none(raw: bytes, mode: int, umask: int) -> None:
    damaged = raw + b"!" if (len(raw) + 1) % 8 != 4 else raw
    xattrs = {acl.ACCESS: damaged, acl.DEFAULT: damaged}
    assert acl.shown(xattrs, acl.ACCESS, mode) is None
    assert acl.shown(xattrs, acl.DEFAULT, mode) is None
    assert acl.mode_without(xattrs, mode) == mode
    assert acl.inherit(xattrs, mode) == (mode, None)
    assert acl.new_mode(xattrs, mode, umask) == mode & ~umask


@given(lists(), modes)
def test_where_nobody_enforces_lists_the_group_gets_its_own_bits_only(
    found: Acl, mode: int
) -> None:
    _, xattrs = acl.set_access(None, 0, acl.encode(found))
    safe = acl.mode_without(xattrs, mode)
    assert safe & ~mode == 0
    if xattrs:
        (group,) = [e.perm for e in found if e.tag == GROUP_OBJ]
        assert safe >> 3 & 7 == mode >> 3 & group
    else:
        assert safe == mode
