"""The part of `Pipe` that decides between two contents of one file."""

from __future__ import annotations

import os

from pipefs.api.moving import Moving
from pipefs.conflictmessages import Keep, Resolved
from pipefs.errors import UsageError


class Settling(Moving):
    """What is in conflict, and ending it."""

    def conflicts(self, *, dest: str | os.PathLike[str] | None = None) -> list[str]:
        """Files that you and somebody else changed: in the mount, where the pipe is mounted, else
        in its folder.

        Args:
            dest: another folder.

        >>> _ = pipe.put("1", "a.csv"), pipe.pull()
        >>> pipe.conflicts()
        []
        """
        from pipefs.conflictwork import ConflictWork
        from pipefs.folder.resolving import conflicts

        found: list[str] = []
        if dest is None:
            found = [item.path for item in ConflictWork(self._home, self._registered).open()]
        if dest is not None or self._mount() is None:
            self._movable()
            self._catch_up()
            found += conflicts(self._replica, self._folder(dest))
        return sorted(set(found))

    def resolve(
        self,
        path: str,
        keep: Keep,
        *,
        dest: str | os.PathLike[str] | None = None,
        dryrun: bool = False,
        confirm: bool = True,
    ) -> Resolved:
        """End the conflict of one file.

        Args:
            path: of the file, or of the copy that a mount keeps beside it.
            keep: `mine`, `theirs` or `both`. In a mount the content that goes stays in its
                history. In a folder `mine` lets the next push replace the pipe's; `theirs` fetches
                the pipe's over yours, which is nowhere else; `both` renames yours before.
            dest: another folder.
            dryrun: only say it.
            confirm: ask on the terminal before yours goes for good.
        Raises:
            NotFound: there is no such conflict. Refused. Store errors.

        >>> _ = pipe.put("1", "a.csv"), pipe.pull(), pipe.put("2", "a.csv")
        >>> (pipe.dirpath / "a.csv").write_text("mine")
        4
        >>> pipe.conflicts()
        ['a.csv']
        >>> copy = pipe.resolve("a.csv", "both").copy
        >>> (pipe.dirpath / "a.csv").read_text(), (pipe.dirpath / copy).read_text()
        ('2', 'mine')
        """
        from pipefs.conflictwork import ConflictWork
        from pipefs.folder.resolving import resolve

        if keep not in ("mine", "theirs", "both"):
            raise UsageError(f"there is nothing to keep {keep!r}", hint="mine, theirs or both")
        work = ConflictWork(self._home, self._registered)
        if dest is None and (work.is_mounted or work.has(path)):
            return work.resolve(path, keep, dry_run=dryrun, force=not confirm)
        self._movable()
        self._catch_up()
        folder = self._folder(dest)
        if keep == "theirs" and confirm and not dryrun:
            resolve(self._replica, folder, path, keep, dry_run=True)
            self._ask(True, [path], f"in {folder.path}, whose bytes are nowhere else")
        return resolve(self._replica, folder, path, keep, dry_run=dryrun)
