"""The bucket as a whole: does it exist, make it, turn versioning on, read its lifecycle rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from pipefs.errors import AccessDenied, NotFound, Unsupported
from pipefs.stores.s3_errors import Where, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ABORT_RULE_ID = "pipefs-abort-incomplete-uploads"
ABORT_AFTER_DAYS = 7


@dataclass(frozen=True, slots=True)
class BucketAdmin:
    """Requests about the bucket; all need more than a reader's permissions unless they say so."""

    client: S3Client
    where: Where

    def exists(self) -> bool:
        """Whether the bucket is there and these credentials may know it.

        Raises:
            AccessDenied: it is there, but not for these credentials.
        """
        try:
            with s3_errors(self.where, f"look for bucket {self.where.bucket}"):
                self.client.head_bucket(Bucket=self.where.bucket)
        except NotFound:
            return False
        return True

    def create(self, *, versioning: bool) -> None:
        """Make the bucket; no error where it is this account's already."""
        region = self.client.meta.region_name
        options: dict[str, Any] = {}
        if region != "us-east-1":
            options["CreateBucketConfiguration"] = {"LocationConstraint": region}
        with s3_errors(self.where, f"create bucket {self.where.bucket}"):
            try:
                self.client.create_bucket(Bucket=self.where.bucket, **options)
            except ClientError as e:
                code = e.response.get("Error", {}).get("Code", "")
                if code == "BucketAlreadyExists":
                    raise AccessDenied(
                        f'bucket "{self.where.bucket}" belongs to somebody else',
                        hint="Bucket names are shared by all accounts: choose another.",
                    ) from e
                if code != "BucketAlreadyOwnedByYou":
                    raise
        if versioning:
            self.enable_versioning()

    def enable_versioning(self) -> None:
        with s3_errors(self.where, f"turn on versioning of {self.where.bucket}"):
            self.client.put_bucket_versioning(
                Bucket=self.where.bucket, VersioningConfiguration={"Status": "Enabled"}
            )

    def versioning_state(self) -> str:
        """ "Enabled", "Suspended", "" (never on), or "unknown" (may not ask, or it cannot tell)."""
        try:
            with s3_errors(self.where, f"ask for versioning of {self.where.bucket}"):
                return self.client.get_bucket_versioning(Bucket=self.where.bucket).get("Status", "")
        except (AccessDenied, Unsupported):
            return "unknown"

    def rules(self) -> list[Mapping[str, Any]]:
        """Lifecycle rules, as S3 tells them; [] for none. `AccessDenied`, `Unsupported`."""
        with s3_errors(self.where, f"read the lifecycle rules of {self.where.bucket}"):
            try:
                answer = self.client.get_bucket_lifecycle_configuration(Bucket=self.where.bucket)
            except ClientError as e:
                if e.response.get("Error", {}).get("Code") == "NoSuchLifecycleConfiguration":
                    return []
                raise
        return list(answer.get("Rules", []))

    def ensure_abort_rule(self) -> bool:
        """Have S3 remove uploads that were left incomplete for seven days; True when it was added.

        The other rules stay as they are. A rule without a filter that does the same is enough.
        """
        rules = self.rules()
        for rule in rules:
            whole = not _rule_prefix(rule) and "Tag" not in str(rule.get("Filter", ""))
            abort = "AbortIncompleteMultipartUpload" in rule
            if rule.get("Status") == "Enabled" and whole and abort:
                return False
        ours: Any = {
            "ID": ABORT_RULE_ID,
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_AFTER_DAYS},
        }
        kept: list[Any] = [rule for rule in rules if rule.get("ID") != ABORT_RULE_ID]
        with s3_errors(self.where, f"write the lifecycle rules of {self.where.bucket}"):
            self.client.put_bucket_lifecycle_configuration(
                Bucket=self.where.bucket, LifecycleConfiguration={"Rules": [*kept, ours]}
            )
        return True

    def incomplete_uploads(self) -> int:
        """Number of multipart uploads under our prefix that are not complete (first 1,000)."""
        with s3_errors(self.where, "list the incomplete uploads"):
            answer = self.client.list_multipart_uploads(
                Bucket=self.where.bucket, Prefix=self.where.prefix
            )
        return len(answer.get("Uploads", []))


def _rule_prefix(rule: Mapping[str, Any]) -> str:
    scope = rule.get("Filter") or {}
    prefix = scope.get("Prefix") or (scope.get("And") or {}).get("Prefix") or rule.get("Prefix")
    return str(prefix or "")
