"""Words after `push` and `pull`: datakit's flags without dashes, and those of `aws s3 sync`.

A flag of `aws s3 sync` that has no meaning here is named and ignored, as datakit does. A word that
neither knows is an error: a mistyped `dryrun` must not become a push.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipefs.errors import UsageError

_IGNORED = {
    "exact-timestamps": "bytes are compared, not times",
    "size-only": "bytes are compared, not sizes",
    "no-guess-mime-type": "content types come from the names",
    "ignore-glacier-warnings": "nothing is restored from archives",
    "force-glacier-transfer": "nothing is restored from archives",
    "recursive": "folders count anyway",
}
"""Boolean flags of `aws s3 sync` without a meaning here, and why."""

_TAKEN = (
    "delete",
    "dryrun",
    "dry-run",
    "force",
    "quiet",
    "only-show-errors",
    "no-progress",
    "follow-symlinks",
    "no-follow-symlinks",
)


@dataclass(slots=True)
class Flags:
    """What the words ask for."""

    delete: bool = False
    dry_run: bool = False
    force: bool = False
    quiet: bool = False
    progress: bool = True
    follow_links: bool = True
    ignored: dict[str, str] = field(default_factory=dict)
    """Flag as it was typed, and why it does nothing."""


def parse_flags(words: Iterable[str]) -> Flags:
    """
    Args:
        words: with or without leading dashes.
    Raises:
        UsageError: a word that is no flag.
    """
    found = Flags()
    for word in words:
        name = word.removeprefix("--")
        if name in _IGNORED:
            found.ignored[word] = _IGNORED[name]
        elif name in _TAKEN:
            _take(found, name)
        else:
            raise _unknown(word, name)
    return found


def _take(flags: Flags, name: str) -> None:
    if name == "delete":
        flags.delete = True
    elif name == "force":
        flags.force = True
    elif name == "no-progress":
        flags.progress = False
    elif name.endswith("follow-symlinks"):
        flags.follow_links = not name.startswith("no-")
    elif name.startswith("dry"):
        flags.dry_run = True
    else:
        flags.quiet = True


def _unknown(word: str, name: str) -> UsageError:
    near = difflib.get_close_matches(name, [*_TAKEN, *_IGNORED], n=2, cutoff=0.5)
    guess = f"Did you mean {' or '.join(near)}?" if near else "Flags: delete dryrun force"
    return UsageError(f"{word!r} is no flag; nothing was done", hint=guess)
