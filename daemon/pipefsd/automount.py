"""Pipes with automount: mounted at the start, and kept in step with the registry by a reload.

A pipe that cannot be mounted never keeps the others from it: what went wrong is logged, shown in
the status line, and tried again from time to time. A pipe that a reload no longer finds is
unmounted as soon as nobody uses it. Pipes that somebody mounted by hand are left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import fields

from pipefs.config import SPECS, Settings
from pipefs.errors import Busy, PipefsError
from pipefs.protocol import Mount
from pipefsd import logs
from pipefsd.mounts import Entry, Mounts

log = logging.getLogger(__name__)

REMOUNT = frozenset(
    {"mountpoint", "read_only", "allow_other", "owner", "snapdir", "passthrough"}
    | {"acl", "suid", "dev", "exec"}
)
"""Fields of `Settings` that are part of what the kernel has of a mount."""


class Automount:
    """Which pipes ought to be mounted, and what keeps them from it."""

    def __init__(self, mounts: Mounts) -> None:
        self.trouble: dict[str, str] = {}
        """Why a pipe is not mounted although it should be; "" is the registry itself."""
        self.leaving: set[str] = set()
        """Labels of mounts that go as soon as they are idle."""
        self._mounts = mounts

    async def start(self, first: list[Mount], again: list[Mount]) -> bool:
        """Mount `first`, the automount pipes, and what was mounted by hand before a restart, all
        at the same time; True when one of `first` failed."""
        names = {m.name for m in first}
        found = self._wanted() or []
        table = self._mounts.table
        missing = [n for n in found if n not in names and not _is_served(table.get(n))]
        return await self._mount(first, missing, again)

    async def _mount(
        self, first: list[Mount], missing: list[str], again: Sequence[Mount] = ()
    ) -> bool:
        wanted = [(m, False) for m in first] + [(Mount(n), True) for n in missing]
        wanted += [(m, False) for m in again]
        works = (self._mounts.mount(m, automatic=automatic) for m, automatic in wanted)
        results = await asyncio.gather(*works, return_exceptions=True)
        for (request, _), result in zip(wanted, results, strict=True):
            self._note(request.name, result if isinstance(result, BaseException) else None)
        return any(isinstance(r, BaseException) for r in results[: len(first)])

    def _wanted(self) -> list[str] | None:
        """Pipes that ought to be mounted; None when the registry cannot be read."""
        try:
            found = self._mounts.pipes.automount()
        except PipefsError as error:
            self._note("", error)
            return None
        self.trouble.pop("", None)
        for name in [n for n in self.trouble if n not in found]:
            del self.trouble[name]
        return found

    def _note(self, name: str, error: BaseException | None) -> None:
        if error is None:
            self.trouble.pop(name, None)
            return
        text = str(error)
        # The same again and again is said once.
        if self.trouble.get(name) != text:
            what = "not mounted" if name else "cannot read the pipes"
            logs.event(log, logging.ERROR, what, pipe=name, error=text)
        self.trouble[name] = text

    async def retry_forever(self) -> None:
        """Try again what could not be mounted."""
        while True:
            await asyncio.sleep(self._mounts.bounds.retry_s)
            failed = set(self.trouble)
            wanted = (self._wanted() or []) if failed else []
            # Not those that somebody unmounted by hand meanwhile.
            again = [n for n in wanted if n in failed or "" in failed]
            table = self._mounts.table
            await self._mount([], [n for n in again if not _is_served(table.get(n))])

    # --- reload -------------------------------------------------------------------------------

    async def reload(self) -> None:
        """Read registry and configuration again; returns when added pipes are mounted."""
        wanted = self._wanted()
        if wanted is None:
            return
        self.leaving &= set(self._mounts.table) - set(wanted)
        for label, entry in list(self._mounts.table.items()):
            if entry.automatic and entry.request.name not in wanted:
                self._let_go(label, entry)
            else:
                _report_changes(self._mounts, label, entry)
        await self.start([], [])

    def _let_go(self, label: str, entry: Entry) -> None:
        if label not in self.leaving:
            self.leaving.add(label)
            logs.event(log, logging.INFO, "no automount any more, leaves when idle", pipe=label)
            self._mounts.background(self._leave_when_idle(label, entry))

    async def _leave_when_idle(self, label: str, entry: Entry) -> None:
        while label in self.leaving:
            try:
                await entry.mounted.unmount(drain_s=self._mounts.bounds.drain_s)
                self._mounts.forget(entry.mounted)
                break
            except Busy:
                await asyncio.sleep(self._mounts.bounds.idle_look_s)
            except PipefsError as error:
                logs.event(log, logging.ERROR, "cannot unmount", pipe=label, error=error)
                break
        self.leaving.discard(label)


def _is_served(entry: Entry | None) -> bool:
    return entry is not None and not entry.mounted.has_failed()


def _report_changes(mounts: Mounts, label: str, entry: Entry) -> None:
    """Say which changed settings this mount does not follow, and what makes them count."""
    try:
        fresh = mounts.pipes.resolve(entry.request).settings
    except PipefsError as error:
        logs.event(log, logging.ERROR, "settings are not usable", pipe=label, error=error)
        return
    changed = changed_settings(entry.target.settings, fresh)
    if changed:
        remount = any(SPECS[key].field in REMOUNT for key in changed)
        todo = f"pipefs umount {label}, then mount again" if remount else "restart the service"
        keys = ",".join(changed)
        message = "changed settings count later"
        logs.event(log, logging.WARNING, message, pipe=label, settings=keys, then=todo)


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """User-facing keys that differ. `automount` is left out: it is not about a mount."""
    differ = {f.name for f in fields(Settings) if getattr(old, f.name) != getattr(new, f.name)}
    return [key for key, spec in SPECS.items() if spec.field in differ and key != "automount"]
