"""Settings of one S3 store, and the boto3 client made from them.

boto3 does not retry on its own here: `wrap.RetryStore` does, with one deadline for everything.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound
from botocore.loaders import Loader
from botocore.parsers import ResponseParserFactory
from botocore.utils import parse_timestamp

from pipefs.errors import AccessDenied, UsageError
from pipefs.types import AccessKey

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
    access_key: AccessKey | None = field(default=None, repr=False)
    """None: as boto3 finds them in the profile, the environment, the machine's role."""
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
        key, bare = settings.access_key, _bare_session()
        made = boto3.session.Session(
            botocore_session=bare,
            profile_name=settings.profile or None,
            region_name=settings.region or None,
            aws_access_key_id=key.access_key_id if key else None,
            aws_secret_access_key=key.secret_access_key if key else None,
            aws_session_token=(key.session_token or None) if key else None,
        )
        bare.get_scoped_config()  # is there such a profile?
        return made
    except ProfileNotFound as e:
        raise UsageError(
            f'there is no AWS profile "{settings.profile}"',
            hint="See which there are: aws configure list-profiles",
        ) from e


def _bare_session() -> botocore.session.Session:
    made = botocore.session.Session()
    made.register_component("data_loader", _loader())
    answers: ResponseParserFactory = made.get_component("response_parser_factory")
    answers.set_parser_defaults(timestamp_parser=_parse_timestamp)
    return made


def _parse_timestamp(value: str | int) -> datetime:
    """As botocore's, which takes 33 us for each object of a listing; 0.6 us here."""
    if isinstance(value, str) and value.endswith("Z"):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value)
    return parse_timestamp(value)  # type: ignore[arg-type]  # a number too, whatever its stub says


class _SharedLoader(Loader):
    @property
    def search_paths(self) -> list[str]:
        """A copy: boto3 adds a folder of its own for each session, which no client needs."""
        return list(super().search_paths)


@functools.cache
def _loader() -> Loader:
    """The descriptions of AWS's services, read once a process: 70 to 200 ms for each session."""
    more = botocore.session.Session().get_config_variable("data_path") or ""
    return _SharedLoader([os.path.expanduser(p) for p in more.split(os.pathsep) if p])


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


def resolved_key(settings: S3Settings) -> AccessKey | None:
    """The pair that requests would be signed with now; a temporary one soon ends.

    Raises:
        UsageError: no such profile. AccessDenied: they are there and cannot be had.
    """
    try:
        found = make_session(settings).get_credentials()
        frozen = found.get_frozen_credentials() if found is not None else None
    except BotoCoreError as e:
        raise AccessDenied(f"no usable credentials: {e}", hint="Renew them: aws sso login") from e
    if frozen is None or not frozen.access_key or not frozen.secret_key:
        return None
    return AccessKey(frozen.access_key, frozen.secret_key, frozen.token or "")
