"""What a bucket's lifecycle rules do to the past of a pipe.

S3 deletes by such rules in silence, and what a `NoncurrentVersionExpiration` deletes is gone for
good: the snapshots that name those versions are damaged. Judged here: which rules reach the keys
of this pipe, and what each does there. Pure, but for `of` and `dangerous_rules`, which ask the
store for its rules. Never changes a rule: it is somebody's decision about somebody's money.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipefs.errors import StoreError
from pipefs.stores.base import Store
from pipefs.units import show_size

DESTROYS, LOSES, NOTE = "destroys", "loses", "note"

_OWN = ".pipefs/"
_LASTING = ("commits/", "manifests/", "snapshots/")
"""Below `.pipefs/`: what must stay."""
_SLEEPING = ("GLACIER", "DEEP_ARCHIVE")
"""Storage classes that have to be thawed for hours before they can be read."""

Rule = Mapping[str, Any]
"""As S3 answers GetBucketLifecycleConfiguration."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one part of a rule does to this pipe."""

    level: str
    """DESTROYS snapshots, LOSES live files, or NOTE: it may matter."""
    text: str


@dataclass(frozen=True, slots=True)
class _Scope:
    """Which objects a rule is for."""

    prefix: str
    tags: tuple[str, ...]
    above: int | None
    below: int | None

    def reaches(self, keys: str) -> bool:
        """Whether any key that begins so is one of them."""
        if self.below == 0:
            return False
        return self.prefix.startswith(keys) or keys.startswith(self.prefix)

    def words(self, prefix: str) -> str:
        """` larger than 1 MB below raw/`, or nothing where it is for all."""
        parts = []
        if self.above is not None:
            parts.append(f"larger than {show_size(self.above)}")
        if self.below is not None:
            parts.append(f"smaller than {show_size(self.below)}")
        if self.tags:
            parts.append(f"tagged {' and '.join(self.tags)}")
        if len(self.prefix) > len(prefix):
            parts.append(f"whose keys begin with {self.prefix[len(prefix) :]}")
        return " " + ", ".join(parts) if parts else ""


def of(store: Store) -> list[Judgement]:
    """What the rules of a store's bucket do to what is in it; [] for stores without rules.

    Raises:
        StoreError: the rules cannot be read.
    """
    return judge(store.lifecycle_rules(), store.prefix_in_bucket)


def dangerous_rules(store: Store) -> list[str]:
    """A sentence for each rule that would destroy snapshots of this pipe. [] where there is none,
    and where nobody may ask: `doctor` says so, and a snapshot is still better than none."""
    try:
        return [j.text for j in of(store) if j.level == DESTROYS]
    except StoreError:
        return []


def judge(rules: Sequence[Rule], prefix: str) -> list[Judgement]:
    """What these rules do to the keys that begin with `prefix` ("" or ending in "/")."""
    out: list[Judgement] = []
    for rule in rules:
        scope = _scope(rule)
        if rule.get("Status") == "Enabled" and scope.reaches(prefix):
            name = f'lifecycle rule "{rule.get("ID") or "without a name"}"'
            out += _old_versions(rule, scope, prefix, name)
            out += _current(rule, scope, prefix, name)
            out += _moved(rule, scope, prefix, name)
    return out


def _scope(rule: Rule) -> _Scope:
    found = rule.get("Filter") or {}
    both = found.get("And") or {}
    tags = [*both.get("Tags", []), *([found["Tag"]] if found.get("Tag") else [])]
    return _Scope(
        prefix=str(found.get("Prefix") or both.get("Prefix") or rule.get("Prefix") or ""),
        tags=tuple(f"{t.get('Key', '')}={t.get('Value', '')}" for t in tags),
        above=found.get("ObjectSizeGreaterThan", both.get("ObjectSizeGreaterThan")),
        below=found.get("ObjectSizeLessThan", both.get("ObjectSizeLessThan")),
    )


def _old_versions(rule: Rule, scope: _Scope, prefix: str, name: str) -> Iterator[Judgement]:
    expiry = rule.get("NoncurrentVersionExpiration")
    if not expiry or scope.prefix.startswith(prefix + _OWN):
        return  # old versions of our own objects are of no use
    days, newer = expiry.get("NoncurrentDays", 0), expiry.get("NewerNoncurrentVersions")
    but = f" except the newest {newer} of each file" if newer else ""
    text = (
        f"{name} deletes old versions{scope.words(prefix)} for good after {_days(days)}{but}: "
        "snapshots lose files"
    )
    # pipefs tags nothing, so such a rule takes only what somebody marked for it.
    yield Judgement(NOTE if scope.tags else DESTROYS, text)


def _current(rule: Rule, scope: _Scope, prefix: str, name: str) -> Iterator[Judgement]:
    expiry = rule.get("Expiration") or {}
    if not (expiry.get("Days") or expiry.get("Date")):
        return  # removes delete markers that hide nothing: harmless
    when = f"after {_days(expiry['Days'])}" if expiry.get("Days") else f"on {expiry['Date']}"
    if any(scope.reaches(f"{prefix}{_OWN}{part}") for part in _LASTING) and not scope.tags:
        yield Judgement(
            DESTROYS,
            f"{name} deletes objects{scope.words(prefix)} {when}, those below {_OWN} too: "
            "snapshots and the log of changes go",
        )
    elif not scope.prefix.startswith(prefix + _OWN):
        level = NOTE if scope.tags else LOSES
        text = f"{name} deletes files{scope.words(prefix)} {when}: they disappear"
        yield Judgement(level, text)


def _moved(rule: Rule, scope: _Scope, prefix: str, name: str) -> Iterator[Judgement]:
    for part, what in (
        ("NoncurrentVersionTransitions", "old versions"),
        ("Transitions", "objects"),
    ):
        classes = {t.get("StorageClass", "") for t in rule.get(part) or []}
        if classes.intersection(_SLEEPING):
            yield Judgement(
                NOTE,
                f"{name} archives {what}{scope.words(prefix)}: they cannot be read until they "
                "are restored from the archive",
            )


def _days(count: int) -> str:
    return f"{count} day" if count == 1 else f"{count:,} days"
