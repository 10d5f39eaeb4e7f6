"""Machines for tests of the core: everything below a mount, on a real store, without threads.

A `Machine` is one volume with its transfers, relocator and follower in a directory of its own.
Nothing happens behind the test's back: each step towards the store is a call. Two machines on one
store are two mounts of one pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipefs import tree
from pipefs.blocks import BlockCache
from pipefs.check import Problem, check
from pipefs.conditional import ConditionalStore
from pipefs.conflicts import Effects
from pipefs.content import ContentReader
from pipefs.db import StateDB
from pipefs.errors import NotFound, PreconditionFailed, Unsupported
from pipefs.follow import Follower
from pipefs.namespace import RENAME_EXCHANGE
from pipefs.policy import Policy
from pipefs.records import Inode
from pipefs.relocation import Relocator
from pipefs.staging import StagingArea
from pipefs.stores.base import Capabilities, FileBody, Store
from pipefs.stores.wrapper import WrapperStore
from pipefs.transfers import Transfers
from pipefs.types import ObjectVersion
from pipefs.volume import Volume

ROUNDS = 15
"""Synchronising that has not come to rest after so many rounds never will."""

Shown = bytes | str | None
"""A file's bytes, a link's target, or None for a directory."""


def _split(path: str) -> tuple[bytes, bytes]:
    directory, _, name = path.encode("utf-8", "surrogateescape").rpartition(b"/")
    return directory, name


class Machine:
    """One machine's half of a pipe: its own state, staging folder and cache."""

    def __init__(
        self, directory: Path, store: Store, *, name: str = "a", quiet_s: float = 0.0
    ) -> None:
        self.directory = directory
        self.name = name
        self.store = store
        self.capabilities: Capabilities = store.probe()
        self._policy = Policy(quiet_s, quiet_s)
        self._life = 0
        self._handles = 0
        self.effects = Effects()
        self._caches = 0
        self.cache = BlockCache(directory / "cache0", limit_bytes=64 << 20)
        self._open()

    def _open(self) -> None:
        home = self.directory / f"life{self._life}"
        self.db = StateDB(home / "state", tree.TABLES, checkpoint_bytes=1 << 16)
        self.reader = ContentReader(self.store, self.cache, "pipe")
        self.volume = Volume(
            self.db, StagingArea(home / "staging"), self.store, self.cache, self.reader
        )
        conditional = ConditionalStore(self.store, lambda: self.capabilities)
        files, policy = self.volume.files, self._policy
        self.transfers = Transfers(self.db, files, conditional, self.reader, self.cache, policy)
        self.relocator = Relocator(self.db, conditional, self.reader, policy)
        self.follower = Follower(
            self.db,
            self.store,
            self.volume.inos,
            author=f"user@{self.name}",
            writable=lambda: True,
        )
        self.volume.recover(same_mount=False)

    def kill(self) -> None:
        """kill -9 and start again: only what the kernel has of the files is left."""
        old = self.directory / f"life{self._life}"
        self._life += 1
        shutil.copytree(old, self.directory / f"life{self._life}")
        self.volume.close()
        shutil.rmtree(old)
        self._open()

    def lose_cache(self) -> None:
        """Start again with an empty block cache."""
        self.volume.close()
        self.cache.close()
        self._caches += 1
        self.cache = BlockCache(self.directory / f"cache{self._caches}", limit_bytes=64 << 20)
        self._open()

    def close(self) -> None:
        self.volume.close()
        self.cache.close()

    # --- what a user does ---------------------------------------------------------------------

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def ino(self, path: str) -> int:
        return self.volume.resolve(path.encode("utf-8", "surrogateescape"))

    def _parent(self, directory: bytes) -> int:
        """The directory at a path: the kernel too looks at this before it asks for a name in it."""
        node = self.volume.inode(self.volume.resolve(directory))
        if not node.is_dir:
            raise NotADirectoryError(os.fsdecode(directory))
        return node.ino

    def inode(self, path: str) -> Inode:
        return self.volume.inode(self.ino(path))

    def open(self, path: str, *, truncate: bool = False) -> tuple[int, int]:
        """(inode, handle) of a file open for writing, made if it is not there. What is no file is
        refused here, as by the kernel: it never asks for that."""
        directory, name = _split(path)
        parent, handle = self._parent(directory), self._handle()
        try:
            node = self.volume.lookup(parent, name)
        except FileNotFoundError:
            return self.volume.create(parent, name, 0o644, 0, 0, handle=handle).ino, handle
        if not node.is_file:
            raise IsADirectoryError(path) if node.is_dir else OSError(errno.EINVAL, path)
        self.volume.open_write(node.ino, handle, truncate=truncate, wait=True)
        return node.ino, handle

    def write(self, path: str, data: bytes, *, offset: int | None = None) -> None:
        """Replace a file's bytes, or change those at `offset`; it is closed afterwards."""
        ino, handle = self.open(path, truncate=offset is None)
        if data:
            self.volume.write(ino, offset or 0, memoryview(data), wait=True)
        self.volume.close_write(ino, handle)

    def truncate(self, path: str, size: int) -> None:
        self.volume.truncate(self.ino(path), size, wait=True)

    def read(self, path: str, offset: int = 0, size: int = 1 << 24) -> bytes:
        return self.read_inode(self.inode(path), offset, size)

    def read_inode(self, node: Inode, offset: int = 0, size: int = 1 << 24) -> bytes:
        parts, release = self.volume.read(node.ino, node.epoch, offset, size, stream=1, wait=True)
        try:
            return b"".join(parts)
        finally:
            if release is not None:
                release()

    def mkdir(self, path: str) -> None:
        directory, name = _split(path)
        self.volume.mkdir(self._parent(directory), name, 0o755, 0, 0)

    def symlink(self, path: str, target: str) -> None:
        directory, name = _split(path)
        self.volume.symlink(self._parent(directory), name, target.encode(), 0, 0)

    def link(self, path: str, new: str) -> None:
        directory, name = _split(new)
        self.volume.link(self.ino(path), self._parent(directory), name)

    def mkfifo(self, path: str) -> None:
        directory, name = _split(path)
        self.volume.mknod(self._parent(directory), name, stat.S_IFIFO | 0o644, 0, 0, 0)

    def rm(self, path: str) -> None:
        directory, name = _split(path)
        gone = self.volume.unlink(self._parent(directory), name)
        self.volume.forget_orphan(gone.ino)

    def rmdir(self, path: str) -> None:
        directory, name = _split(path)
        gone = self.volume.rmdir(self._parent(directory), name)
        self.volume.forget_orphan(gone.ino)

    def mv(self, old: str, new: str, flags: int = 0) -> None:
        (from_dir, from_name), (to_dir, to_name) = _split(old), _split(new)
        gone = self.volume.rename(
            self._parent(from_dir), from_name, self._parent(to_dir), to_name, flags
        )
        if gone is not None:
            self.volume.forget_orphan(gone.ino)

    def swap(self, one: str, two: str) -> None:
        self.mv(one, two, RENAME_EXCHANGE)

    def chmod(self, path: str, mode: int) -> None:
        self.volume.set_attributes(self.ino(path), mode=mode)

    # --- what a user sees ---------------------------------------------------------------------

    def tree(self) -> dict[str, Shown]:
        """Every path of the live tree."""
        return {path: self._shown(node) for path, node in self.walk()}

    def _shown(self, node: Inode) -> Shown:
        if node.is_dir:
            return None
        if stat.S_ISLNK(node.mode):
            return os.fsdecode(node.target)
        return self.read_inode(node) if node.is_file else f"type {node.kind:o}, {node.rdev}"

    def own_files(self) -> dict[str, bytes]:
        """Files by the one name that their object follows: of hard links, the first."""
        nodes = {node.ino: node for _, node in self.walk() if node.is_file}
        return {self.volume.path_of(ino): self.read_inode(node) for ino, node in nodes.items()}

    def linked(self) -> set[tuple[str, ...]]:
        """The names of each file that has more than one, sorted."""
        names: dict[int, list[str]] = {}
        for path, node in self.walk():
            if not node.is_dir:
                names.setdefault(node.ino, []).append(path)
                names[node.ino].sort()
        for ino, known in names.items():
            assert self.volume.inode(ino, counted=True).nlink == len(known)
        return {tuple(known) for known in names.values() if len(known) > 1}

    def modes(self) -> dict[str, int]:
        return {path: node.mode for path, node in self.walk()}

    def walk(self, ino: int = 1, above: str = "") -> Iterator[tuple[str, Inode]]:
        for name, entry in self.volume.children(ino, b"", 10_000):
            path, node = above + os.fsdecode(name), self.volume.inode(entry.ino)
            yield path, node
            if node.is_dir:
                yield from self.walk(node.ino, path + "/")

    def contents(self) -> list[bytes]:
        return [shown for shown in self.tree().values() if isinstance(shown, bytes)]

    # --- steps towards the store --------------------------------------------------------------

    def upload(self, ino: int) -> bool:
        """One file goes up; a lost condition makes us look at the key, as the daemon does."""
        try:
            return self.transfers.upload(ino, force=True)
        except PreconditionFailed:
            self._look_at(ino)
            return True

    def relocate(self, ino: int) -> bool:
        try:
            return self.relocator.relocate(ino)
        except (PreconditionFailed, NotFound):
            self._look_at(ino)
            return True

    def mark(self, ino: int) -> bool:
        try:
            return self.relocator.mark_directory(ino)
        except PreconditionFailed:
            self._look_at(ino)
            return True

    def _look_at(self, ino: int) -> None:
        self.follow()
        with self.db.view() as v:
            names = tree.names_to(v, ino)
            key = tree.key_for(v, names) if names else ""
        if key:
            self._take(self.follower.check_keys([key]))

    def upload_all(self) -> None:
        for ino in self.volume.files.inos():
            self.upload(ino)

    def relocate_all(self) -> None:
        for ino in self.relocator.due():
            self.relocate(ino)

    def mark_all(self) -> None:
        for ino in self.relocator.markers():
            self.mark(ino)

    def delete_all(self) -> None:
        for content in self.transfers.deletions():
            self.transfers.delete(content)

    def follow(self) -> None:
        self._take(self.follower.follow())

    def announce(self) -> int:
        effects, count = self.follower.announce()
        self._take(effects)
        return count

    def reconcile(self) -> None:
        self._take(self.follower.reconcile())

    def _take(self, effects: Effects) -> None:
        for old, new in effects.same_bytes:
            blocks = -(-old.size // (1 << 20))
            self.cache.alias(
                self.reader.identity(old.ref()), self.reader.identity(new.ref()), blocks
            )
        self.effects.merge(effects)

    def settle_all(self) -> None:
        """Look into requests whose outcome nobody will ask for any more."""
        for sent in self.transfers.left_over():
            self.transfers.settle(sent)

    def sync(self) -> None:
        """Everything of ours up, everything of others here."""
        for _ in range(ROUNDS):
            before = self.follower.position()
            self.upload_all()
            self.relocate_all()
            self.mark_all()
            self.settle_all()
            self.delete_all()
            self.follow()
            self.announce()
            if self.is_quiet() and self.follower.position() == before:
                return
        if self.volume.outbox().relocating and not self.capabilities.versioning:
            return  # the bytes to copy are replaced: the other machine is yet to say by what
        raise AssertionError(f"{self.name} does not come to rest: {self.volume.outbox()}")

    def is_quiet(self) -> bool:
        return not self.volume.outbox().waiting and not self.relocator.markers()

    def problems(self) -> list[Problem]:
        with self.db.view() as v:
            return list(check(v, self.volume.files.staging))


def sync_all(*machines: Machine) -> None:
    """Synchronise until nothing moves any more."""
    for _ in range(ROUNDS):
        before = [m.follower.position() for m in machines]
        for machine in machines:
            machine.follower.check_log()
            machine.sync()
            if machine.follower.must_relist():
                machine.reconcile()
                machine.sync()
        after = [m.follower.position() for m in machines]
        if before == after and len(set(after)) == 1 and all(m.is_quiet() for m in machines):
            return
    raise AssertionError(f"the machines do not come to rest: {after}")


def objects(store: Store) -> dict[str, bytes]:
    """The user's objects in the store, directory markers left out."""
    return {
        o.key: store.get(o.key, None, 0, 1 << 24)
        for o in store.list("")
        if not o.key.startswith(".pipefs/") and not o.key.endswith("/")
    }


def versions(store: Store) -> set[bytes]:
    """Every content that any version of any object has."""
    return {
        store.get(o.key, o.version_id, 0, 1 << 24)
        for o in store.list_versions("")
        if not o.is_delete_marker and not o.key.startswith(".pipefs/")
    }


class UnversionedStore(WrapperStore):
    """A store without versioning: what is overwritten or deleted is out of reach."""

    def probe(self) -> Capabilities:
        return dataclasses.replace(
            super().probe(), versioning=False, versioning_state="", conditional_delete=False
        )

    def put(
        self,
        key: str,
        body: bytes | FileBody,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "",
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        return self._plain(
            super().put(
                key,
                body,
                metadata=metadata,
                content_type=content_type,
                if_match=if_match,
                if_none_match=if_none_match,
            )
        )

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        self._refuse(version_id)
        return super().get(key, None, start, length)

    def head(self, key: str, version_id: str | None = None) -> ObjectVersion:
        self._refuse(version_id)
        return self._plain(super().head(key))

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[ObjectVersion]:
        return map(self._plain, super().list(prefix, start_after=start_after))

    def list_versions(self, prefix: str = "", *, page: int = 1000) -> Iterator[ObjectVersion]:
        raise Unsupported("this store has no versions")

    def list_level_versions(self, prefix: str = "") -> Iterator[ObjectVersion | str]:
        raise Unsupported("this store has no versions")

    def copy(
        self,
        source: ObjectVersion,
        key: str,
        *,
        metadata: Mapping[str, str] | None = None,
        if_match: str = "",
        if_none_match: bool = False,
    ) -> ObjectVersion:
        self._refuse(source.version_id)
        return self._plain(
            super().copy(
                source, key, metadata=metadata, if_match=if_match, if_none_match=if_none_match
            )
        )

    @staticmethod
    def _plain(found: ObjectVersion) -> ObjectVersion:
        return dataclasses.replace(found, version_id=None)

    @staticmethod
    def _refuse(version_id: str | None) -> None:
        if version_id is not None:
            raise Unsupported("this store has no versions")


@contextlib.contextmanager
def machines(directory: Path, store: Store, *names: str) -> Iterator[list[Machine]]:
    """Machines on one store, closed at the end."""
    out = [Machine(directory / name, store, name=name) for name in names]
    try:
        yield out
    finally:
        for machine in out:
            machine.close()
