"""What `ls` and `cat` show of a tree that lies in the store: lines, bytes, versions."""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Iterator, Sequence

import msgspec

from pipefs.errors import Refused, Unsupported
from pipefs.keys import key_of, names_of
from pipefs.manifest import Entry, names_in, path_of
from pipefs.past.browsing import at, fail, names_below
from pipefs.past.entries import entry_of
from pipefs.past.fileversions import prefix_of
from pipefs.past.levels import PRESENT, is_hidden, versions_of
from pipefs.past.listed import ListedView
from pipefs.past.moment import MomentView
from pipefs.past.nodes import MemoryNodes
from pipefs.past.views import ROOT, PastView
from pipefs.records import Inode
from pipefs.stores.base import Store
from pipefs.types import ObjectVersion

PIECE_BYTES = 8 << 20


def lines(view: PastView, names: Sequence[bytes], *, recursive: bool) -> Iterator[Entry]:
    """What is in a directory (or one that a link leads to), or the one line of anything else;
    paths begin with the one asked for. OSError where there is nothing."""
    node = at(view, names)
    if stat.S_ISLNK(node.mode):
        with contextlib.suppress(OSError):
            led_to = at(view, names, follow=True)
            node = led_to if led_to.is_dir else node
    if not node.is_dir:
        yield entry_of(node, path_of(names))
    elif not recursive:
        for name, found in names_below(view, node.ino):
            yield entry_of(found, path_of([*names, name]))
    else:
        own = _names_to(view, node)
        for entry in view.entries(own):
            below = names_in(entry.path)[len(own) :]
            if below:
                asked = path_of([*names, *below])
                yield msgspec.structs.replace(entry, path=asked, key=entry.object_key)


def _names_to(view: PastView, node: Inode) -> list[bytes]:
    """The true path of a directory, which may have been reached by links."""
    names: list[bytes] = []
    while node.ino != ROOT:
        names.append(node.name)
        node = view.node(node.parent)
    return names[::-1]


def pieces(store: Store, view: PastView, names: Sequence[bytes]) -> Iterator[bytes]:
    """The bytes of the file at a path, links followed, exactly the version that the view has.

    Raises:
        OSError: EISDIR, EINVAL for what has no bytes, and as `browsing.at`. Refused: the bytes are
            not in the store yet.
    """
    node = at(view, names, follow=True)
    if node.is_dir:
        raise fail(errno.EISDIR)
    if not node.is_file:
        raise fail(errno.EINVAL)
    if node.content is None and node.size:
        raise Refused(f"the bytes of {path_of(names)} are not in the store yet")
    content = node.content
    offset = 0
    while content is not None and offset < content.size:
        piece = store.get(content.key, content.version_id, offset, PIECE_BYTES)
        if not piece:
            return
        yield piece
        offset += len(piece)


def stored_now(store: Store, names: Sequence[bytes]) -> PastView:
    """The store's current objects as a tree; what only commits tell (links, renames under way) is
    not in it. With versions one directory at a time; without, all that begins like the path."""
    view = MomentView(store, MemoryNodes(), PRESENT, "live", time_ns=0)
    try:
        if names:
            at(view, names)
        else:
            view.children(ROOT, b"", 1)
    except Unsupported:
        return _listed(store, names)
    except (FileNotFoundError, NotADirectoryError):
        pass  # the caller finds that out
    return view


def _listed(store: Store, names: Sequence[bytes]) -> ListedView:
    entries = []
    for found in store.list(key_of(names) if names else ""):
        if is_hidden(store, found.key):
            continue
        path = path_of(names_of(found.key))
        if found.key.endswith("/"):
            entries.append(Entry(path=path, kind="dir", mtime=found.last_modified_ns))
            continue
        entries.append(
            Entry(
                path=path,
                key="" if found.key == path else found.key,
                size=found.size,
                etag=found.etag,
                mtime=found.last_modified_ns,
            )
        )
    return ListedView(entries, "live")


def all_versions(
    store: Store, names: Sequence[bytes], *, recursive: bool
) -> Iterator[ObjectVersion | str]:
    """Every version and delete marker of a file, or of the files in a directory, and names of the
    folders there: not of pipefs' own objects."""
    prefix = prefix_of(store, names)
    if names:
        yield from versions_of(store, prefix[:-1])
    items: Iterator[ObjectVersion | str] = (
        store.list_versions(prefix) if recursive else store.list_level_versions(prefix)
    )
    for item in items:
        key = f"{prefix}{item}/" if isinstance(item, str) else item.key
        if not is_hidden(store, key):
            yield item
