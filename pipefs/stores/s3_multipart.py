"""Multipart uploads and multipart copies: bounded parallel parts, conditional completion.

An upload that does not complete is aborted, whatever the reason; `ensure_abort_rule` covers a
machine that dies meanwhile. Threads end with the call. A part, and the completion, is tried a few
times here, since sending a terabyte again for one lost answer would never end.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipefs.errors import PipefsError, StoreUnavailable
from pipefs.stores.base import Cancelled, FileBody
from pipefs.stores.retrying import RetryPolicy, call_with_retries
from pipefs.stores.s3_checksum import Checksum
from pipefs.stores.s3_errors import Where, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MAX_PARTS = 10_000
MAX_PART_BYTES = 5 << 30
_MIB = 1 << 20
_PART_POLICY = RetryPolicy(deadline_s=30.0, max_attempts=4)


def part_size_bytes(size: int, wanted: int) -> int:
    """A multiple of 1 MiB, at least `wanted`, with which `size` needs at most 10,000 parts."""
    needed = -(-size // MAX_PARTS)
    return -(-max(wanted, needed, 5 * _MIB) // _MIB) * _MIB


class _Stop:
    """Shared by the parts of one upload: set when one failed or the caller cancelled."""

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        if self._event.is_set() or self._cancelled():
            self._event.set()
            raise Cancelled


class _PartReader(io.BytesIO):
    """A part's bytes for boto3; asks for cancellation about every MiB that it hands out."""

    def __init__(self, data: bytes, stop: _Stop) -> None:
        super().__init__(data)
        self._stop = stop
        self._next_check = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._next_check:
            self._stop.check()
            self._next_check = self.tell() + _MIB
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._next_check = 0
        return super().seek(offset, whence)


@dataclass(frozen=True, slots=True)
class Multipart:
    """One client's way of sending many parts to one bucket."""

    client: S3Client
    where: Where
    checksum: Checksum
    threads: int
    common: Mapping[str, Any]
    """Parameters of every request, such as RequestPayer."""

    def upload(
        self,
        key: str,
        body: FileBody,
        wanted_part_bytes: int,
        create: Mapping[str, Any],  # boto3's parameters are of many types
        condition: Mapping[str, str],
    ) -> dict[str, Any]:
        """Send the body; the answer of the completion.

        Raises:
            Cancelled: and the upload is aborted. PreconditionFailed: at the completion.
        """
        step = part_size_bytes(body.size, wanted_part_bytes)
        stop = _Stop(body.cancelled)
        progress_lock = threading.Lock()

        def send(upload_id: str, number: int) -> CompletedPartTypeDef:
            offset = (number - 1) * step
            data = _read_part(body, offset, min(step, body.size - offset), stop)
            sums: dict[str, Any] = self.checksum.header(data)
            call: dict[str, Any] = {
                "Bucket": self.where.bucket,
                "Key": key,
                "UploadId": upload_id,
                **self.common,
            }

            def attempt() -> CompletedPartTypeDef:
                with self._errors(f"upload part {number} of {key}", stop):
                    answer = self.client.upload_part(
                        **call, PartNumber=number, Body=_PartReader(data, stop), **sums
                    )
                return {"ETag": answer["ETag"], "PartNumber": number, **sums}  # type: ignore[typeddict-item]  # the sum's name varies

            part = call_with_retries(attempt, _PART_POLICY, f"part {number} of {key}")
            with progress_lock:
                body.progress(len(data))
            return part

        count = max(1, -(-body.size // step))
        return self._run(key, count, send, create, self.checksum.multipart(), condition, stop)

    def copy(
        self,
        source: Mapping[str, str],
        size: int,
        key: str,
        create: Mapping[str, Any],
        condition: Mapping[str, str],
    ) -> dict[str, Any]:
        """Server-side copy by ranges; the answer of the completion."""
        step = part_size_bytes(size, 512 * _MIB)
        stop = _Stop(lambda: False)

        def send(upload_id: str, number: int) -> CompletedPartTypeDef:
            start = (number - 1) * step
            byte_range = f"bytes={start}-{min(start + step, size) - 1}"

            def attempt() -> CompletedPartTypeDef:
                stop.check()
                with s3_errors(self.where, f"copy part {number} to {key}"):
                    answer = self.client.upload_part_copy(
                        Bucket=self.where.bucket,
                        Key=key,
                        UploadId=upload_id,
                        PartNumber=number,
                        CopySource=source,  # type: ignore[arg-type]  # a dict with boto3's keys
                        CopySourceRange=byte_range,
                        **self.common,
                    )
                return {"ETag": answer["CopyPartResult"]["ETag"], "PartNumber": number}

            return call_with_retries(attempt, _PART_POLICY, f"copy part {number} to {key}")

        count = max(1, -(-size // step))
        return self._run(key, count, send, create, {}, condition, stop)

    def _run(
        self,
        key: str,
        count: int,
        send: Callable[[str, int], CompletedPartTypeDef],
        create: Mapping[str, Any],
        sums: Mapping[str, Any],
        condition: Mapping[str, str],
        stop: _Stop,
    ) -> dict[str, Any]:
        with s3_errors(self.where, f"start the upload of {key}"):
            upload_id = self.client.create_multipart_upload(
                Bucket=self.where.bucket, Key=key, **create, **sums, **self.common
            )["UploadId"]
        try:
            parts = self._send_all(upload_id, count, send, stop)
            extra = dict(condition) | dict(self.common)
            if self.checksum.full_object and sums:
                extra["ChecksumType"] = "FULL_OBJECT"
            return self._complete(key, upload_id, parts, extra)
        except BaseException:
            with contextlib.suppress(PipefsError), s3_errors(self.where, f"abort {key}"):
                self.client.abort_multipart_upload(
                    Bucket=self.where.bucket, Key=key, UploadId=upload_id
                )
            raise

    def _send_all(
        self,
        upload_id: str,
        count: int,
        send: Callable[[str, int], CompletedPartTypeDef],
        stop: _Stop,
    ) -> list[CompletedPartTypeDef]:
        futures: list[Future[CompletedPartTypeDef]] = []
        with ThreadPoolExecutor(min(self.threads, count), "pipefs-part") as pool:
            try:
                futures.extend(pool.submit(send, upload_id, n) for n in range(1, count + 1))
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # On an error or an interrupt: parts not yet begun end at once.
                if not all(f.done() and not f.exception() for f in futures):
                    stop.set()
                    for future in futures:
                        future.cancel()
        errors = [e for f in futures if not f.cancelled() and (e := f.exception()) is not None]
        # The first cause counts: the others were told to stop because of it.
        for error in sorted(errors, key=lambda e: isinstance(e, Cancelled)):
            raise error
        return [f.result() for f in futures]

    def _complete(
        self, key: str, upload_id: str, parts: list[CompletedPartTypeDef], extra: Mapping[str, Any]
    ) -> dict[str, Any]:
        def attempt() -> dict[str, Any]:
            with s3_errors(self.where, f"complete the upload of {key}"):
                answer = self.client.complete_multipart_upload(
                    Bucket=self.where.bucket,
                    Key=key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": parts},
                    **extra,
                )
            if not answer.get("ETag"):
                # S3 may answer 200 and an error in the body; botocore turns most into a 500.
                raise StoreUnavailable(f"the completion of {key} came back without an ETag")
            return dict(answer)

        return call_with_retries(attempt, _PART_POLICY, f"completion of {key}")

    @contextlib.contextmanager
    def _errors(self, doing: str, stop: _Stop) -> Any:  # a generator for contextmanager
        """As `s3_errors`; botocore wraps the `Cancelled` that a reader raised in its own error."""
        try:
            with s3_errors(self.where, doing):
                yield
        except StoreUnavailable:
            stop.check()
            raise


def _read_part(body: FileBody, offset: int, size: int, stop: _Stop) -> bytes:
    pieces = []
    end = offset + size
    while offset < end:
        stop.check()
        piece = os.pread(body.fd, min(_MIB, end - offset), offset)
        if not piece:
            raise OSError(5, "the body ended before its size")
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def read_all(body: FileBody) -> bytes:
    """The whole body, for a put of one request. Raises `Cancelled`."""
    if body.cancelled():
        raise Cancelled
    pieces = []
    offset = 0
    while offset < body.size:
        piece = os.pread(body.fd, body.size - offset, offset)
        if not piece:
            raise OSError(5, "the body ended before its size")
        pieces.append(piece)
        offset += len(piece)
    if body.cancelled():
        raise Cancelled
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
