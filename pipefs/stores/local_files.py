"""Files of the embedded store: places, copies that share no bytes with their source, syncing.

Never touches the index. Every function either finishes or raises an `OSError` that
`local.py` translates.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipefs.stores.base import Cancelled, FileBody

SIDE_FOLDER = ".pipefs-store"
NONCE_CHARS = 16
_FICLONE = 0x40049409
_CHUNK_BYTES = 1 << 20


def is_store(root: str) -> bool:
    """Whether a store was made in this directory."""
    return os.path.isdir(os.path.join(root, SIDE_FOLDER))


class Places:
    """Where things lie under the store's directory."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.side = os.path.join(self.root, SIDE_FOLDER)
        self.index = Path(self.side, "index")
        self.tmp = os.path.join(self.side, "tmp")
        self._versions = os.path.join(self.side, "versions")
        # Folders of versions that this process has found or made, and those it has synced.
        self._there: set[str] = set()
        self._durable: set[str] = set()

    def create(self) -> None:
        """Make the side folder; durable before it returns."""
        made = not os.path.isdir(self._versions)
        os.makedirs(self.tmp, mode=0o755, exist_ok=True)
        os.makedirs(self._versions, exist_ok=True)
        if made:
            for directory in (self.side, self.root):
                sync_directory(directory)

    def version(self, version_id: str) -> str:
        """The content of a version: its own inode, written once."""
        nonce = version_id[-NONCE_CHARS:]
        return os.path.join(self._versions, nonce[:2], nonce)

    def new_version(self, nonce: str) -> str:
        """Where the content of a version is to be written; its folder is there."""
        path = self.version(nonce)
        folder = os.path.dirname(path)
        if folder not in self._there:
            os.makedirs(folder, exist_ok=True)
            self._there.add(folder)
        return path

    def sync_folders(self, paths: Iterable[str]) -> None:
        """Make the names of versions durable, and those of the folders they are in."""
        folders = {os.path.dirname(path) for path in paths}
        for folder in folders:
            sync_directory(folder)
        if not folders <= self._durable:
            sync_directory(self._versions)
            self._durable |= folders

    def temporary(self) -> str:
        return os.path.join(self.tmp, secrets.token_hex(8))

    def plain(self, key: str) -> str | None:
        """Path of the plain file of a key, or None where a key has no file name of its own."""
        parts = key.split("/")
        if parts[0] == SIDE_FOLDER or "\0" in key:
            return None
        for part in parts:
            if part in ("", ".", "..") or len(os.fsencode(part)) > 255:
                return None
        path = f"{self.root}/{key}"
        return path if len(os.fsencode(path)) < 4096 else None

    def walk(self, prefix: str) -> Iterator[str]:
        """Keys of the regular files below the folder that holds `prefix`, in no order.

        Symbolic links are not followed and not reported; names that are not UTF-8 are left out,
        as no key can name them.
        """
        folder = prefix.rpartition("/")[0]
        if folder and self.plain(folder) is None:
            return
        pending = [folder]
        while pending:
            folder = pending.pop()
            base = f"{folder}/" if folder else ""
            for entry in _scan(f"{self.root}/{folder}" if folder else self.root):
                key = base + entry.name
                if key == SIDE_FOLDER or not _is_utf8(key):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                        pending.append(key)
                elif entry.is_file(follow_symlinks=False) and key.startswith(prefix):
                    yield key

    def scan(self, prefix: str) -> tuple[list[str], set[str]]:
        """Keys of the regular files that begin with `prefix` and have no "/" behind it, and what
        folders there have behind it; as `walk`."""
        keys: list[str] = []
        folders: set[str] = set()
        folder, slash, _begin = prefix.rpartition("/")
        if slash and self.plain(folder) is None:
            return keys, folders
        for entry in _scan(f"{self.root}/{folder}"):
            key = folder + slash + entry.name
            if key == SIDE_FOLDER or not _is_utf8(entry.name) or not key.startswith(prefix):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.add(key[len(prefix) :])
            elif entry.is_file(follow_symlinks=False):
                keys.append(key)
        return keys, folders

    def place(self, temporary: str, path: str) -> bool:
        """Rename into place, making folders; False where a file or folder is in the way."""
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.rename(temporary, path)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                return False
        except (NotADirectoryError, IsADirectoryError):
            return False
        return True

    def remove(self, path: str) -> None:
        """Remove a plain file and the folders that it leaves empty."""
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        folder = os.path.dirname(path)
        while len(folder) > len(self.root):
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_range(path: str, start: int, length: int) -> bytes:
    """Bytes of a file; fewer than `length` only where it ends."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(fd, length, start)
        while len(data) < length and (more := os.pread(fd, length - len(data), start + len(data))):
            data += more
        return data
    finally:
        os.close(fd)


def stamp_of(path: str) -> tuple[int, int] | None:
    """(size, mtime_ns) of a regular file, or None. Differs after every edit by other tools."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if status.st_mode & 0o170000 != 0o100000:
        return None
    return status.st_size, status.st_mtime_ns


def write_bytes(path: str, body: bytes, *, sync: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_body(path: str, body: FileBody) -> str:
    """Copy [0, size) of the body to a new synced file; its MD5 in hex.

    Raises:
        Cancelled: the body's owner asked to stop; the partial file is the caller's to remove.
        OSError: EIO where the body is shorter than it says; ENOSPC before a byte is written where
            the disk cannot take it: tried again and again it would fill the disk each time.
    """
    md5 = hashlib.md5(usedforsecurity=False)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        disk = os.fstatvfs(fd)
        if body.size > disk.f_bavail * disk.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset = 0
        while offset < body.size:
            if body.cancelled():
                raise Cancelled
            chunk = os.pread(body.fd, min(_CHUNK_BYTES, body.size - offset), offset)
            if not chunk:
                raise OSError(errno.EIO, "the body ended before its size")
            md5.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
            offset += len(chunk)
            body.progress(len(chunk))
        os.fsync(fd)
    finally:
        os.close(fd)
    return md5.hexdigest()


def clone(source: str, target: str, *, sync: bool) -> None:
    """A new file with the same bytes and an inode of its own: a reflink where the disk can.

    Never a hard link: an outside tool that edits one in place would change the other.
    """
    src = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        dst = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.ioctl(dst, _FICLONE, src)
            except OSError:
                _copy_bytes(src, dst)
            if sync:
                os.fsync(dst)
        finally:
            os.close(dst)
    finally:
        os.close(src)


def _copy_bytes(src: int, dst: int) -> None:
    while True:
        chunk = os.read(src, _CHUNK_BYTES)
        if not chunk:
            return
        view = memoryview(chunk)
        while view:
            view = view[os.write(dst, view) :]


def md5_of(path: str) -> tuple[str, int]:
    """MD5 in hex and size of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        return digest.hexdigest(), file.tell()


def remove_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def boot_id() -> str:
    """Differs after every start of the machine; "" where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
