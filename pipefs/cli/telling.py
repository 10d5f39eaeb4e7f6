"""What a pull or push did or would do, told to people and programs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipefs.cli.app import App
from pipefs.cli.documents import show_document
from pipefs.cli.folders import moved_json
from pipefs.cli.output import printable, table, tilde
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.folder.reports import Report

_NAMED = 5


def question(plan: Report) -> str:
    """What would go for good, or for everybody; "" where nothing does."""
    deleted, parts = len(plan.deleted), []
    overwritten = [p for p in plan.lost if p not in set(plan.deleted)]
    if deleted:
        where = tilde(plan.folder) if plan.direction == "pull" else f"{plan.name}, for everybody"
        gone = len(plan.lost) - len(overwritten)
        only = f" ({gone:,} nowhere else)" if gone else ""
        parts.append(f"deletes {show_count(deleted, 'file')}{only} in {where}")
    if overwritten:
        parts.append(f"overwrites your changes in {_some(overwritten)}")
    return f"This {' and '.join(parts)}." if parts else ""


def tell(app: App, report: Report) -> None:
    """All of it, and the first lines of README and LICENSE where they came."""
    if app.json:  # as long as the report
        app.emit(report_json(report))
    say(app, report)


def say(app: App, report: Report) -> None:
    """As `tell`, for people only."""
    if report.dry_run:
        for line in _preview(report):
            app.say(line)
    verb = {"pull": "pulled", "push": "pushed"}[report.direction]
    where = printable(tilde(report.folder))
    way = f"to {where}" if report.direction == "pull" else f"from {where}"
    what = f"{show_count(len(report), 'file')}, {show_size(report.bytes)}"
    if not report.files:
        app.say(f"{report.name}  nothing to {report.direction} · {where}")
    elif report.dry_run:
        app.say(f"{report.name}  would be {verb}: {what}, {way}")
    else:
        app.say(f"{report.name}  {verb} {what} {way}")
    for line in _besides(report):
        app.say(f"  {line}")
    for path, reason in list(report.failed.items())[:_NAMED] if len(report.failed) > 1 else ():
        app.warn(f"{printable(path)}: {reason}")
    if report.direction == "pull" and not report.dry_run:
        _show_documents(app, report)


def _preview(report: Report) -> list[str]:
    rows = [("A" if f.is_new else "M", printable(f), show_size(f.size)) for f in report.files]
    rows += [("D", printable(path), "") for path in report.deleted]
    return table(rows)


def _besides(report: Report) -> Iterable[str]:
    would = "would be " if report.dry_run else ""
    if report.deleted:
        side = "here" if report.direction == "pull" else "in the pipe"
        yield f"{would}deleted {side}: {_some(report.deleted)}"
    if report.kept:
        yield f"yours kept, changed in the pipe too: {_some(report.kept)}"
    if overwritten := [p for p in report.lost if p not in set(report.deleted)]:
        yield f"your changes {would}overwritten: {_some(overwritten)}"
    if report.gone:
        yield f"deleted in the pipe, so not pushed unless named: {_some(report.gone)}"
    reasons = sorted(set(report.left_out.values()))
    for reason in reasons:
        paths = [path for path, why in report.left_out.items() if why == reason]
        yield f"left out, {reason}: {_some(paths)}"


def _some(paths: list[str]) -> str:
    from pipefs.folder.reports import named

    return named([printable(path) for path in paths], _NAMED)


def _show_documents(app: App, report: Report) -> None:
    """README and LICENSE of the pipe, when they come for the first time or changed."""
    for name in report.documents:
        show_document(app, os.path.join(report.folder, name))


def report_json(report: Report) -> dict[str, object]:
    """All of it, for programs."""
    return {
        "name": report.name,
        "folder": report.folder,
        "direction": report.direction,
        "dry_run": report.dry_run,
        "files": [moved_json(f) for f in report.files],
        "bytes": report.bytes,
        "deleted": report.deleted,
        "kept": report.kept,
        "lost": report.lost,
        "gone": report.gone,
        "left_out": report.left_out,
        "failed": report.failed,
        "documents": report.documents,
        "seconds": round(report.seconds, 3),
    }
