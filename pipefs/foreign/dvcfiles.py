"""`.dvc` files and the repository around them: text to values and back.

DVC looks for a file of a version-aware remote at its path in the repository, below the remote's
URL. Every text is written in quotes, since YAML takes some hashes for numbers.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipefs.errors import Corrupt, NotFound, UsageError

SUFFIX = ".dvc"


@dataclass(frozen=True, slots=True)
class OutFile:
    """A file of an output."""

    relpath: str
    """Below the output; "" where the output is this file."""
    md5: str
    size: int
    etag: str
    version: str


@dataclass(frozen=True, slots=True)
class Out:
    """What one `.dvc` file tracks: a directory or a file beside it."""

    path: str
    remote: str
    files: Sequence[OutFile]


def quoted(text: str) -> str:
    """A text as YAML's double quotes have it."""
    return '"' + "".join(_escaped(c) for c in text) + '"'


def _escaped(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    return c if c.isprintable() else f"\\U{ord(c):08x}"


def encode(out: Out, about: Iterable[tuple[str, str]]) -> str:
    """The text of a `.dvc` file; `about` says where it comes from."""
    lines = ["outs:", f"- path: {quoted(out.path)}", "  hash: md5", f"  remote: {out.remote}"]
    single = len(out.files) == 1 and not out.files[0].relpath
    if not single:
        lines.append("  files:" if out.files else "  files: []")
    for file in out.files:
        start, more = ("  ", "  ") if single else ("  - ", "    ")
        if not single:
            lines.append(f"{start}relpath: {quoted(file.relpath)}")
        lines += [
            f"{more}md5: {quoted(file.md5)}",
            f"{more}size: {file.size}",
            f"{more}cloud:",
            f"{more}  {out.remote}:",
            f"{more}    etag: {quoted(file.etag)}",
            f"{more}    version_id: {quoted(file.version)}",
        ]
    lines += ["meta:", "  pipefs:", *(f"    {k}: {quoted(v)}" for k, v in about)]
    return "\n".join(lines) + "\n"


def decode(text: str, where: str) -> tuple[list[Out], dict[str, str]]:
    """(its outputs, what pipefs wrote about the snapshot).

    Raises:
        Corrupt: it is no `.dvc` file. UsageError: it pins no versions.
    """
    found = _parsed(text, where)
    try:
        outs = [_out(item, where) for item in found.get("outs") or []]
        about = (found.get("meta") or {}).get("pipefs") or {}
        return outs, {str(k): str(v) for k, v in about.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise Corrupt(f"{where} is no .dvc file: {e!r}") from e


def _parsed(text: str, where: str) -> dict[str, Any]:
    import yaml

    try:
        # The base loader leaves scalars as texts: 6713e5 is a version, not a number.
        found = yaml.load(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))
    except yaml.YAMLError as e:
        raise Corrupt(f"{where} is no YAML: {e}") from e
    if not isinstance(found, dict):
        raise Corrupt(f"{where} is no .dvc file")
    return found


def _out(item: dict[str, Any], where: str) -> Out:
    listed = item.get("files")
    pairs = [(f["relpath"], f) for f in listed] if listed is not None else [("", item)]
    remotes = {r for _, f in pairs for r in f.get("cloud") or {}}
    if len(remotes) != 1 or not all(f.get("cloud") for _, f in pairs):
        raise UsageError(
            f"{where} does not name a version of each file in one remote",
            hint="Only version-aware remotes do: dvc remote modify NAME version_aware true, "
            "then dvc push",
        )
    remote = str(remotes.pop())
    files = [_file(relpath, f, f["cloud"][remote]) for relpath, f in pairs]
    return Out(str(item["path"]), remote, files)


def _file(relpath: str, item: dict[str, Any], cloud: dict[str, Any]) -> OutFile:
    size = int(item["size"]) if "size" in item else -1
    version = str(cloud.get("version_id") or "")
    return OutFile(relpath, str(item.get("md5", "")), size, str(cloud.get("etag", "")), version)


# --- the repository ---------------------------------------------------------------------------


def repository_of(folder: Path) -> Path | None:
    """The DVC repository that a folder is in."""
    folder = folder.absolute()
    return next((p for p in (folder, *folder.parents) if (p / SUFFIX / "config").is_file()), None)


def remote_url(repository: Path, remote: str) -> str:
    """URL of a remote, without a slash at its end.

    Raises:
        NotFound: the repository has no such remote.
    """
    config = configparser.ConfigParser(interpolation=None)
    config.read([repository / SUFFIX / "config", repository / SUFFIX / "config.local"], "utf-8")
    section = f"'remote \"{remote}\"'"
    if not config.has_option(section, "url"):
        raise NotFound(f'the DVC repository {repository} has no remote "{remote}"')
    return config.get(section, "url").rstrip("/")
