"""How the checks of `pipefs.doctor` are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipefs.cli.app import App
from pipefs.cli.output import printable, table
from pipefs.errors import PipefsError

if TYPE_CHECKING:
    from pipefs.doctor import Finding

_MARKS = {"ok": "ok", "note": "note", "bad": "BAD"}


def tell(app: App, found: list[Finding]) -> None:
    """Print them, and what to do about each.

    Raises:
        PipefsError: some are bad.
    """
    app.emit({"checks": found})
    shown = [f for f in found if not app.quiet or f.level != "ok"]
    for line, finding in zip(
        table([[_MARKS[f.level], f.what, printable(f.detail)] for f in shown]), shown, strict=True
    ):
        app.say(line)
        if finding.todo:
            app.say(f"      {finding.todo}")
    bad = [f for f in found if f.level == "bad"]
    if bad:
        raise PipefsError(f"{len(bad)} of {len(found)} checks are bad")
