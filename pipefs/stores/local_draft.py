"""A version of the embedded store before it exists: what it will be, and on which conditions.

Pure; the store fills it while the bytes are written and hands it to the index transaction.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipefs.errors import PreconditionFailed
from pipefs.stores.local_files import NONCE_CHARS
from pipefs.stores.local_index import Record


def new_nonce() -> str:
    """The end of a version id, and the name of the version's content."""
    return secrets.token_hex(NONCE_CHARS // 2)


def check_conditions(
    current: Record | None, key: str, if_match: str, if_none_match: bool = False
) -> None:
    """Raise `PreconditionFailed` when the current version is not the one that was asked for."""
    if if_none_match and current is not None:
        raise PreconditionFailed(f"{key} exists already (version {current.version_id})")
    if if_match and (current is None or current.etag != if_match):
        now = f"it is {current.etag} now" if current else "it is gone"
        raise PreconditionFailed(f"{key} is not {if_match} any more: {now}")


@dataclass(slots=True)
class Draft:
    """One version to be made."""

    key: str
    metadata: Mapping[str, str]
    content_type: str
    if_match: str = ""
    if_none_match: bool = False
    fresh: bytes | None = None
    """Content of a small file that is not synced when the index takes it."""
    nonce: str = field(default_factory=new_nonce)
    etag: str = ""
    """Of the content, once it is written; so is `size`."""
    size: int = 0
    unsettled: int = 0
    """Small contents that the index holds after this one."""

    def check(self, current: Record | None) -> None:
        check_conditions(current, self.key, self.if_match, self.if_none_match)

    def record(self, stamp: int, *, placed: bool) -> Record:
        """What the index keeps of it; `stamp` orders versions and is the plain file's mtime."""
        return Record(
            key=self.key,
            version_id=f"{stamp:016x}{self.nonce}",
            etag=self.etag,
            size=self.size,
            modified_ns=stamp,
            metadata=dict(self.metadata),
            content_type=self.content_type,
            placed=placed,
            plain_mtime_ns=stamp,
        )
