"""POSIX access control lists: the form the kernel has them in, and what they do to modes. Pure.

An inode keeps its lists among its extended attributes, under the names and in the bytes that
getxattr(2) gives. The mode is the truth for the owner, for others and for the mask (the group
bits); what is stored gives the named users and groups and the owning group's own bits, and `shown`
puts the two together. So a chmod changes the mode alone, and a mode and a list that two machines
changed at once cannot contradict each other. A list that says no more than a mode is not stored.

Who may set one is the kernel's business, and so is enforcing it.
"""

from __future__ import annotations

import errno
import os
import stat
from struct import Struct
from typing import NamedTuple

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NO_ID = 0xFFFFFFFF
"""The id of entries that name nobody."""

_VERSION = 2
_HEADER = Struct("<I")
_ENTRY = Struct("<HHI")
_NAMED = (USER, GROUP)
_ONE_EACH = (USER_OBJ, GROUP_OBJ, OTHER)

Xattrs = dict[bytes, bytes]


class Entry(NamedTuple):
    tag: int
    perm: int
    """Of `rwx`: 4, 2, 1."""
    id: int = NO_ID


Acl = tuple[Entry, ...]
"""Entries in the order of their tags."""


def parse(raw: bytes) -> Acl:
    """The list in a value of `ACCESS` or `DEFAULT`.

    Raises:
        OSError: EINVAL, as setxattr(2) says it: damaged, or not a list that posix_acl(7) allows;
            EOPNOTSUPP for another version of the form.
    """
    if len(raw) < _HEADER.size or (len(raw) - _HEADER.size) % _ENTRY.size:
        raise _fail(errno.EINVAL)
    if _HEADER.unpack_from(raw)[0] != _VERSION:
        raise _fail(errno.EOPNOTSUPP)
    found = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(raw[_HEADER.size :]))
    tags = [entry.tag for entry in found]
    once = all(tags.count(tag) == 1 for tag in _ONE_EACH)
    masks = tags.count(MASK)
    known = all(tag in (*_ONE_EACH, *_NAMED, MASK) for tag in tags)
    wants_mask = any(tag in _NAMED for tag in tags)
    if not (known and once and masks <= 1 and tags == sorted(tags)) or (wants_mask and not masks):
        raise _fail(errno.EINVAL)
    if any(e.perm & ~7 or (e.id == NO_ID) != (e.tag not in _NAMED) for e in found):
        raise _fail(errno.EINVAL)
    return found


def encode(acl: Acl) -> bytes:
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def is_mode(acl: Acl) -> bool:
    """Whether the list says no more than nine permission bits do."""
    return len(acl) == len(_ONE_EACH)


def mode_of(acl: Acl) -> int:
    """The nine permission bits: the group's are the mask's, where there is one."""
    perms = {entry.tag: entry.perm for entry in acl if entry.tag not in _NAMED}
    return perms[USER_OBJ] << 6 | perms.get(MASK, perms[GROUP_OBJ]) << 3 | perms[OTHER]


def with_mode(acl: Acl, mode: int) -> Acl:
    """What chmod(2) makes of a list."""
    group = MASK if any(entry.tag == MASK for entry in acl) else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, OTHER: mode & 7}
    return tuple(e._replace(perm=bits.get(e.tag, e.perm)) for e in acl)


# --- inodes -----------------------------------------------------------------------------------


def _kept(xattrs: Xattrs | None, name: bytes) -> Acl | None:
    """The list an inode has. One that is damaged counts as none: it came with another machine's
    commit, and must not make the file, or all of its directory, unusable."""
    raw = (xattrs or {}).get(name)
    if raw is None:
        return None
    try:
        return parse(raw)
    except OSError:
        return None


def shown(xattrs: Xattrs | None, name: bytes, mode: int) -> bytes | None:
    """The value of `ACCESS` or `DEFAULT` of an inode with this mode; None: it has none."""
    acl = _kept(xattrs, name)
    if acl is None:
        return None
    return encode(acl if name == DEFAULT else with_mode(acl, mode))


def set_access(
    xattrs: Xattrs | None, mode: int, raw: bytes, *, kill_sgid: bool = False
) -> tuple[int, Xattrs | None]:
    """(mode, extended attributes) after the access list was set. EINVAL as `parse`.

    `kill_sgid`: the set-gid bit goes, whoever sets the list is not of the group.
    """
    acl = parse(raw)
    mode = mode & ~0o777 | mode_of(acl)
    if kill_sgid:
        mode &= ~stat.S_ISGID
    left = {k: v for k, v in (xattrs or {}).items() if k != ACCESS}
    if not is_mode(acl):
        left[ACCESS] = encode(acl)
    return mode, left or None


def set_default(xattrs: Xattrs | None, raw: bytes) -> Xattrs:
    """Extended attributes of a directory after its default list was set. EINVAL as `parse`."""
    return {**(xattrs or {}), DEFAULT: encode(parse(raw))}


def inherit(parent: Xattrs | None, mode: int) -> tuple[int, Xattrs | None]:
    """(mode, extended attributes) of something new that is no symbolic link, made with `mode` in a
    directory with these extended attributes. `mode` has its type bits.

    Never gives more than `mode`, so it may be done again to its own result.
    """
    default = _kept(parent, DEFAULT)
    if default is None:
        return mode, None
    allowed = mode & ~0o777 | mode & mode_of(default)
    found: Xattrs = {}
    if not is_mode(default):
        found[ACCESS] = encode(with_mode(default, allowed))
    if stat.S_ISDIR(mode):
        found[DEFAULT] = encode(default)
    return allowed, found or None


def new_mode(parent: Xattrs | None, mode: int, umask: int) -> int:
    """Mode of something new: what the directory's default list allows counts instead of the
    umask."""
    if _kept(parent, DEFAULT) is None:
        return mode & ~umask
    return inherit(parent, mode)[0]


def mode_without(xattrs: Xattrs | None, mode: int) -> int:
    """The mode to show where nobody enforces lists. The group bits of a file with one are its
    mask, which must not be taken for what the owning group may do."""
    acl = _kept(xattrs, ACCESS)
    if acl is None:
        return mode
    (group,) = [entry.perm for entry in acl if entry.tag == GROUP_OBJ]
    return mode & (~0o070 | group << 3)


def _fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))
