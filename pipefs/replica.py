"""A second copy of a pipe's committed tree, for who has no mount: `Pipe`, pull, push, search.

It follows the commit log as another machine does, has no outbox and no staged bytes, and lies below
the cache: deleting it loses nothing. Several processes share one copy; each has it to itself, under
a file lock, for the length of a `with` block, in which no bytes of files move.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pipefs import namespace, tree
from pipefs.db import StateDB
from pipefs.descriptor import who
from pipefs.errors import Corrupt, NewerFormat, NotFound
from pipefs.follow import Follower
from pipefs.home import Home, make_private
from pipefs.inodes import InoSource
from pipefs.keys import prefix_bytes_of
from pipefs.past.checkpoint import start_from_snapshot
from pipefs.past.manifests import ManifestStore
from pipefs.policy import Policy
from pipefs.records import ino_key
from pipefs.registry import PATIENCE_S, Pipe
from pipefs.replicated import STALE_S, Item, Now
from pipefs.stores.base import Capabilities, Store
from pipefs.tomlfile import write_file
from pipefs.turns import turn
from pipefs.types import ROOT_INO, Credentials

__all__ = ["STALE_S", "Item", "Now", "Replica"]

log = logging.getLogger(__name__)

CAPABILITIES_S = 86_400.0
"""How long is believed what an endpoint was found to be able to do."""
READ_ONLY_S = 300.0
"""How long is believed that nothing may be written: somebody may be giving the rights just now."""
WAIT_S = 600.0
"""For another process that has the copy open: it may be listing a large pipe."""

_CHECKPOINT_BYTES = 1 << 20
"""A journal lives as long as a block; its room on disk is reserved each time."""


class Replica:
    """One pipe's copy, its store, and what that can do. Thread-safe; opens nothing until used.

    Args:
        patience_s: how long a request is tried again while the store does not answer.
        credentials: instead of those stored for the pipe.
    """

    def __init__(
        self,
        home: Home,
        pipe: Pipe,
        *,
        patience_s: float | None = PATIENCE_S,
        credentials: Credentials | None = None,
    ) -> None:
        self.home = home
        self.pipe = pipe
        self.folder = home.cache / "replicas" / _folder_name(pipe)
        self._patience_s = patience_s
        self._credentials = credentials
        # Order: _turn, the file lock, _making. The thread that has the copy open.
        self._turn = threading.RLock()
        self._now: Now | None = None
        self._making = threading.Lock()  # store, pid, capabilities
        self._store: Store | None = None
        self._pid = 0
        self._capabilities: Capabilities | None = None

    @property
    def store(self) -> Store:
        """The pipe's store, also after the block; made anew in a process that was forked."""
        with self._making:
            if self._store is None or self._pid != os.getpid():
                self._store = self.pipe.open_store(
                    patience_s=self._patience_s, credentials=self._credentials
                )
                self._pid = os.getpid()
            return self._store

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do, as it was found out within the last day.

        Raises:
            Store errors, where it has to be found out now.
        """
        store = self.store
        with self._making:
            if self._capabilities is None:
                self._capabilities = self._read_capabilities()
            if self._capabilities is None:
                self._capabilities = store.probe()
                self._write_capabilities(self._capabilities)
            return self._capabilities

    def ask_again(self) -> Capabilities:
        """`capabilities`, found out now: credentials and buckets change."""
        store = self.store
        with self._making:
            self._capabilities = None
            self._capabilities_file.unlink(missing_ok=True)
        del store
        return self.capabilities

    @contextlib.contextmanager
    def opened(
        self, cached: bool = True, *, offline: bool = False, listing: bool = True
    ) -> Iterator[Now]:
        """The tree as it is now: the log is followed (two requests where nothing is new), and the
        pipe is listed for what other tools wrote where the last listing is older than `STALE_S`.

        Nested blocks of one thread share the copy. What it gives is not used after the block.

        Args:
            cached: False lists in any case.
            offline: ask the store nothing; the tree is as it was when it was last followed.
            listing: False never lists, except where nothing is known of the pipe yet.
        Raises:
            NotFound: `offline`, and this machine never looked at the pipe. Busy: another process
            has it for longer than `WAIT_S`. Store errors; then nothing is lost.
        """
        with self._turn:
            if self._now is not None:
                if not cached and not offline:
                    self._now.catch_up(cached=False, listing=True)
                yield self._now
                return
            with turn(make_private(self.folder) / "turn", WAIT_S, f"the copy of {self.pipe.name}"):
                now = self._opened(cached, offline, listing)
                self._now = now
                try:
                    yield now
                finally:
                    self._now = None
                    now.close()

    def close(self) -> None:
        """Let go of the store's connections. The next use opens it again."""
        with self._making:
            if self._store is not None and self._pid == os.getpid():
                self._store.close()
            self._store = None

    def forget(self) -> None:
        """Delete the copy; the next use fetches it again."""
        with self._turn, turn(make_private(self.folder) / "turn", WAIT_S, self.pipe.name):
            shutil.rmtree(self.folder / "tree", ignore_errors=True)

    # --- opening ------------------------------------------------------------------------------

    def _opened(self, cached: bool, offline: bool, listing: bool) -> Now:
        try:
            return self._caught_up(cached, offline, listing)
        except (Corrupt, NewerFormat) as e:
            # A copy can be had again; what the bucket itself has wrong is found again.
            log.warning("the copy of %s is made anew: %s", self.pipe.name, e)
            shutil.rmtree(self.folder / "tree", ignore_errors=True)
            return self._caught_up(cached, offline, listing)

    def _caught_up(self, cached: bool, offline: bool, listing: bool) -> Now:
        db = StateDB(self.folder / "tree", tree.TABLES, checkpoint_bytes=_CHECKPOINT_BYTES)
        try:
            now = self._now_of(db)
            if not offline:
                now.catch_up(cached=cached, listing=listing)
            elif now.is_new():
                raise NotFound(
                    f"nothing is known of {self.pipe.name} on this machine yet",
                    hint="Look at it once while the store can be reached",
                )
            return now
        except BaseException:
            db.close()
            raise

    def _now_of(self, db: StateDB) -> Now:
        prefix_bytes = prefix_bytes_of(self.pipe.url)
        with db.view() as v:
            ready = v.has("inodes", ino_key(ROOT_INO)) and (
                tree.number(v, "prefix_bytes") == prefix_bytes
            )
        if not ready:
            with db.update() as t:
                namespace.ensure_root(t, time.time_ns())
                tree.set_fact(t, "prefix_bytes", b"%d" % prefix_bytes)
        inos = InoSource()
        follower = Follower(
            db,
            self.store,
            inos,
            author=who(),
            writable=lambda: self.capabilities.writable,
            conditional=lambda: self.capabilities.conditional_put,
            policy=Policy(0.0, 0.0, self.pipe.settings.local_only),
        )
        manifests = ManifestStore(self.store, self.home.cache / "manifests")
        return Now(self, db, follower, lambda: start_from_snapshot(db, inos, self.store, manifests))

    # --- capabilities -------------------------------------------------------------------------

    @property
    def _capabilities_file(self) -> Path:
        return self.folder / "capabilities.json"

    def _read_capabilities(self) -> Capabilities | None:
        file = self._capabilities_file
        try:
            age_s = time.time() - file.stat().st_mtime
            told = json.loads(file.read_bytes())
            if told.pop("settings") != self._asked_with():
                return None
            found = Capabilities(**told)
            believed_s = CAPABILITIES_S if found.writable else READ_ONLY_S
            return found if 0 <= age_s < believed_s else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _write_capabilities(self, found: Capabilities) -> None:
        told = {**asdict(found), "settings": self._asked_with()}
        make_private(self.folder)
        write_file(self._capabilities_file, json.dumps(told).encode())

    def _asked_with(self) -> str:
        """What the answers depend on: the settings that choose credentials and endpoint."""
        chosen = self.pipe.settings
        given = self._credentials or self.pipe.credentials()
        keys = (given.read, given.write) if given is not None else ()
        named = tuple(key.access_key_id if key is not None else "" for key in keys)
        asked = (chosen.endpoint_url, chosen.region, chosen.aws_profile, named, _credentials())
        return hashlib.sha256(repr(asked).encode()).hexdigest()[:16]


def _credentials() -> tuple[str, ...]:
    """Which credentials the environment and the AWS files name; never a secret."""
    names = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_ROLE_ARN", "AWS_ENDPOINT_URL_S3")
    files = {"AWS_SHARED_CREDENTIALS_FILE": "credentials", "AWS_CONFIG_FILE": "config"}
    found = [os.environ.get(name, "") for name in names]
    for variable, file in files.items():
        path = os.path.expanduser(os.environ.get(variable) or f"~/.aws/{file}")
        with contextlib.suppress(OSError):
            found.append(str(os.stat(path).st_mtime_ns))
    return tuple(found)


def _folder_name(pipe: Pipe) -> str:
    """The same for every profile and process that means this pipe at this place."""
    place = hashlib.sha256(f"{pipe.url} {pipe.settings.endpoint_url}".encode()).hexdigest()[:12]
    return f"{pipe.pipe_id}-{place}" if re.fullmatch(r"[A-Za-z0-9-]{1,64}", pipe.pipe_id) else place
