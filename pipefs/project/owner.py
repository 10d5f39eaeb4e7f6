"""Whose a place in a bucket is: one object below `.pipefs/`, put only where there is none.

datakit-data puts every project of one name into one place. Here the first project that uses a
place leaves its id there, and keeps the id in `config/pipefs.json`, which goes into git with the
code: so each clone of the project is known, and another project of the same name is refused.
"""

from __future__ import annotations

import enum
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from pipefs.descriptor import Found, get_small, put_new, survey, who
from pipefs.errors import Corrupt, NewerFormat, Refused
from pipefs.project.settings import Project, read_json, write_json
from pipefs.stores.base import Store
from pipefs.units import show_count, utc_text

KEY = ".pipefs/project.json"
IDENTITY = "config/pipefs.json"
FORMAT = 1


class Owner(Struct, frozen=True):
    """`.pipefs/project.json`."""

    project: str
    """UUID, the same in every clone."""
    name: str = ""
    """Of the project's folder when it came here."""
    created: str = ""
    """UTC with Z."""
    created_by: str = ""
    """`user@host`."""
    format: int = FORMAT


class Whose(enum.Enum):
    """Whose a place is, for one project."""

    FREE = "free"
    """Nothing is there."""
    OURS = "ours"
    OTHERS = "others"
    UNNAMED = "unnamed"
    """Files are there, and no project's id."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a bucket, as it was found."""

    whose: Whose
    owner: Owner | None = None
    found: Found | None = None
    """What is there, where it is nobody's."""


def look(store: Store, project: Project, is_known: Callable[[], bool]) -> Place:
    """Whose the project's place is. Changes nothing.

    Args:
        is_known: asked where files are there and no id: whether they were in step with this
            project's before.
    """
    owner = read_owner(store)
    if owner is not None:
        ours = owner.project == read_identity(project)
        return Place(Whose.OURS if ours else Whose.OTHERS, owner)
    found = survey(store)
    if not found.objects:
        return Place(Whose.FREE, found=found)
    return Place(Whose.OURS if is_known() else Whose.UNNAMED, found=found)


def read_owner(store: Store) -> Owner | None:
    """
    Raises:
        NewerFormat, Corrupt: what is there cannot be read.
    """
    raw = get_small(store, KEY)
    if raw is None:
        return None
    try:
        found = msgspec.json.decode(raw, type=Owner)
    except msgspec.MsgspecError as e:
        raise Corrupt(f"{store.url}/{KEY} is damaged: {e}", hint="Delete it, then again") from e
    if found.format > FORMAT:
        raise NewerFormat(
            f"{store.url}/{KEY} was written by a newer pipefs", hint="pip install -U pipefs"
        )
    return found


def claim(store: Store, project: Project) -> Owner:
    """Leave our id in a place that has none.

    Raises:
        Refused: another project was faster. AccessDenied: it may not be written.
    """
    before = read_identity(project)
    ours = before or str(uuid.uuid4())
    # First here: an id that only the bucket has would lock the project out of its own place.
    if not before:
        write_identity(project, ours)
    now = utc_text(time.time_ns())
    owner = Owner(ours, project.name, now, who())
    try:
        if put_new(store, KEY, msgspec.json.format(msgspec.json.encode(owner), indent=2) + b"\n"):
            return owner
        there = read_owner(store)
    except BaseException:
        if not before:
            _identity_file(project).unlink(missing_ok=True)
        raise
    if there is not None and there.project == ours:
        return there
    if not before:
        _identity_file(project).unlink(missing_ok=True)
    raise taken(project, Place(Whose.OTHERS, there))


def adopt(project: Project, owner: Owner) -> None:
    """Say that this folder is the project that its place belongs to."""
    write_identity(project, owner.project)


def taken(project: Project, place: Place) -> Refused:
    """The error for a place that is not ours, or that is nobody's and not empty."""
    again = "The same project, in another folder: again with --adopt"
    words = "config s3_path=" if project.config_file.exists() else "init --path "
    other = f"Another one: give it another place: pipefs project {words}FOLDER"
    if place.owner is None:
        many = place.found is not None and place.found.more
        count = show_count(place.found.objects if place.found else 0, "file")
        return Refused(
            f"{project.url} holds {'more than ' if many else ''}{count} already, and nothing says "
            "that they are this project's",
            hint=f"{again}\n{other}",
        )
    by = f" by {place.owner.created_by}" if place.owner.created_by else ""
    return Refused(
        f'{project.url} belongs to another project "{place.owner.name}", set up '
        f"{place.owner.created[:10]}{by}",
        hint=f"{again}, or take {IDENTITY} from its git\n{other}",
    )


# --- the project's id ---------------------------------------------------------------------------


def _identity_file(project: Project) -> Path:
    return project.root / IDENTITY


def read_identity(project: Project) -> str:
    """The project's id at its place; "" where it has none yet. An id that was given at another
    place does not count: templates and copied folders bring their `config` along."""
    file = _identity_file(project)
    if not file.is_file():
        return ""
    found = read_json(file)
    return str(found.get("project") or "") if found.get("url") == project.url else ""


def write_identity(project: Project, project_id: str) -> None:
    content = {"format": FORMAT, "project": project_id, "url": project.url}
    write_json(_identity_file(project), content)
