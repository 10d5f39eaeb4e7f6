"""The past views of one mount: which there are, and the number each has for as long as the state
lives, so that nodes can be computed again by the next worker.

An identity is a word and what it is about: `snapshot:<id>`, `foreign:<label>`, `moment:<ns>`,
`versions:<path>`, and `alias:<target>`, which is a name only. Opened views are kept in a small
table. Thread-safe.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable

import xxhash

from pipefs.db import StateDB
from pipefs.past.views import PastView
from pipefsd.nodes import MAX_VIEWS

_OPEN = 64
"""Views kept open: each has the list of its manifest's parts, 200 KB for a million files."""

Opener = Callable[[str, int, bool], PastView]
"""(identity without its word, number of the view, may wait) → the view."""


class Views:
    """Numbers and open views. Errors: OSError ESTALE for a number that nobody gave."""

    def __init__(self, db: StateDB) -> None:
        self._db = db
        self._openers: dict[str, Opener] = {}
        self._lock = threading.Lock()  # protects the tables below; a leaf
        self._open: OrderedDict[int, PastView] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self._identities: dict[int, str] = {}

    def register(self, word: str, opener: Opener) -> None:
        """How views of this word are opened."""
        self._openers[word] = opener

    def number(self, identity: str) -> int:
        """The number of a view, given out durably at the first time."""
        with self._lock:
            known = self._numbers.get(identity)
        if known is not None:
            return known
        key = b"#" + xxhash.xxh3_128_digest(identity.encode())
        with self._db.update() as t:
            raw = t.get("views", key)
            if raw is not None:
                found = int.from_bytes(raw, "big")
            else:
                found = t.count("views") // 2
                if found >= MAX_VIEWS:
                    raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
                t.put("views", key, found.to_bytes(4, "big"))
                t.put("views", b"n" + found.to_bytes(4, "big"), identity.encode())
        with self._lock:
            self._numbers[identity] = found
        return found

    def grows(self, number: int) -> bool:
        """Whether names are added to a view: to `.versions`, of which the rest never changes."""
        return self.identity(number).startswith("versions:")

    def identity(self, number: int) -> str:
        with self._lock:
            known = self._identities.get(number)
        if known is not None:
            return known
        with self._db.view() as v:
            raw = v.get("views", b"n" + number.to_bytes(4, "big"))
        if raw is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        with self._lock:
            self._identities[number] = raw.decode()
        return raw.decode()

    def view(self, number: int, *, wait: bool) -> PastView:
        """The view with this number, opened if need be.

        Raises:
            WouldBlock: the store must be asked, and `wait` is False. NotFound: it is gone.
        """
        with self._lock:
            found = self._open.get(number)
            if found is not None:
                self._open.move_to_end(number)
                return found
        word, _, rest = self.identity(number).partition(":")
        opener = self._openers.get(word)
        if opener is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        view = opener(rest, number, wait)
        with self._lock:
            self._open[number] = view
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return view

    def forget(self) -> None:
        """Open views anew: what they were made of may be gone."""
        with self._lock:
            self._open.clear()
