"""Bringing the past forward: what a view shows becomes the live tree again, as new versions.

A restored file is a new file that names the old version; its object is a copy made in the store,
under the conditions of every write, so nothing is downloaded and nobody's change is lost. Each file
takes its name in one step. Nothing that was there is destroyed: its versions stay in the store.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipefs import tree
from pipefs.conflicts import Effects
from pipefs.errors import NotFound
from pipefs.past.entries import entry_of
from pipefs.past.sameness import Same, content_of
from pipefs.past.views import ROOT, PastView
from pipefs.ranges import Ranges
from pipefs.records import NO_MODE, Dirty, Inode
from pipefs.volume import Volume

_BATCH = 1000
_FIRST_HANDLE = 1 << 61
"""Handles of ours, apart from those that the kernel knows."""


@dataclass(slots=True)
class Restored:
    """What was (or with a dry run would be) done."""

    files: list[str] = field(default_factory=list)
    """Files, links and special files that are as they were."""
    removed: list[str] = field(default_factory=list)
    """What the past did not have."""
    left: list[str] = field(default_factory=list)
    """What stays as it is: open for writing now, so its bytes are in no version."""
    bytes: int = 0
    effects: Effects = field(default_factory=Effects)


class Restorer:
    """Restores into one volume. One call at a time.

    Args:
        orphaned: told of each inode that lost its last name (`Volume.forget_orphan`, or the
            daemon's own, which knows what is open).
        stays_local: paths that never go up: they are nowhere else, so they are never removed.
        dry_run: only say what would be done.
    """

    def __init__(
        self,
        volume: Volume,
        view: PastView,
        *,
        keep_extra: bool = False,
        dry_run: bool = False,
        orphaned: Callable[[Inode], None],
        stays_local: Callable[[list[bytes]], bool] = lambda _names: False,
        progress: Callable[[int], None] = lambda _n: None,
    ) -> None:
        self._volume = volume
        self._ranges = Ranges(volume)
        self._view = view
        self._keep_extra = keep_extra
        self._dry = dry_run
        self._orphaned = orphaned
        self._stays_local = stays_local
        self._progress = progress
        self._handles = itertools.count(_FIRST_HANDLE)
        self._linked: dict[int, int] = {}
        """Inode of the view with several names → the live file that has become it."""
        self.done = Restored()

    def restore(self, names: Sequence[bytes]) -> Restored:
        """Make what is at a path what it was.

        Raises:
            NotFound: the view does not have the path. OSError, StoreError: what was done stays
            done; the rest is as it was.
        """
        past = self._view.node(ROOT)
        for name in names:
            try:
                past = self._view.lookup(past.ino, name)
            except OSError as e:
                path = b"/".join(names).decode("utf-8", "replace")
                raise NotFound(f"{self._view.label} has no {path!r}") from e
        if not names:
            self._directory(past, ROOT, "")
            return self.done
        parent = self._parent(names[:-1])
        self._node(past, parent, names[-1], os.fsdecode(b"/".join(names)))
        return self.done

    def _parent(self, names: Sequence[bytes]) -> int:
        """The live directory at a path; directories that are missing are made as they were."""
        ino, past = int(ROOT), self._view.node(ROOT)
        for name in names:
            past = self._view.lookup(past.ino, name)
            live = self._live(ino, name)
            if live is None:
                live = self._make_directory(past, ino, name)
                if not self._dry:
                    self._set_attributes(live.ino, past)
            elif not live.is_dir:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fsdecode(name))
            ino = live.ino
        return ino

    def _live(self, parent: int, name: bytes) -> Inode | None:
        if not parent:
            return None  # a dry run below a directory that is not made
        try:
            return self._volume.lookup(parent, name)
        except FileNotFoundError:
            return None

    # --- one thing ----------------------------------------------------------------------------

    def _node(self, past: Inode, parent: int, name: bytes, path: str) -> None:
        live = self._live(parent, name)
        if live is not None and self._must_stay(live, path):
            return
        if past.is_dir:
            if live is not None and not live.is_dir:
                self._remove(parent, name, live, path)
                live = None
            if live is None:
                live = self._make_directory(past, parent, name)
            self._directory(past, live.ino, path)
            return
        if live is not None and live.is_dir:
            if not self._remove(parent, name, live, path):
                return
            live = None
        if live is not None and self._is_same(past, live):
            if past.nlink > 1:
                self._linked.setdefault(past.ino, live.ino)
            return
        self.done.files.append(path)
        self.done.bytes += past.size if past.is_file else 0
        if not self._dry:
            self._replace(past, parent, name)
        elif past.nlink > 1:
            self._linked.setdefault(past.ino, 0)  # so its other names would be made anew too
        self._progress(len(self.done.files))

    def _is_same(self, past: Inode, live: Inode) -> bool:
        """Whether a live file, link or special file is what it was, attributes included."""
        if past.kind != live.kind or live.dirty & Dirty.CONTENT:
            return False
        if past.nlink > 1 and self._linked.get(past.ino, live.ino) != live.ino:
            return False
        same = content_of(entry_of(past, ""), entry_of(live, "")) is Same.YES
        return same and _attributes(past) == _attributes(live)

    def _replace(self, past: Inode, parent: int, name: bytes) -> None:
        """Make it beside its name, then let it take the name in one step."""
        draft = b".restoring-" + uuid.uuid4().hex[:16].encode()
        volume, uid, gid = self._volume, past.uid, past.gid
        mode = stat.S_IMODE(past.mode)
        known = self._linked.get(past.ino) if past.nlink > 1 else None
        handle = 0
        if known is not None:
            volume.link(known, parent, draft)
            made = volume.inode(known)
        elif past.is_file:
            handle = next(self._handles)
            made = volume.create(parent, draft, mode, uid, gid, handle=handle)
            self._fill(made.ino, past)
        elif stat.S_ISLNK(past.mode):
            made = volume.symlink(parent, draft, past.target, uid, gid)
        else:
            made = volume.mknod(parent, draft, past.mode & ~NO_MODE, past.rdev, uid, gid)
        if past.nlink > 1:
            self._linked[past.ino] = made.ino
        replaced = volume.rename(parent, draft, parent, name, 0)
        if handle:
            self._close(made.ino, handle)
        self._set_attributes(made.ino, past)
        if replaced is not None:
            self._orphaned(replaced)
        self._changed(parent, name)

    def _fill(self, ino: int, past: Inode) -> None:
        if past.content is None or not past.size:
            return
        if self._ranges.lay(past.content, ino):
            return
        done = 0
        while done < past.size:  # a store without versions of its own: the bytes themselves
            moved = self._ranges.copy_version(
                past.content, past.size, done, ino, done, past.size - done, stream=-1, wait=True
            )
            if not moved:
                break
            done += moved

    def _close(self, ino: int, handle: int) -> None:
        self._volume.close_write(ino, handle)

    def _set_attributes(self, ino: int, past: Inode) -> None:
        with self._volume.db.update() as t:
            node = tree.need(t, ino)
            if node.xattrs != past.xattrs:
                node.xattrs = past.xattrs
                node.dirty |= Dirty.ANNOUNCE
                tree.put_inode(t, node)
        self._volume.set_attributes(
            ino,
            mode=None if past.mode & NO_MODE else stat.S_IMODE(past.mode),
            uid=None if past.uid < 0 else past.uid,
            gid=None if past.gid < 0 else past.gid,
            mtime_ns=past.mtime_ns,
            atime_ns=past.atime_ns or past.mtime_ns,
        )
        self.done.effects.attributes.add(ino)

    def _changed(self, parent: int, name: bytes) -> None:
        self.done.effects.entries.add((parent, name))

    # --- directories --------------------------------------------------------------------------

    def _make_directory(self, past: Inode, parent: int, name: bytes) -> Inode:
        if self._dry:
            return Inode(ino=0, mode=stat.S_IFDIR)
        mode = stat.S_IMODE(past.mode)
        made = self._volume.mkdir(parent, name, mode, past.uid, past.gid)
        self._changed(parent, name)
        return made

    def _directory(self, past: Inode, live: int, path: str) -> None:
        """Make a live directory what it was, with all below it."""
        above = path + "/" if path else ""
        wanted: set[bytes] = set()
        after = b""
        while batch := self._view.children(past.ino, after, _BATCH):
            for name, node in batch:
                wanted.add(name)
                self._node(node, live, name, above + os.fsdecode(name))
            after = batch[-1][0]
        if not live:
            return
        if not self._keep_extra:
            self._remove_extra(live, wanted, above)
        if not self._dry and past.mtime_ns:
            self._set_attributes(live, past)

    def _remove_extra(self, live: int, wanted: set[bytes], above: str) -> None:
        after = b""
        while batch := self._volume.children(live, after, _BATCH):
            for name, node in self._volume.child_inodes(batch):
                if name not in wanted:
                    self._remove(live, name, node, above + os.fsdecode(name))
            after = batch[-1][0]

    def _remove(self, parent: int, name: bytes, node: Inode, path: str) -> bool:
        """Remove what is at a name, with all below it; False if something of it must stay."""
        if self._must_stay(node, path):
            return False
        if node.is_dir and not self._remove_below(node.ino, path):
            return False
        self.done.removed.append(path)
        if not self._dry:
            remove = self._volume.rmdir if node.is_dir else self._volume.unlink
            self._orphaned(remove(parent, name))
            self._changed(parent, name)
        return True

    def _remove_below(self, directory: int, path: str) -> bool:
        whole, after = True, b""
        while batch := self._volume.children(directory, after, _BATCH):
            for name, node in self._volume.child_inodes(batch):
                whole &= self._remove(directory, name, node, f"{path}/{os.fsdecode(name)}")
            after = batch[-1][0]
        return whole

    def _must_stay(self, live: Inode, path: str) -> bool:
        """Whether the bytes of a live file are in no version: it stays as it is."""
        if not live.is_file:
            return False
        local = self._volume.files.get(live.ino)
        mark = local.mark if local is not None else None
        if mark is not None and mark.writers:
            self.done.left.append(path)
            return True
        return self._stays_local(os.fsencode(path).split(b"/"))


def _attributes(node: Inode) -> tuple[object, ...]:
    return node.mode, node.uid, node.gid, node.mtime_ns, node.xattrs or None
