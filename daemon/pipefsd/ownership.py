"""Whose files they are: the `owner` and `umask` settings.

mounter     everything shows as the mounting user's; stored ids stay as they are in the bucket
stored      the ids the objects carry, the mounting user's where they carry none
USER:GROUP  everything shows as that user's and group's
"""

from __future__ import annotations

import errno
import grp
import os
import pwd

from pipefs.errors import UsageError


class Ownership:
    """Maps stored ids to shown ones and back.

    Raises:
        UsageError: `owner` names a user or group that this machine does not have.
    """

    def __init__(self, owner: str, umask: int, *, uid: int, gid: int) -> None:
        self.umask = umask
        if owner == "auto":
            owner = "stored" if uid == 0 else "mounter"
        self._stored = owner == "stored"
        self._uid, self._gid = uid, gid
        if owner not in ("stored", "mounter"):
            self._uid, self._gid = _ids(owner)

    def shown(self, uid: int, gid: int) -> tuple[int, int]:
        """Ids as stat(2) shows them; -1 is unknown to the store."""
        if not self._stored:
            return self._uid, self._gid
        return (self._uid if uid < 0 else uid), (self._gid if gid < 0 else gid)

    def stored(self, uid: int | None, gid: int | None) -> tuple[int | None, int | None]:
        """What chown(2) stores. Where shown ids are fixed only "no change" is accepted (EPERM)."""
        if self._stored:
            return uid, gid
        if (uid is not None and uid != self._uid) or (gid is not None and gid != self._gid):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return None, None


def _ids(owner: str) -> tuple[int, int]:
    user, _, group = owner.partition(":")
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as e:
        raise UsageError(
            f"owner={owner}: this machine has no such user or group",
            hint="use owner=mounter, owner=stored, or USER:GROUP as in /etc/passwd and /etc/group",
        ) from e
    return uid, gid
