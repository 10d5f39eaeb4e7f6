"""Every error of S3, boto3 and obstore as one of ours: the only place that knows their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from pipefs.errors import (
    AccessDenied,
    Corrupt,
    NoSpace,
    NotAccepted,
    NotFound,
    PipefsError,
    PreconditionFailed,
    ServerFault,
    StoreError,
    StoreUnavailable,
    Throttled,
    Unsupported,
    UsageError,
)

_THROTTLED = frozenset(
    [
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
        "RequestThrottled",
        "RequestLimitExceeded",
        "TooManyRequests",
    ]
)
_MISSING = frozenset(("NoSuchKey", "NoSuchVersion", "NotFound", "MethodNotAllowed", "404"))
_LOST_RACE = frozenset(("PreconditionFailed", "ConditionalRequestConflict", "412"))
_DAMAGED = frozenset(
    ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch")
)
_CREDENTIALS = frozenset(
    [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "TokenRefreshRequired",
        "InvalidSecurity",
    ]
)
_WRONG_REGION = frozenset(
    ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
)
_FULL = frozenset(("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"))
_TRANSIENT = frozenset(("RequestTimeout", "OperationAborted", "NoSuchUpload"))

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
)
_CONNECTION = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
)
_BOTO_URL = re.compile(r"(?: on| to| from)?(?: the)? endpoint URL: \"[^\"]*\"\.?")
_OBSTORE_CODE = re.compile(r"<Code>([^<]+)</Code>")
_OBSTORE_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_OBSTORE_STATUS = re.compile(r"status code: (\d{3})")


_RENEW = "They have expired. Renew them: aws sso login, or pipefs cred set NAME"
_CHECK = "Check them with `aws sts get-caller-identity`, or renew them."


@dataclass(frozen=True, slots=True)
class Where:
    """What messages name."""

    bucket: str
    endpoint: str
    profile: str
    prefix: str = ""
    access_key_id: str = ""
    """Of stored credentials; "" for those that boto3 found."""

    @property
    def account(self) -> str:
        if self.access_key_id:
            return f"(access key {self.access_key_id})"
        return f'(profile "{self.profile}")' if self.profile else "(default credentials)"


@contextmanager
def s3_errors(where: Where, doing: str) -> Iterator[None]:
    """Translate whatever the two engines raise inside."""
    try:
        yield
    except PipefsError:
        raise
    except ClientError as e:
        error = e.response.get("Error", {})
        status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code, message = error.get("Code", ""), error.get("Message", "")
        raise from_code(code, status, message, where, doing) from e
    except BotoCoreError as e:
        raise _from_boto(e, where, doing) from e
    except Exception as e:
        if (ours := from_obstore(e, where, doing)) is None:
            raise
        raise ours from e


def _from_boto(e: BotoCoreError, where: Where, doing: str) -> PipefsError:
    if isinstance(e, _NO_CREDENTIALS):
        return AccessDenied(
            f"no usable credentials for {where.endpoint} {where.account}: {e}",
            hint="Run `aws configure`, set AWS_ACCESS_KEY_ID, or\n"
            "store keys of this pipe alone: pipefs cred set NAME",
        )
    if isinstance(e, boto.SSLError):
        return StoreUnavailable(
            f"the certificate of {where.endpoint} is not trusted ({doing}): {e}",
            hint="Name your authority's certificates in AWS_CA_BUNDLE.",
        )
    if isinstance(e, boto.ParamValidationError | boto.UnsupportedS3ConfigurationError):
        return UsageError(f"{doing}: {e}")
    if isinstance(e, _CONNECTION):
        # botocore repeats the whole URL; the message has said where already.
        return unreachable(where, doing, _BOTO_URL.sub("", str(e)))
    return StoreError(f"{doing}: {e}")


def unreachable(where: Where, doing: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"cannot reach {where.endpoint} ({doing}): {why}",
        hint="Is the endpoint right and the network up? `pipefs doctor` tries it step by step.",
    )


def from_obstore(e: Exception, where: Where, doing: str) -> PipefsError | None:
    """obstore gives the whole answer in its message; None where `e` is not obstore's."""
    module = type(e).__module__
    if not module.startswith("obstore") and not isinstance(e, FileNotFoundError):
        return None
    text = str(e)
    code, status = _OBSTORE_CODE.search(text), _OBSTORE_STATUS.search(text)
    if status is None:
        if "CredentialProvider" in text or "credential" in text[:200]:
            return NotAccepted(f"no usable credentials for {where.endpoint}: {text[:300]}")
        return unreachable(where, doing, text.split("\n\nDebug source", 1)[0][:300])
    message = _OBSTORE_MESSAGE.search(text)
    return from_code(
        code[1] if code else status[1],
        int(status[1]),
        message[1] if message else "",
        where,
        doing,
    )


def no_such_bucket(where: Where) -> NotFound:
    at = f"s3://{where.bucket}/{where.prefix}".rstrip("/")
    return NotFound(
        f'bucket "{where.bucket}" does not exist at {where.endpoint} {where.account}.',
        hint=f"Create it with versioning: pipefs create NAME {at} --create-bucket",
    )


def from_code(code: str, status: int, message: str, where: Where, doing: str) -> PipefsError:
    """Our error for an answer of S3."""
    said = f"{doing} at {where.endpoint}: {message or 'no message'} ({code or status})"
    if code == "NoSuchBucket":
        return no_such_bucket(where)
    if code in _THROTTLED or status == 429:
        return Throttled(f"the store asks for fewer requests: {said}")
    if code in _LOST_RACE or status == 412:
        return PreconditionFailed(f"another version is there by now: {said}")
    if code in _DAMAGED:
        return Corrupt(f"bytes changed on the way: {said}")
    if code in _FULL or status == 507:
        return NoSpace(f"the store is full: {said}")
    if code in _WRONG_REGION:
        return UsageError(
            f'bucket "{where.bucket}" is in another region: {said}', hint="pipefs set NAME region=…"
        )
    if code == "InvalidObjectState":
        return Unsupported(
            f"the object is archived: {said}", hint="Restore it from its storage class first."
        )
    if code == "InternalError" or status == 500:
        return ServerFault(said)
    if code in _TRANSIENT or (status >= 500 and status != 501):
        return StoreUnavailable(said)
    if denied := _denied(code, status, where, said):
        return denied
    if code in _MISSING or status in (404, 405):
        return NotFound(said)
    return Unsupported(said)


def _denied(code: str, status: int, where: Where, said: str) -> AccessDenied | None:
    if code == "RequestTimeTooSkewed":
        return NotAccepted(f"this machine's clock is wrong: {said}", hint="Set it (NTP).")
    if code in _CREDENTIALS:
        return NotAccepted(
            f"the credentials {where.account} are not accepted: {said}",
            hint=_RENEW if "Expired" in code else _CHECK,
        )
    if code in ("AccessDenied", "AllAccessDisabled", "403") or status in (401, 403):
        return AccessDenied(
            f'not allowed in bucket "{where.bucket}" {where.account}: {said}',
            hint="The permissions that pipefs needs: pipefs policy NAME --role read|write|admin",
        )
    return None
