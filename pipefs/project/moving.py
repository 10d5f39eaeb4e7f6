"""Push and pull of a project: `pipefs.folder` between `data/` and the project's place.

Refuses what datakit refuses, and besides that what would take somebody's work away: a place of
another project, a file that changed on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipefs.beside import Beside
from pipefs.creation import Created
from pipefs.errors import Conflict, NotFound, PartlyDone, Refused
from pipefs.folder.deciding import Folder
from pipefs.folder.pulling import pull
from pipefs.folder.pushing import push
from pipefs.folder.reports import Direction, Options, Progress, Report
from pipefs.project.flags import Flags
from pipefs.project.joining import join, looking, pipe_of
from pipefs.project.settings import Project
from pipefs.project.standing import note_push, patterns, take_over
from pipefs.protocol import MountItem
from pipefs.registry import Registry
from pipefs.replica import Replica


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for."""

    direction: Direction
    flags: Flags
    adopt: bool = False
    """The place is this project's, whatever stands there."""
    empty_ok: bool = False
    """Delete everything where the other side has nothing."""

    @property
    def verb(self) -> str:
        return f"{self.direction}ed"


def move(
    registry: Registry,
    project: Project,
    wish: Wish,
    progress: Progress | None = None,
    told: Callable[[Created], None] | None = None,
) -> Report:
    """Push or pull; with `dry_run` only what would be done, and nothing is registered.

    Args:
        told: as of `join`.

    Raises:
        Refused: no bucket is named; the place belongs to another project; `delete` of a whole
            bucket, or of everything. Conflict: a file changed on both sides; nothing was done.
        PartlyMoved: some files were not moved. NotFound: there is no `data/` to push. Busy, store
            errors.
    """
    _check(project, wish)
    writes, flags = wish.direction == "push", wish.flags
    if flags.dry_run:
        replica = looking(registry, project, writes=writes, adopt=wish.adopt)
    else:
        pipe = join(registry, project, writes=writes, adopt=wish.adopt, told=told)
        replica = Replica(registry.home, pipe)
    try:
        if (shown := _in_mount(registry, project, wish)) is not None:
            return shown
        folder = Folder.at(project.data)
        take_over(replica, project)
        options = _options(project, replica, wish)
        return _move(replica, project, folder, wish, options, progress)
    finally:
        replica.close()


def _check(project: Project, wish: Wish) -> None:
    if not project.s3_bucket:
        raise Refused(
            f"no bucket is named in {project.config_file}: nothing was {wish.verb}",
            hint="Name it: pipefs project config s3_bucket=NAME",
        )
    if wish.flags.delete and not project.s3_path:
        raise Refused(
            f"s3_path is empty: delete would go through all of the bucket {project.s3_bucket}",
            hint="Give the project a folder in it: pipefs project config s3_path=FOLDER",
        )
    if wish.direction == "push" and not project.data.is_dir():
        raise NotFound(f"there is no {project.data} to push", hint="Make it: pipefs project init")


def _options(project: Project, replica: Replica, wish: Wish) -> Options:
    flags, pushes = wish.flags, wish.direction == "push"
    return Options(
        exclude=patterns(project, replica.pipe),
        mode="all" if flags.force else "default",
        merge_mode="overwrite" if flags.force and not pushes else None,
        dry_run=flags.dry_run,
        # What colleagues put there with other tools. A plain push asks for nothing else: each file
        # goes up in the place of the version that was seen, or is refused.
        cached=pushes and not (flags.delete or flags.dry_run),
        delete=flags.delete,
        empty_ok=wish.empty_ok,
        unpulled_ok=True,
        follow_links=flags.follow_links,
    )


def _move(
    replica: Replica,
    project: Project,
    folder: Folder,
    wish: Wish,
    options: Options,
    progress: Progress | None,
) -> Report:
    done = False
    try:
        if wish.direction == "pull":
            return pull(replica, folder, options, progress)
        report = push(replica, folder, options, progress)
        done = True
        return report
    except PartlyDone:
        done = wish.direction == "push"
        raise
    except Conflict as e:
        raise Conflict(e.message, hint=_what_now(replica.pipe.name, wish)) from e
    finally:
        if done and not options.dry_run:
            note_push(replica.home, project, replica.pipe)


def _what_now(name: str, wish: Wish) -> str:
    if wish.direction == "push":
        return "First: pipefs project pull · yours in their place: pipefs project push --force"
    return (
        "The bucket's in place of yours: pipefs project pull --force\n"
        f"One by one: pipefs resolve {name}"
    )


def mount_of(registry: Registry, project: Project) -> MountItem | None:
    """The mount of the project's pipe at `data/`, where all is in step by itself."""
    pipe = pipe_of(registry, project) if project.s3_bucket else None
    mount = Beside(registry.home, pipe.name).mount() if pipe is not None else None
    return mount if mount is not None and mount.path == str(project.data) else None


def _in_mount(registry: Registry, project: Project, wish: Wish) -> Report | None:
    """What goes by itself where `data/` is a mount, waited for; None elsewhere."""
    mount = mount_of(registry, project)
    if mount is None:
        return None
    beside = Beside(registry.home, mount.name)
    if not wish.flags.dry_run:
        if wish.direction == "push":
            beside.bring_up()
        else:
            beside.show(full=True)
    return Report(mount.name, mount.path, wish.direction, wish.flags.dry_run)
