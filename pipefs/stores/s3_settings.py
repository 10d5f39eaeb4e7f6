"""Settings of one S3 store, and the boto3 client made from them.

boto3 does not retry on its own here: `wrap.RetryStore` does, with one deadline for everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound

from pipefs.errors import UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ENGINES = ("auto", "boto3", "obstore")
ADDRESSINGS = ("auto", "path", "virtual")
CHECKSUMS = ("auto", "crc64nvme", "crc32c", "crc32", "none")
ENCRYPTIONS = ("", "AES256", "aws:kms", "aws:kms:dsse")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach and write one bucket. Empty strings mean: as boto3 finds it."""

    endpoint_url: str = ""
    region: str = ""
    profile: str = ""
    addressing: str = "auto"
    """"path" for most servers that are not AWS; "auto" lets botocore decide."""
    engine: str = "auto"
    """"obstore": small puts and reads by Rust, refused where it does not import; "auto": where it
    does; "boto3": never."""
    checksum: str = "auto"
    """"auto": CRC64NVME, CRC32 without awscrt, and none where `probe` finds it refused."""
    storage_class: str = ""
    sse: str = ""
    kms_key: str = ""
    requester_pays: bool = False
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    """Longest silence of the server within a request."""
    part_size_bytes: int = 8 << 20
    """Grows by itself where 10,000 parts would not do."""
    part_threads: int = 4
    """Parts of one multipart upload that are sent at the same time."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("engine", self.engine, ENGINES),
            ("addressing", self.addressing, ADDRESSINGS),
            ("checksum", self.checksum, CHECKSUMS),
            ("sse", self.sse, ENCRYPTIONS),
        ):
            if value not in known:
                choices = ", ".join(filter(None, known))
                raise UsageError(f"{name} {value!r} is not known", hint=f"Choose one of {choices}.")
        if self.kms_key and not self.sse.startswith("aws:kms"):
            raise UsageError("kms_key needs sse = aws:kms", hint="Set sse to aws:kms as well.")


def make_session(settings: S3Settings) -> boto3.session.Session:
    """The session that gives both engines their credentials and region."""
    try:
        return boto3.session.Session(
            profile_name=settings.profile or None, region_name=settings.region or None
        )
    except ProfileNotFound as e:
        raise UsageError(
            f'there is no AWS profile "{settings.profile}"',
            hint="See which there are: aws configure list-profiles",
        ) from e


def make_client(session: boto3.session.Session, settings: S3Settings) -> S3Client:
    """A client whose requests are tried once and carry only the checksums that we compute."""
    style: Literal["auto", "path", "virtual"] = "auto"
    if settings.addressing == "path":
        style = "path"
    elif settings.addressing == "virtual":
        style = "virtual"
    try:
        return session.client(
            "s3",
            endpoint_url=settings.endpoint_url or None,
            # S3 without a region fails in botocore; this one is right for most other servers, and
            # AWS answers with a redirect that botocore follows.
            region_name=session.region_name or "us-east-1",
            config=Config(
                connect_timeout=settings.connect_timeout_s,
                read_timeout=settings.read_timeout_s,
                retries={"total_max_attempts": 1},
                max_pool_connections=64,
                s3={"addressing_style": style},
                # botocore's own sums come as trailers, which many servers refuse.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except (BotoCoreError, ValueError) as e:
        raise UsageError(f"cannot make an S3 client for {settings.endpoint_url}: {e}") from e
