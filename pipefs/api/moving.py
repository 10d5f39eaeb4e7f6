"""The part of `Pipe` that moves files between the pipe and its folder, in d6tpipe's words."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipefs.api.base import Mode
from pipefs.api.deleting import Deleting, Names, names_in
from pipefs.api.several import files_in
from pipefs.errors import AlreadyExists, Conflict, NotFound, Refused, UsageError
from pipefs.filters import Patterns
from pipefs.folder.plan import MergeMode
from pipefs.folder.reports import Options, Progress, Report
from pipefs.replicated import to_names


class Moving(Deleting):
    """Pull, push and import."""

    # --- pull ---------------------------------------------------------------------------------

    def pull(
        self,
        files: Names = None,
        dryrun: bool = False,
        include: Patterns = None,
        exclude: Patterns = None,
        nrecent: int = 0,
        merge_mode: MergeMode | None = None,
        cached: bool = True,
        *,
        mode: Mode | None = None,
        delete: bool = False,
        dest: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Bring new and changed files of the pipe into its folder. A mount is up to date by itself.

        Args:
            files: only these, whatever is here.
            dryrun: only say it.
            include, exclude: patterns such as `*.csv|*.xls*`; `*` also crosses "/". None takes the
                pipe's own.
            nrecent: n > 0: only the n newest; n < 0: the n oldest.
            merge_mode: of files that changed on both sides: `keep` ours, or `overwrite` it. None
                is an error.
            cached: False looks now for what other tools wrote.
            mode: instead of the pipe's.
            delete: also delete here what the pipe has not, pushed or not.
            dest: another folder.
            progress: told how far it is (`pipefs.folder.reports.Progress`).
        Returns:
            The files, each a text with `size`, `modified_at` and `version`, and what there is to
            say besides.
        Raises:
            Conflict: files changed on both sides; nothing was done. NotFound: no such file.
            PartlyDone: some failed. Store errors.

        >>> _ = pipe.put("1", "a.csv"), pipe.put("2", "b.txt")
        >>> list(pipe.pull(include="*.csv"))
        ['a.csv']
        >>> (pipe.dirpath / "a.csv").read_text()
        '1'
        >>> list(pipe.pull()), list(pipe.pull())
        (['b.txt'], [])
        """
        from pipefs.folder.pulling import pull

        self._movable()
        if dest is None and (mount := self._mount()) is not None:
            if not dryrun:
                self._beside.show(full=not cached)
            return Report(self.name, mount.path, "pull", dryrun)
        self._catch_up()
        options = self._options(
            files,
            mode,
            merge_mode,
            include=include,
            exclude=exclude,
            nrecent=nrecent,
            dry_run=dryrun,
            cached=cached,
            delete=delete,
        )
        return pull(self._replica, self._folder(dest), options, progress)

    def pull_preview(self, files: Names = None, **how: object) -> Report:
        """What `pull` would bring: its files, and `bytes`. Arguments as of `pull`.

        >>> _ = pipe.put("123", "a.csv")
        >>> report = pipe.pull_preview()
        >>> list(report), report.bytes
        (['a.csv'], 3)
        """
        return self.pull(files, dryrun=True, **how)  # type: ignore[arg-type]  # checked there

    def is_synced(
        self,
        israise: bool = False,
        *,
        cached: bool = True,
        dest: str | os.PathLike[str] | None = None,
    ) -> bool:
        """Whether the folder has everything that the pipe has.

        Args:
            israise: raise `Conflict`, which names the files, instead of False.
            dest: another folder.

        >>> _ = pipe.put("1", "a.csv")
        >>> pipe.is_synced()
        False
        >>> _ = pipe.pull()
        >>> pipe.is_synced()
        True
        """
        from pipefs.folder.pulling import is_synced
        from pipefs.folder.reports import named

        if dest is None and self._mount() is not None:
            return True
        self._movable()
        missing = is_synced(self._replica, self._folder(dest), cached=cached)
        if missing and israise:
            raise Conflict(
                f"{self.name} has changes that were not pulled: {named(missing)}",
                hint="First: pipe.pull()",
            )
        return not missing

    def reset(self, delete: bool = False) -> Report:
        """Make the folder what the pipe is: everything is pulled anew, over changes here.

        Args:
            delete: delete first what is here, pushed or not.

        >>> _ = pipe.put("1", "a.csv"), pipe.pull()
        >>> (pipe.dirpath / "a.csv").write_text("broken")
        6
        >>> list(pipe.reset())
        ['a.csv']
        >>> (pipe.dirpath / "a.csv").read_text()
        '1'
        """
        if self._mount() is not None:
            raise Refused(f"{self.name} is mounted: its folder is the pipe itself")
        self._movable()
        if delete:
            self.delete_files_local(confirm=False)
        return self.pull(mode="all", merge_mode="overwrite", cached=False)

    # --- push ---------------------------------------------------------------------------------

    def push(
        self,
        files: Names = None,
        dryrun: bool = False,
        include: Patterns = None,
        exclude: Patterns = None,
        nrecent: int = 0,
        cached: bool = True,
        *,
        mode: Mode | None = None,
        delete: bool = False,
        dest: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Send new and changed files of the folder into the pipe. A mount sends by itself; here it
        is waited for.

        Args:
            files: only these, whatever is in the pipe.
            dryrun: only say it.
            include, exclude, nrecent, cached, mode, progress: as of `pull`.
            delete: also delete in the pipe, for everybody, what the folder has not; its versions
                stay where the store keeps any.
            dest: from another folder.
        Returns:
            The files, each a text with `size`, `modified_at` and `version`, and what there is to
            say besides.
        Raises:
            Conflict: the pipe has changes that were not pulled (not with mode `all` or named
            files); nothing was done. NotFound: no such file. Refused: `delete` from a folder
            without files. PartlyDone: some failed, or somebody else was faster. ReadOnly. Store
            errors; what was done until then stays done.

        >>> (pipe.dirpath / "new.csv").write_text("a,b")
        3
        >>> list(pipe.push())
        ['new.csv']
        >>> pipe.scan_remote(), list(pipe.push())
        (['new.csv'], [])
        """
        from pipefs.folder.pushing import push

        self._movable()
        if dest is None and (mount := self._mount()) is not None:
            if not dryrun:
                self._beside.bring_up()
            return Report(self.name, mount.path, "push", dryrun)
        self._catch_up()
        options = self._options(
            files,
            mode,
            None,
            include=include,
            exclude=exclude,
            nrecent=nrecent,
            dry_run=dryrun,
            cached=cached,
            delete=delete,
        )
        try:
            return push(self._replica, self._folder(dest), options, progress)
        finally:
            self._reach.look_again()

    def push_preview(self, files: Names = None, **how: object) -> Report:
        """What `push` would send: its files, and `bytes`. Arguments as of `push`.

        >>> (pipe.dirpath / "new.csv").write_text("a,b")
        3
        >>> pipe.push_preview().bytes
        3
        """
        return self.push(files, dryrun=True, **how)  # type: ignore[arg-type]  # checked there

    # --- importing ----------------------------------------------------------------------------

    def import_file(
        self, file: str | os.PathLike[str], subdir: str = "", move: bool = False
    ) -> str:
        """Copy a file into the pipe's folder, under its own name; the next `push` puts it into the
        pipe, a mount does so by itself.

        Args:
            subdir: folder in the pipe.
            move: the file is gone from where it was.
        Returns:
            Its path in the pipe.
        Raises:
            NotFound: there is no such file. AlreadyExists: there is a folder of its name.

        >>> from pathlib import Path
        >>> _ = (Path(pipe.dir).parent / "new.csv").write_text("1")
        >>> pipe.import_file(Path(pipe.dir).parent / "new.csv", subdir="raw")
        'raw/new.csv'
        """
        return self.import_files([file], subdir, move)[0]

    def import_files(
        self, files: Iterable[str | os.PathLike[str]], subdir: str = "", move: bool = False
    ) -> list[str]:
        """The same for several files, of whatever folders; each keeps its name only.

        Raises:
            UsageError: two have one name; nothing was copied.

        >>> from pathlib import Path
        >>> home = Path(pipe.dir).parent
        >>> _ = (home / "a.csv").write_text("1"), (home / "b.csv").write_text("2")
        >>> pipe.import_files(sorted(home.glob("*.csv")), move=True), list(home.glob("*.csv"))
        (['a.csv', 'b.csv'], [])
        """
        sources = [Path(file) for file in files]
        above = f"{subdir.strip('/')}/" if subdir.strip("/") else ""
        targets = [above + source.name for source in sources]
        return self._import(list(zip(targets, sources, strict=True)), move)

    def import_dir(
        self, folder: str | os.PathLike[str], subdir: str = "", move: bool = False
    ) -> list[str]:
        """The same for all that is in a folder, with the folders in it.

        >>> from pathlib import Path
        >>> raw = Path(pipe.dir).parent / "raw"
        >>> (raw / "2026").mkdir(parents=True)
        >>> _ = (raw / "2026" / "a.csv").write_text("1")
        >>> pipe.import_dir(raw)
        ['2026/a.csv']
        """
        source = Path(folder)
        if not source.is_dir():
            raise NotFound(f"there is no folder {source}")
        return self._import(files_in(source, subdir.strip("/")), move)

    def _import(self, files: Sequence[tuple[str, Path]], move: bool) -> list[str]:
        names = [name for name, _ in files]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise UsageError(f"two files have the name {twice}", hint="import_dir keeps folders")
        for name, source in files:
            to_names(name)
            if not source.is_file():
                raise NotFound(f"there is no file {source}")
        for name, source in files:
            place = self.dirpath / name
            if place.is_dir():
                raise AlreadyExists(f"there is a folder {name} in {self.dirpath}")
            place.parent.mkdir(parents=True, exist_ok=True)
            if move:
                shutil.move(source, place)
            else:
                shutil.copy2(source, place)
        return names

    # --- inside -------------------------------------------------------------------------------

    def _options(
        self, files: Names, mode: Mode | None, merge_mode: MergeMode | None, **how: Any
    ) -> Options:
        mode = mode or self.mode
        if mode not in ("default", "new", "mod", "all"):
            raise UsageError(f"there is no mode {mode!r}", hint="default, new, mod or all")
        if merge_mode not in (None, "keep", "overwrite"):
            raise UsageError(f"there is no merge_mode {merge_mode!r}", hint="keep or overwrite")
        chosen = None if files is None else tuple(names_in(files))
        return Options(files=chosen, mode=mode, merge_mode=merge_mode, **how)
