"""A project's place in its bucket as a pipe of this machine, registered when it is first used.

The pipe has the project's name and `data/` as its folder, so every other command works on it. A
place that belongs to another project is refused before anything is written there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from pipefs import descriptor
from pipefs.creation import Created, create_pipe
from pipefs.errors import NotFound, PipefsError
from pipefs.folder.record import Record, record_file
from pipefs.home import NAME_RE
from pipefs.project import owner
from pipefs.project.markers import read_markers
from pipefs.project.owner import Place, Whose
from pipefs.project.settings import Project
from pipefs.registry import PATIENCE_S, Pipe, Registry
from pipefs.replica import Replica
from pipefs.stores.base import Capabilities, Store


class Looker(Replica):
    """A replica that announces nothing, for who only looks at what is no pipe yet."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, writable=False)


def pipe_of(registry: Registry, project: Project) -> Pipe | None:
    """The registered pipe at the project's place; asks no network."""
    problems: list[PipefsError] = []
    found = [pipe for pipe in registry.list(problems) if pipe.url == project.url]
    folder = os.path.realpath(project.data)
    # Two names for one place: the one whose folder this is.
    found.sort(key=lambda pipe: os.path.realpath(pipe.settings.dir or "/") != folder)
    return found[0] if found else None


@contextlib.contextmanager
def place_of(registry: Registry, project: Project) -> Iterator[Store]:
    """The store at the project's place."""
    pipe = pipe_of(registry, project) or unregistered(registry, project)
    store = pipe.open_store(patience_s=PATIENCE_S)
    try:
        yield store
    finally:
        store.close()


def look(registry: Registry, project: Project) -> Place:
    """Whose the project's place is. A bucket that is missing is nobody's. Changes nothing."""
    with place_of(registry, project) as store:
        try:
            return owner.look(store, project, _is_known(registry, project, store))
        except NotFound:
            return Place(Whose.FREE)


def join(
    registry: Registry,
    project: Project,
    *,
    writes: bool,
    adopt: bool = False,
    create_bucket: bool = False,
    place: Place | None = None,
    told: Callable[[Created], None] | None = None,
) -> Pipe:
    """Register the project's place as a pipe, or find that it is.

    Args:
        writes: the caller is to put files there: the place must be the project's, and gets its id.
        adopt: whatever is there is this project's.
        place: as it was found a moment before.
        told: called with what was found out of a place that became a pipe just now.
    Raises:
        Refused: it belongs to another project, or `writes` and it has files that are nobody's.
        Store errors: nothing was registered.
    """
    place = place or look(registry, project)
    _allowed(project, place, writes, adopt)
    pipe = pipe_of(registry, project)
    is_new = pipe is None
    if pipe is None:
        name = free_name(registry, project)
        made = create_pipe(
            registry, name, project.url, options_of(project), create_bucket=create_bucket
        )
        pipe = made.pipe
        if told is not None:
            told(made)
    pipe = _fitting(registry, pipe, project, is_new)
    claims = place.owner is None and (writes or adopt)
    try:
        if claims:
            with place_of(registry, project) as store:
                owner.claim(store, project)
        elif adopt and place.owner is not None:
            owner.adopt(project, place.owner)
    except PipefsError:
        if is_new:
            registry.remove(pipe.name)
        raise
    return pipe


def _allowed(project: Project, place: Place, writes: bool, adopt: bool) -> None:
    foreign = place.whose is Whose.OTHERS or (writes and place.whose is Whose.UNNAMED)
    if foreign and not adopt:
        raise owner.taken(project, place)


def looking(
    registry: Registry, project: Project, *, writes: bool = False, adopt: bool = False
) -> Replica:
    """A replica to look at the project's place with; what is a pipe already is registered.
    Arguments and errors as of `join`."""
    _allowed(project, look(registry, project), writes, adopt)
    pipe = pipe_of(registry, project)
    if pipe is not None:
        return Replica(registry.home, pipe)
    with place_of(registry, project) as store:
        described = descriptor.read_descriptor(store) is not None
    if described:
        return Replica(registry.home, join(registry, project, writes=False))
    return Looker(registry.home, unregistered(registry, project))


def unregistered(registry: Registry, project: Project) -> Pipe:
    """The pipe that the project's place would be, for who only looks."""
    name, options = free_name(registry, project), options_of(project)
    return Pipe(
        name,
        project.url,
        descriptor.local_id(project.url),
        options=options,
        settings=registry.settings_for(name, options),
        kept=partial(registry.credentials_for, name, options),
    )


# --- names and settings -------------------------------------------------------------------------


def options_of(project: Project) -> dict[str, object]:
    """Settings of its pipe that the project's configuration says."""
    return {"aws_profile": project.aws_profile} if project.aws_profile else {}


def free_name(registry: Registry, project: Project) -> str:
    """The project's name, as far as it can name a pipe, and with more to it where it is taken."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", project.name).strip("._-")[:50] or "project"
    taken = set(registry.names())
    names = [text, f"{text}-{project.s3_bucket}"[:63], *(f"{text}-{n}" for n in range(2, 1000))]
    return next(n for n in names if n not in taken and NAME_RE.fullmatch(n))


def _fitting(registry: Registry, pipe: Pipe, project: Project, is_new: bool) -> Pipe:
    """The pipe with the project's profile, and with `data/` for its folder where it is new here
    or that of a clone that is gone."""
    changes = options_of(project)
    changes = {k: v for k, v in changes.items() if pipe.options.get(k) != v}
    folder = str(pipe.options.get("dir") or "")
    if is_new or (os.path.isabs(folder) and not os.path.isdir(folder)):
        changes["dir"] = str(project.data)
    return registry.update(pipe.name, changes) if changes else pipe


# --- what was in step before --------------------------------------------------------------------


def _is_known(registry: Registry, project: Project, store: Store) -> Callable[[], bool]:
    """Whether files at the project's place were in step with its `data/` before."""

    def known() -> bool:
        pipe = pipe_of(registry, project)
        if pipe is not None:
            folder, home = str(project.data), registry.home
            if record_file(home, folder, pipe.pipe_id).exists():
                with Record(home, folder, pipe.pipe_id, alone=False) as record:
                    if record.known():
                        return True
        markers = {path: m.etag for path, m in read_markers(project).items() if m.etag}
        if not markers:
            return False
        return any(markers.get(item.key) == item.etag for item in store.list())

    return known
