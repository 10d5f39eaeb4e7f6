"""The part of `Pipe` that moves files between the pipe and its folder, in d6tpipe's words."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipefs.api.base import Mode
from pipefs.api.contents import Contents
from pipefs.api.listing import Listing
from pipefs.api.several import files_in, raise_failed
from pipefs.errors import AlreadyExists, Conflict, NotFound, Refused, UsageError
from pipefs.filters import Patterns
from pipefs.folder.deciding import Folder
from pipefs.folder.plan import MergeMode
from pipefs.folder.reports import Options, Progress, Report
from pipefs.folder.scan import scan
from pipefs.publishing import Deletion
from pipefs.replicated import to_names
from pipefs.units import show_count

Names = str | Iterable[str] | None


class Moving(Listing, Contents):
    """Pull, import, and deleting on either side."""

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

        self._online()
        if dest is None and (mount := self._mount()) is not None:
            if not dryrun:
                self._beside.show(full=not cached)
            return Report(self.name, mount.path, "pull", dryrun)
        self._catch_up()
        options = self._options(files, dryrun, include, exclude, nrecent, cached, mode, merge_mode)
        return pull(self._replica, self._folder(dest), options, progress)

    def pull_preview(self, files: Names = None, **how: object) -> Report:
        """What `pull` would bring: its files, and `bytes`. Arguments as of `pull`.

        >>> _ = pipe.put("123", "a.csv")
        >>> report = pipe.pull_preview()
        >>> list(report), report.bytes
        (['a.csv'], 3)
        """
        return self.pull(files, dryrun=True, **how)  # type: ignore[arg-type]  # checked there

    def is_synced(self, israise: bool = False, *, cached: bool = True) -> bool:
        """Whether the folder has everything that the pipe has.

        Args:
            israise: raise `Conflict`, which names the files, instead of False.

        >>> _ = pipe.put("1", "a.csv")
        >>> pipe.is_synced()
        False
        >>> _ = pipe.pull()
        >>> pipe.is_synced()
        True
        """
        from pipefs.folder.pulling import is_synced
        from pipefs.folder.reports import named

        if self._mount() is not None:
            return True
        self._online()
        missing = is_synced(self._replica, self._folder(None), cached=cached)
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
        if delete:
            self.delete_files_local(confirm=False)
        return self.pull(mode="all", merge_mode="overwrite", cached=False)

    # --- deleting -----------------------------------------------------------------------------

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
            delete_all: also what was never pushed; False: only what the pipe has.
            ignore_errors: go on where one cannot be deleted.
        """
        if self._mount() is not None:
            raise Refused(
                f"{self.name} is mounted: what is deleted in its folder is deleted for everybody",
                hint="If you mean that: delete_files_remote",
            )
        here = scan(os.fspath(self.dirpath)).files
        chosen = sorted(here) if files is None else [f for f in _names(files) if f in here]
        if not delete_all:
            with self._present() as now:
                chosen = [f for f in chosen if now.entry(f) is not None]
        self._ask(confirm, chosen, f"in {self.dirpath} for good")
        gone = []
        for name in chosen:
            try:
                (self.dirpath / name).unlink(missing_ok=True)
                gone.append(name)
            except OSError:
                if not ignore_errors:
                    raise
        for folder in sorted({Path(name).parent for name in gone}, reverse=True):
            _remove_empty(self.dirpath, folder)
        return gone

    def delete_files_remote(self, files: Names = None, confirm: bool = True) -> list[str]:
        """Delete files of the pipe, for everybody; their versions stay, where the store keeps any.

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
        chosen = there if files is None else [f for f in _names(files) if f in set(there)]
        self._ask(confirm, chosen, f"in {self.name} for everybody")
        done = publisher.publish([Deletion(path) for path in chosen])
        self._reach.look_again()
        raise_failed(done)
        return chosen

    def delete_files(self, files: Names = None, confirm: bool = True) -> list[str]:
        """Delete files on both sides: what is deleted here only if the pipe had it."""
        names = None if files is None else _names(files)
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

    def _online(self) -> None:
        if self.offline:
            raise Refused(f"{self.name} was opened offline", hint=f'Online: Pipe("{self.name}")')

    def _folder(self, dest: str | os.PathLike[str] | None) -> Folder:
        return Folder.at(self.dirpath if dest is None else dest)

    def _options(
        self,
        files: Names,
        dryrun: bool,
        include: Patterns,
        exclude: Patterns,
        nrecent: int,
        cached: bool,
        mode: Mode | None,
        merge_mode: MergeMode | None,
    ) -> Options:
        if merge_mode not in (None, "keep", "overwrite"):
            raise UsageError(f"there is no merge_mode {merge_mode!r}", hint="keep or overwrite")
        return Options(
            files=None if files is None else tuple(_names(files)),
            include=include,
            exclude=exclude,
            mode=mode or self.mode,
            merge_mode=merge_mode,
            nrecent=nrecent,
            dry_run=dryrun,
            cached=cached,
        )


def _names(files: str | Iterable[str]) -> list[str]:
    """Texts without what they carry: names may come from `files()`."""
    return [str(files)] if isinstance(files, str) else [str(f) for f in files]


def _remove_empty(top: Path, folder: Path) -> None:
    while folder != Path():
        try:
            (top / folder).rmdir()
        except OSError:
            return
        folder = folder.parent
