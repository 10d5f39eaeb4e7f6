"""Where a pipe lies in its bucket: other systems count keys from the bucket's root."""

from __future__ import annotations

from dataclasses import dataclass

from pipefs.errors import PreconditionFailed, Refused
from pipefs.stores.base import Store
from pipefs.stores.opening import parse_s3_url


@dataclass(frozen=True, slots=True)
class Place:
    """A pipe's place. `root` is a store of the whole bucket, without a prefix."""

    root: Store
    bucket: str
    prefix: str = ""
    """Of the pipe's keys; "" or ending in "/"."""

    @classmethod
    def of(cls, root: Store, url: str) -> Place:
        """The place of the pipe with this URL.

        Raises:
            Refused: an embedded store: no other system reads it.
        """
        if not url.startswith("s3://"):
            raise Refused(
                f"{url} is an embedded store, and the other systems read S3 only",
                hint="Export a pipe whose URL begins with s3://",
            )
        bucket, prefix = parse_s3_url(url)
        return cls(root, bucket, f"{prefix}/" if prefix else "")

    def full(self, key: str) -> str:
        """The bucket's key of one of the pipe's."""
        return self.prefix + key

    def inside(self, full: str) -> str | None:
        """The pipe's key of one of the bucket's; None: it is not below the pipe's prefix."""
        if not full.startswith(self.prefix) or full == self.prefix:
            return None
        return full[len(self.prefix) :]

    @property
    def pipe_url(self) -> str:
        return self.url(self.prefix).rstrip("/")

    def url(self, full: str) -> str:
        """For messages."""
        return f"s3://{self.bucket}/{full}"

    def put_once(self, full: str, data: bytes, content_type: str) -> bool:
        """Write an object whose key says what is in it; False: it is there already."""
        try:
            self.root.put(full, data, content_type=content_type, if_none_match=True)
        except PreconditionFailed:
            return False
        return True
