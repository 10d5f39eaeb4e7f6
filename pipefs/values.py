"""Values of settings: from what a person or a file says to what the program uses.

Each parser gives the value or raises ValueError with what is allowed. Pure but for `~`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping

from pipefs.units import SIZE_ALLOWED, parse_bool, parse_list, parse_size


def parse_choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = str(value).strip()
        if text not in allowed:
            raise ValueError(", ".join(allowed[:-1]) + f" or {allowed[-1]}")
        return text

    _CHOICES[parse] = allowed
    return parse


_CHOICES: dict[Callable[[object], object], tuple[str, ...]] = {}


def choices_of(parse: Callable[[object], object]) -> tuple[str, ...]:
    """The values that a parser made by `parse_choice` takes; nothing for others."""
    return tuple(filter(None, _CHOICES.get(parse, ())))


def parse_one_line(value: object) -> str:
    if not isinstance(value, str) or any(ord(c) < 32 for c in value):
        raise ValueError("a text on one line")
    return value


def parse_limit(value: object) -> int | None:
    if isinstance(value, str) and value.strip().lower() in ("none", "auto", ""):
        return None
    try:
        return parse_size(value)
    except ValueError as e:
        raise ValueError(f"{SIZE_ALLOWED}, or none") from e


def parse_cache_limit(value: object) -> int | None:
    count = parse_limit(value)
    if count is not None and count < 64 << 20:
        raise ValueError("at least 64M (a reader needs room for what it has in flight)")
    return count


def parse_umask(value: object) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise ValueError("octal digits such as 022 or 077")
    return int(text, 8)


def parse_owner(value: object) -> str:
    text = str(value).strip()
    if text in ("auto", "mounter", "stored") or re.fullmatch(r"[\w.-]+:[\w.-]+", text):
        return text
    raise ValueError("mounter, stored, USER:GROUP or auto")


def parse_folder(value: object) -> str:
    text = parse_one_line(value)
    if not text:
        return ""
    expanded = os.path.expanduser(text)
    if not os.path.isabs(expanded):
        raise ValueError("an absolute path")
    return os.path.normpath(expanded)


def parse_place(value: object) -> str:
    text = parse_one_line(value).strip()
    if os.path.isabs(os.path.expanduser(text)):
        return parse_folder(text)
    if leaves_its_folder(text):
        raise ValueError("a folder below the pipe's own, or on this machine an absolute path")
    return text


def parse_tristate(value: object) -> bool | None:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return None
    try:
        return parse_bool(value)
    except ValueError as e:
        raise ValueError("yes, no or auto") from e


def parse_patterns(value: object) -> tuple[str, ...]:
    """Patterns with commas or, as d6tpipe writes them, with | between."""
    parts = (part for item in parse_list(value) for part in item.split("|"))
    return tuple(one for part in parts if (one := part.strip()))


def parse_schema(value: object) -> Mapping[str, object]:
    try:
        found = json.loads(value or "{}") if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError('a JSON object such as {"pandas": {"sep": ";"}}')
    return found


def parse_endpoint(value: object) -> str:
    text = parse_one_line(value)
    if text and not re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", text):
        raise ValueError("a URL such as https://s3.example.org, without user or password")
    return text.rstrip("/")


def parse_root(value: object) -> str:
    text = parse_one_line(value)
    if text and not re.fullmatch(r"(s3://[^/\s]+|file:///)[^\s]*", text):
        raise ValueError("s3://bucket/prefix or file:///folder")
    return text.rstrip("/")


def leaves_its_folder(value: object) -> bool:
    """Whether a `dir` means a place outside the pipe's own folder, on any kind of system."""
    text = str(value).replace("\\", "/")
    return text.startswith(("/", "~")) or text[1:2] == ":" or ".." in text.split("/")
