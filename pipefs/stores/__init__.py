"""Versioned object stores: the contract (`base`), S3, the embedded store, and wrappers.

`open_store` makes one from a URL. No store imports FUSE, keeps a thread of its own between calls,
or writes outside its prefix or directory.
"""

from pipefs.stores.base import WRITE_ID_KEY, Cancelled, Capabilities, FileBody, Store
from pipefs.stores.opening import open_store
from pipefs.stores.wrap import innermost

__all__ = [
    "WRITE_ID_KEY",
    "Cancelled",
    "Capabilities",
    "FileBody",
    "Store",
    "innermost",
    "open_store",
]
