"""An embedded store whose folder is not there: an unplugged disk, a home that moved.

Made anew it would be empty, and a mount would take that for the deletion of every file. So each
request is refused until the folder is back; then it is the store that it was.
"""

from __future__ import annotations

import os
import threading
from urllib.parse import quote

from pipefs.errors import StoreError
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.local_files import is_store
from pipefs.stores.wrapper import WrapperStore


class LateStore(WrapperStore):
    """The store in `folder`, opened by the first request that finds it. Thread-safe."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._found: Store | None = None
        self.url = "file://" + quote(folder)

    @property
    def inner(self) -> Store:  # type: ignore[override]  # an attribute elsewhere
        """
        Raises:
            StoreError: it is not there.
        """
        with self._lock:
            if self._found is None:
                if not is_store(self._folder):
                    raise _missing(self._folder)
                self._found = LocalStore(self._folder)
            return self._found

    def close(self) -> None:
        with self._lock:
            if self._found is not None:
                self._found.close()


def _missing(folder: str) -> StoreError:
    what = "holds no store of a pipe" if os.path.isdir(folder) else "is not there"
    return StoreError(
        f"the folder {folder} {what}",
        hint="Plug in or mount the disk that it is on, or move it back. If its files are given up: "
        "pipefs remove the pipe, then pipefs create it",
    )
