"""What a pipe's bucket must allow: IAM policies for those who read, write or keep a pipe.

Each role has what the one before it has. Only `admin` may delete versions: with `write` alone
nobody, not even a program run wild, can destroy what is in the bucket. Pure.
"""

from __future__ import annotations

from pipefs.errors import Refused, UsageError
from pipefs.stores.opening import parse_s3_url

ROLES = ("read", "write", "admin")

Statement = dict[str, object]

_OTHERS = (".quilt/", ".snapshots/")

_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}


def policy_for(url: str, role: str, *, region: str = "", kms_key: str = "") -> dict[str, object]:
    """An IAM policy document, to attach to a user or role.

    Args:
        url: the pipe's store.
        kms_key: ARN of the key that its objects are encrypted with, if any.
    Raises:
        Refused: an embedded store. UsageError: no such role.
    """
    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}", hint=f"One of {', '.join(ROLES)}")
    if not url.startswith("s3://"):
        raise Refused(
            f"{url} is an embedded store: it has no policy",
            hint="Who may read the folder may read the pipe.",
        )
    bucket, prefix = parse_s3_url(url)
    partition = next((p for r, p in _PARTITIONS.items() if region.startswith(r)), "aws")
    arn = f"arn:{partition}:s3:::{bucket}"
    below = f"{arn}/{prefix}/*" if prefix else f"{arn}/*"
    level = ROLES.index(role)
    statements = [
        _on_bucket("PipefsLook", arn, _BUCKET[: level + 1]),
        _listing(arn, prefix, level),
        _statement("PipefsObjects", below, _OBJECTS[: level + 1]),
    ]
    if role == "write":
        # What an endpoint can do is found by trying, and what was tried is taken away again.
        probes = f"{below[:-1]}.pipefs/probe/*"
        statements.append(_statement("PipefsProbe", probes, [("s3:DeleteObjectVersion",)]))
    elif role == "admin" and prefix:
        statements += _of_other_systems(arn)
    if kms_key.startswith("arn:"):
        actions = ("kms:Decrypt",) if level == 0 else ("kms:Decrypt", "kms:GenerateDataKey")
        statements.append(_statement("PipefsKey", kms_key, [actions]))
    return {"Version": "2012-10-17", "Statement": statements}


_BUCKET: list[tuple[str, ...]] = [
    (
        "s3:GetBucketLocation",
        "s3:GetBucketVersioning",
        "s3:GetLifecycleConfiguration",
        "s3:GetBucketObjectLockConfiguration",
    ),
    (),
    ("s3:PutBucketVersioning", "s3:PutLifecycleConfiguration"),
]
"""About the bucket as a whole, by role. They name no key, so no prefix can limit them."""

_LISTS: list[tuple[str, ...]] = [
    ("s3:ListBucket", "s3:ListBucketVersions"),
    ("s3:ListBucketMultipartUploads",),
    (),
]

_OBJECTS: list[tuple[str, ...]] = [
    ("s3:GetObject", "s3:GetObjectVersion"),
    ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
    ("s3:DeleteObjectVersion", "s3:GetObjectLegalHold", "s3:PutObjectLegalHold"),
]


def _statement(sid: str, resource: str, actions: list[tuple[str, ...]]) -> Statement:
    flat = sorted({action for group in actions for action in group})
    return {"Sid": sid, "Effect": "Allow", "Action": flat, "Resource": resource}


def _on_bucket(sid: str, arn: str, actions: list[tuple[str, ...]]) -> Statement:
    return _statement(sid, arn, actions)


def _listing(arn: str, prefix: str, level: int) -> Statement:
    """Listings, only of what is below the prefix."""
    out = _statement("PipefsList", arn, _LISTS[: level + 1])
    if prefix:
        out["Condition"] = {"StringLike": {"s3:prefix": [f"{prefix}/*"]}}
    return out


def _of_other_systems(arn: str) -> list[Statement]:
    """To read the snapshots of dws, T4 and quilt3, which lie at the bucket's root: a prune spares
    the versions that they name."""
    look = _statement("PipefsOtherSystemsList", arn, [("s3:ListBucket",)])
    look["Condition"] = {"StringLike": {"s3:prefix": [f"{p}*" for p in _OTHERS]}}
    read = _statement("PipefsOtherSystems", "", [("s3:GetObject",)])
    read["Resource"] = [f"{arn}/{p}*" for p in _OTHERS]
    return [look, read]
