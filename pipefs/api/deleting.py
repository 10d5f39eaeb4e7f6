"""The part of `Pipe` that deletes files: in its folder, in the pipe, what only one of them has."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence

from pipefs.api.contents import Contents
from pipefs.api.listing import Listing
from pipefs.api.several import raise_failed
from pipefs.errors import PartlyDone, ReadOnly, Refused, UsageError
from pipefs.filters import Patterns
from pipefs.folder.deciding import Bytes, Folder, look
from pipefs.folder.plan import Planner, Side
from pipefs.folder.record import Record
from pipefs.folder.removing import remove_empty
from pipefs.folder.reports import Moved, Options
from pipefs.folder.scan import scan
from pipefs.publishing import Deletion
from pipefs.units import show_count

Names = str | Iterable[str] | None


class Deleting(Listing, Contents):
    """Deleting on either side; nothing here happens by itself."""

    def delete_files_local(
        self,
        files: Names = None,
        confirm: bool = True,
        delete_all: bool = True,
        ignore_errors: bool = False,
    ) -> list[str]:
        """Delete files in the pipe's folder, which a pull brings back; not in a mount.

        Args:
            files: only these; None: all.
            confirm: ask on the terminal first.
            delete_all: also what was never pushed; False: only what the pipe has, with the bytes
                that are here.
            ignore_errors: go on where one cannot be deleted.
        """
        if self._mount() is not None:
            raise Refused(
                f"{self.name} is mounted: what is deleted in its folder is deleted for everybody",
                hint="If you mean that: delete_files_remote",
            )
        folder = Folder.at(self.dirpath)
        here = scan(folder.path).files
        chosen = sorted(here) if files is None else [f for f in names_in(files) if f in here]
        if not delete_all:
            kept = self._in_step(folder)
            chosen = [f for f in chosen if f in kept]
        self._ask(confirm, chosen, f"in {self.dirpath} for good")
        gone = []
        for name in chosen:
            try:
                (self.dirpath / name).unlink(missing_ok=True)
                gone.append(name)
            except OSError:
                if not ignore_errors:
                    raise
        remove_empty(folder, gone)
        return gone

    def _in_step(self, folder: Folder) -> set[str]:
        """Files of the folder that the pipe has as they are."""
        options = Options(include="", exclude="", dry_run=True)
        with Record(self._replica.home, folder.path, self._replica.pipe.pipe_id, alone=False) as r:
            sides = look(self._replica, folder, r, options)
        planner = Planner(sides.local, sides.known, sides.remote, Bytes(sides))
        both = sides.local.keys() & sides.remote.keys()
        return {path for path in both if planner.sides(path) == (Side.SAME, Side.SAME)}

    def delete_files_remote(self, files: Names = None, confirm: bool = True) -> list[str]:
        """Delete files of the pipe, for everybody; their versions stay, where the store keeps any.
        In a transaction they go with all else that is in it.

        Args:
            files: only these; None: all.
            confirm: ask on the terminal first.

        >>> _ = pipe.put("1", "a.csv"), pipe.put("2", "b.csv")
        >>> pipe.delete_files_remote(["a.csv"], confirm=False)
        ['a.csv']
        >>> pipe.scan_remote()
        ['b.csv']
        """
        publisher = self._publisher()
        with self._present() as now:
            there = [i.path for i in now.walk() if i.kind != "dir"]
        chosen = there if files is None else [f for f in names_in(files) if f in set(there)]
        self._ask(confirm, chosen, f"in {self.name} for everybody")
        if (transaction := self._running()) is not None:
            for path in chosen:
                transaction.add(Deletion(path))
            return chosen
        done = publisher.publish([Deletion(path) for path in chosen])
        self._reach.look_again()
        raise_failed(done)
        return chosen

    def delete_files(self, files: Names = None, confirm: bool = True) -> list[str]:
        """Delete files on both sides: what is deleted here only if the pipe had it."""
        names = None if files is None else names_in(files)
        here = [] if self._mount() is not None else sorted(scan(os.fspath(self.dirpath)).files)
        with self._present() as now:
            there = [i.path for i in now.walk() if i.kind != "dir"]
        chosen = [f for f in there if names is None or f in names]
        self._ask(confirm, chosen, f"in {self.name} and in {self.dirpath}")
        gone = self.delete_files_remote(chosen, confirm=False)
        if here:
            self.delete_files_local([f for f in gone if f in here], confirm=False)
        return gone

    @staticmethod
    def _ask(confirm: bool, files: Sequence[str], where: str) -> None:
        if not confirm or not files:
            return
        question = f"This deletes {show_count(len(files), 'file')} {where}."
        if not sys.stdin.isatty():
            raise Refused(f"{question} Not done", hint="If you mean it: confirm=False")
        if input(f"{question} Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Refused("not done")

    def remove_orphans(
        self,
        files: Names = None,
        direction: str = "local",
        dryrun: bool | None = None,
        *,
        include: Patterns = None,
        exclude: Patterns = None,
        cached: bool = True,
        dest: str | os.PathLike[str] | None = None,
    ) -> dict[str, list[Moved]]:
        """Delete what only one side has: in the folder what the pipe has not (which may never have
        been pushed!), or in the pipe what the folder has not.

        Args:
            files: only these, where they are such files.
            direction: `local`: in the folder; `remote`: in the pipe, for everybody; or `both`.
            dryrun: False does it. None only says what, with a warning; True without one.
            include, exclude, cached, dest: as of `pull`.
        Returns:
            `{"local": […], "remote": […]}`; in a mount, where both are one, nothing.
        Raises:
            PartlyDone: some could not be deleted.

        >>> _ = pipe.put("1", "a.csv"), (pipe.dirpath / "mine.csv").write_text("1")
        >>> pipe.remove_orphans(direction="both", dryrun=True)
        {'local': ['mine.csv'], 'remote': ['a.csv']}
        >>> pipe.remove_orphans(dryrun=False)
        {'local': ['mine.csv'], 'remote': []}
        >>> pipe.scan_local(), pipe.scan_remote()
        ([], ['a.csv'])
        """
        from pipefs.folder.orphans import orphans

        if direction not in ("local", "remote", "both"):
            raise UsageError(f"there is no direction {direction!r}", hint="local, remote or both")
        self._movable()
        if dryrun is None:
            warnings.warn("nothing is deleted: that takes dryrun=False", stacklevel=2)
        if dest is None and self._mount() is not None:
            return {"local": [], "remote": []}
        self._catch_up()
        chosen = None if files is None else tuple(names_in(files))
        found = orphans(
            self._replica,
            self._folder(dest),
            direction,  # type: ignore[arg-type]  # checked above
            Options(
                files=chosen,
                include=include,
                exclude=exclude,
                dry_run=dryrun is not False,
                cached=cached,
            ),
        )
        self._reach.look_again()
        if found.failed:
            path, why = next(iter(found.failed.items()))
            raise PartlyDone(f"{show_count(len(found.failed), 'file')} stayed; {path}: {why}")
        return {"local": found.local, "remote": found.remote}

    # --- inside -------------------------------------------------------------------------------

    def _movable(self) -> None:
        """
        Raises:
            Refused: offline. ReadOnly: a snapshot.
        """
        if self.offline:
            raise Refused(f"{self.name} was opened offline", hint=f'Online: Pipe("{self.name}")')
        if self.snapshot_name is not None:
            shown = f"{self.name}@{self.snapshot_name}"
            raise ReadOnly(
                f"{shown} is a snapshot; a folder is in step with the present",
                hint=f"Its files: pipefs get {shown}/ FOLDER",
            )

    def _folder(self, dest: str | os.PathLike[str] | None) -> Folder:
        return Folder.at(self.dirpath if dest is None else dest)


def names_in(files: str | Iterable[str]) -> list[str]:
    """Texts without what they carry: names may come from `files()`."""
    return [str(files)] if isinstance(files, str) else [str(f) for f in files]
