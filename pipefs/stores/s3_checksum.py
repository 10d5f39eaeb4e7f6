"""Checksums that travel with each put, computed here and sent as plain headers.

CRC64NVME is S3's own (a multipart's sum covers the whole object); CRC32 is what remains without
awscrt. Sent as headers and not as botocore's trailers, because servers that do not know a header
ignore it, while many refuse `aws-chunked` bodies.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

from pipefs.errors import UsageError

try:
    from awscrt import checksums as crt
except ImportError:  # a platform without the wheel: CRC32 then
    crt = None


@dataclass(frozen=True, slots=True)
class Checksum:
    """One algorithm. `name` is "" for none at all."""

    name: str

    @property
    def full_object(self) -> bool:
        """A multipart's sum is that of its bytes, not a sum of sums."""
        return self.name == "CRC64NVME"

    def header(self, body: bytes | memoryview) -> dict[str, Any]:
        """The request parameter of a put or an upload of a part."""
        if not self.name:
            return {}
        if self.name == "CRC64NVME":
            value, width = crt.crc64nvme(body), 8
        elif self.name == "CRC32C":
            value, width = crt.crc32c(body), 4
        else:
            value, width = zlib.crc32(body), 4
        return {f"Checksum{self.name}": base64.b64encode(value.to_bytes(width, "big")).decode()}

    def wrong_header(self) -> dict[str, Any]:
        """The parameter with a sum that fits no body of a probe."""
        if not self.name:
            return {}
        width = 8 if self.name == "CRC64NVME" else 4
        return {f"Checksum{self.name}": base64.b64encode(b"\xa5" * width).decode()}

    def multipart(self) -> dict[str, Any]:
        """Parameters of the creation of a multipart upload."""
        if not self.name:
            return {}
        kind = "FULL_OBJECT" if self.full_object else "COMPOSITE"
        return {"ChecksumAlgorithm": self.name, "ChecksumType": kind}


NO_CHECKSUM = Checksum("")


def choose_checksum(setting: str) -> Checksum:
    """
    Raises:
        UsageError: the algorithm needs awscrt, which is not there.
    """
    if setting == "none":
        return NO_CHECKSUM
    if setting == "auto":
        return Checksum("CRC64NVME" if crt is not None else "CRC32")
    if setting in ("crc64nvme", "crc32c") and crt is None:
        raise UsageError(f"{setting} needs awscrt", hint="pip install 'botocore[crt]'")
    return Checksum(setting.upper())
