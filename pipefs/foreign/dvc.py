"""DVC: a snapshot as `.dvc` files whose `dvc pull` fetches exactly its versions from the bucket.

Nothing is written to the bucket. The remote is the pipe's own bucket with `version_aware`, which
keeps files at their natural keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from pipefs.errors import AlreadyExists, NotFound, Refused, UsageError
from pipefs.foreign import dvcfiles
from pipefs.foreign.dvcfiles import Out, OutFile
from pipefs.foreign.exports import Exported, File, Source
from pipefs.foreign.hashing import Progress, Reader, nobody
from pipefs.foreign.pins import Pin, view_of
from pipefs.foreign.places import Place
from pipefs.past.listed import ListedView
from pipefs.stores.opening import parse_s3_url

_REMOTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


def write(
    source: Source,
    folder: Path,
    *,
    remote: str,
    endpoint_url: str = "",
    force: bool = False,
    progress: Progress = nobody,
) -> Exported:
    """Write `NAME.dvc` into a folder: one for a directory or file below the bucket's root, one for
    each name at the root for a whole bucket.

    Args:
        remote: what DVC calls the bucket.
        force: also over a `.dvc` file that another program wrote.
    Raises:
        UsageError: DVC could not find the keys from this folder. AlreadyExists: see `force`.
        Refused: there is no file.
    """
    if not _REMOTE.match(remote):
        raise UsageError(f"{remote!r} cannot name a remote of DVC", hint="For example --remote s3")
    base, prefix = _base(source, folder)
    found = source.read()
    kept, warnings = _at_their_keys(source, found.files)
    kept.sort(key=lambda f: f.path)
    md5s = Reader(source.place, progress).md5s(kept)
    outs = _outs(source, base, remote, zip(kept, md5s, strict=True))
    if not outs:
        raise Refused(
            f"the snapshot {source.view.label} has no file that DVC could track",
            hint="\n".join(found.warnings + warnings),
        )
    url = f"s3://{source.place.bucket}/{prefix}".rstrip("/")
    about = (("snapshot", source.snapshot.id), ("time", source.snapshot.body.time), ("url", url))
    paths = {folder / f"{out.path}{dvcfiles.SUFFIX}": out for out in outs}
    if not force:
        for path in paths:
            _refuse_foreign(path)
    folder.mkdir(parents=True, exist_ok=True)
    for path, out in paths.items():
        _replace(path, dvcfiles.encode(out, (*about, ("message", source.message))))
    return Exported(
        "dvc",
        "",
        [str(p) for p in paths],
        len(kept),
        sum(f.content.size for f in kept),
        found.warnings + warnings,
        _commands(folder, remote, url, endpoint_url),
    )


def _base(source: Source, folder: Path) -> tuple[str, str]:
    """(prefix of the keys beside whose last part the `.dvc` file lies, prefix of the remote).

    In a repository a file's key is the remote's URL and its path from the repository's root.
    """
    base = source.place.full(source.top).rstrip("/").rpartition("/")[0]
    repository = dvcfiles.repository_of(folder)
    inside = os.path.relpath(folder.absolute(), repository) if repository is not None else "."
    if inside == ".":
        return base, base
    if base != inside and not base.endswith("/" + inside):
        what = f"the keys begin with {base}/" if base else "the keys begin at the bucket's root"
        raise UsageError(
            f"DVC looks for a file at its path below the remote's URL, and {what}: from "
            f"{inside}/ it would not find them",
            hint=f"Write them into the repository's root: --to {repository}",
        )
    return base, base[: len(base) - len(inside)].rstrip("/")


def _at_their_keys(source: Source, files: Iterable[File]) -> tuple[list[File], list[str]]:
    """DVC knows a path, so what is not at its path's key cannot be told."""
    kept: list[File] = []
    warnings: list[str] = []
    for file in files:
        if file.content.key != file.path:
            where = f"its bytes are at the key {file.content.key}"
            warnings.append(f"{file.path} left out: {where}; flush, then make a new snapshot")
        elif not file.content.version_id:
            warnings.append(f"{file.path} left out: it has no version")
        else:
            kept.append(file)
    return kept, warnings


def _outs(source: Source, base: str, remote: str, files: Iterable[tuple[File, str]]) -> list[Out]:
    found: dict[str, list[OutFile]] = {}
    skip = len(base) + 1 if base else 0
    for file, md5 in files:
        name, _, rest = source.place.full(file.content.key)[skip:].partition("/")
        content = file.content
        found.setdefault(name, []).append(
            OutFile(rest, md5, content.size, content.etag, file.version)
        )
    return [Out(name, remote, below) for name, below in found.items()]


def _refuse_foreign(path: Path) -> None:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return
    if "\nmeta:\n  pipefs:\n" not in text:
        raise AlreadyExists(
            f"{path} is there, and pipefs did not write it", hint="Replace it: --force"
        )


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, "utf-8")
    draft.replace(path)


def _commands(folder: Path, remote: str, url: str, endpoint_url: str) -> list[str]:
    """What a repository still needs; nothing where its remote is set already."""
    repository = dvcfiles.repository_of(folder)
    try:
        if repository is not None and dvcfiles.remote_url(repository, remote) == url:
            return ["dvc pull"]
    except NotFound:
        pass
    commands = [
        f"dvc remote add --force {remote} {url}",
        f"dvc remote modify {remote} version_aware true",
    ]
    if endpoint_url:
        commands.append(f"dvc remote modify {remote} endpointurl {endpoint_url}")
    return [*commands, "dvc pull"]


# --- reading ----------------------------------------------------------------------------------


def view(place: Place, path: Path) -> ListedView:
    """The tree that a version-aware `.dvc` file pins, as far as it lies in the pipe.

    The remote's URL comes from the repository; outside of one from what pipefs wrote.

    Raises:
        NotFound: no such file or remote. UsageError: it pins no versions, or not in S3. Corrupt:
            it is no `.dvc` file.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise NotFound(f"there is no {path}") from None
    outs, about = dvcfiles.decode(text, str(path))
    repository = dvcfiles.repository_of(path.parent)
    pins: list[Pin] = []
    for out in outs:
        url = about.get("url", "")
        below = out.path
        if repository is not None:
            url = dvcfiles.remote_url(repository, out.remote)
            below = os.path.relpath(path.parent.absolute() / out.path, repository)
        if not url.startswith("s3://"):
            raise UsageError(f"the remote of {path} is not in S3: {url or 'unknown'}")
        bucket, prefix = parse_s3_url(url)
        if bucket == place.bucket:
            top = f"{prefix}/{below}" if prefix else below
            pins += [
                Pin(f"{top}/{f.relpath}" if f.relpath else top, f.version, f.size)
                for f in out.files
            ]
    return view_of(place, pins, f"dvc-{path.name.removesuffix(dvcfiles.SUFFIX)}")
