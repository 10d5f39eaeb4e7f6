"""Which versions the tree of a pipe had at any commit from one number on, from the log alone.

A prune needs it: whoever takes a snapshot takes it of one of these commits, and may be at it right
now. Mostly they are the current versions of the store. The others are files whose object is still
at the key of an earlier name, versions that another tool replaced and nobody has listed yet, and
what was replaced since.

The log is replayed as `pipefs.rebase` applies it to a tree without local changes, without asking
the store. Where the store would be asked (a version announced that does not follow from the one
before it) the key is in doubt, and a prune leaves all its versions alone.

Memory: about 250 bytes for each file put since the snapshot that the replay begins with (without
one, for each file of the tree), and `_AT_ONCE` commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Union

from pipefs.commits import Change, Commit, CommitLog, Position, commit_key
from pipefs.errors import Corrupt
from pipefs.past.marks import key_hash, version_hash
from pipefs.stores.base import Store

_AT_ONCE = 16

_Node = Union["_Folder", int]
"""A folder, or a file: the hash of (key, version) and below it 64 bits of the version's own."""
_Folder = dict[str, _Node]

_MASK = (1 << 64) - 1


def shown_since(
    store: Store,
    here: Position,
    since: int,
    *,
    after: int = 0,
    known: Callable[[str, str], bool] = lambda _key, _version: False,
) -> tuple[Iterator[int], set[int]]:
    """(hashes of (key, version), hashes of keys in doubt): what the tree had at the commits from
    `since` to `here`, without what it had at commit `after` already.

    The second is complete when the first has been read to its end.

    Args:
        after: a commit whose tree is known as a whole, not above `since`; 0: from the beginning.
        known: whether that tree had this version.
    Raises:
        Corrupt: the log has a hole.
    """
    doubtful: set[int] = set()
    return _replayed(store, here, since, after, known, doubtful), doubtful


def _replayed(
    store: Store,
    here: Position,
    since: int,
    after: int,
    known: Callable[[str, str], bool],
    doubtful: set[int],
) -> Iterator[int]:
    tree = _Tree(known if after else None, doubtful)
    for commit in _commits(store, here, after + 1):
        if commit.number <= since:
            tree.apply(commit, settled=True)
            continue
        if commit.number == since + 1:
            yield from tree.files()
        tree.apply(commit, settled=False)
        yield from (_leaf(c) >> 64 for c in commit.changes if c.op == "put")
    if here.number <= since:
        yield from tree.files()


def _commits(store: Store, here: Position, first: int) -> Iterator[Commit]:
    """The commits from `first` to `here`, in order."""
    log = CommitLog(store, author="", writer="")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(first, here.number + 1, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, here.number + 1))
            for number, found in zip(numbers, pool.map(log.read, numbers), strict=True):
                if found is None or found.commit.epoch != here.epoch:
                    raise Corrupt(
                        f"{commit_key(number)} is missing: the log of changes has a hole",
                        hint="Delete .pipefs/commits/ in the bucket and mount: a new log is "
                        "started, and no file is lost.",
                    )
                yield found.commit


def _leaf(change: Change) -> int:
    version = change.version or ""
    return version_hash(change.key or change.path, version) << 64 | key_hash(version)


class _Tree:
    """Files and folders by name; of a file only its version."""

    def __init__(self, known: Callable[[str, str], bool] | None, doubtful: set[int]) -> None:
        """`known`: None where the tree was empty at the beginning."""
        self._root: _Folder = {}
        self._known = known
        self._doubtful = doubtful

    def apply(self, commit: Commit, *, settled: bool) -> None:
        """Do what a commit says. `settled`: what it replaces is of no interest any more."""
        moved = self._detach(commit)
        attach = [
            c for c in commit.changes if c.op in ("move", "mkdir", "put", "symlink", "special")
        ]
        rank = {"move": 0, "mkdir": 0}
        attach.sort(key=lambda c: (c.path.count("/"), rank.get(c.op, 1)))
        for change in attach:
            *above, name = change.path.split("/")
            folder = self._folder(above)
            if change.op == "put":
                self._judge(change, folder.get(name), settled=settled)
                folder[name] = _leaf(change)
            elif change.op == "move":
                node = moved.get(change.source)
                if node is not None:
                    folder[name] = node
            elif change.op != "mkdir":
                folder.pop(name, None)
            elif not isinstance(folder.get(name), dict):
                folder[name] = {}

    def _detach(self, commit: Commit) -> dict[str, _Node]:
        """Take away what moves and what is deleted, all of it as it was before the commit."""
        moves: list[tuple[str, _Folder, str]] = []
        deletes: list[tuple[_Folder, str]] = []
        for change in commit.changes:
            if change.op not in ("move", "delete"):
                continue
            path = change.source if change.op == "move" else change.path
            *above, name = path.split("/")
            folder = self._find(above)
            if folder is None:
                continue
            if change.op == "move":
                moves.append((path, folder, name))
            else:
                deletes.append((folder, name))
        moved = {path: folder.pop(name) for path, folder, name in moves if name in folder}
        for folder, name in deletes:
            folder.pop(name, None)
        return moved

    def _find(self, names: list[str]) -> _Folder | None:
        at: _Node | None = self._root
        for name in names:
            at = at.get(name) if isinstance(at, dict) else None
        return at if isinstance(at, dict) else None

    def _folder(self, names: list[str]) -> _Folder:
        """The folder at a path; what only paths imply is made."""
        at = self._root
        for name in names:
            below = at.get(name)
            if not isinstance(below, dict):
                below = at[name] = {}
            at = below
        return at

    def _judge(self, change: Change, before: _Node | None, *, settled: bool) -> None:
        """Whether this version follows from the one before it. Where it does not, each machine
        asked the store what was current, and may have something that no commit tells."""
        key, leaf = change.key or change.path, _leaf(change)
        if isinstance(before, int):
            follows = before == leaf or before & _MASK == key_hash(change.replaces or "")
        else:
            # Not put since the beginning: the first of its name, a copy after a rename, or in the
            # tree that the replay began with.
            fresh = self._known is None or change.replaces is None or change.same
            follows = fresh or self._was_known(change, key)
        if not follows:
            self._doubtful.add(key_hash(key))
        elif settled:
            self._doubtful.discard(key_hash(key))

    def _was_known(self, change: Change, key: str) -> bool:
        assert self._known is not None
        return self._known(key, change.replaces or "") or self._known(key, change.version or "")

    def files(self) -> Iterator[int]:
        """Hashes of (key, version) of all files."""
        todo: list[_Folder] = [self._root]
        while todo:
            for node in todo.pop().values():
                if isinstance(node, dict):
                    todo.append(node)
                else:
                    yield node >> 64
