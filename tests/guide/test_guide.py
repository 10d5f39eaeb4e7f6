"""The user guide is built as CI builds it, and what is typed on its pages works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipefs.cli.main import SECTIONS
from tests.guide import pages
from tests.guide.pages import GUIDE, NOT_RUN, PLAIN, RUN
from tests.typed import Starter

SETTINGS = GUIDE.parent / "mkdocs.yml"
PAGES = sorted(GUIDE.glob("*.md"))

CANNOT_RUN = {
    "first-mount.md": 1,  # the installation
    "service.md": 5,  # systemd, /etc/fstab
}
"""Blocks of each page that no test runs. It must not grow without a reason beside it."""


def test_the_guide_builds_without_a_warning_and_asks_no_other_site(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", SETTINGS, "-d", tmp_path],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        asked = re.findall(r'(?:src|<link[^>]*href)="(https?:[^"]+)"', page.read_text("utf-8"))
        assert asked == [], page
    assert {p.stem for p in PAGES} - {"index"} <= {p.parent.name for p in tmp_path.rglob("*.html")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_are_run_or_counted(page: Path) -> None:
    found = list(pages.blocks(page.read_text(encoding="utf-8")))
    assert {b.language for b in found} <= RUN | NOT_RUN | PLAIN
    count = sum(b.language in NOT_RUN for b in found)
    assert count == CANNOT_RUN.get(page.name, 0)
    # Commands are not hidden in blocks that nobody runs.
    plain = [line for b in found if b.language in PLAIN for line in b.lines]
    assert [line for line in plain if re.match(r"\s*(\w*[$#] )?pipefs ", line)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_what_a_page_types_works(
    page: Path, starter: Starter, request: pytest.FixtureRequest
) -> None:
    text = page.read_text(encoding="utf-8")
    server = request.getfixturevalue("seaweed") if pages.wants_s3(text) else None
    with pages.session(text, starter, server) as session:
        for block in pages.blocks(text):
            if block.language == "python":
                code, said = session.python(block)
                assert code == 0, "\n".join(said)
            if block.language != "console":
                continue
            for step in pages.steps(block):
                code, said = session.do(step)
                refused = any(line.startswith("pipefs: ") for line in step.shown)
                assert (code != 0) == refused, (page.name, step.line, code, said)
                if step.shown:
                    again = f"python -m tests.guide.pages docs/guide/{page.name}"
                    assert pages.matches(step.shown, said), (step, said, f"rewrite it: {again}")


def test_every_command_is_on_some_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = [name for _, _, table in SECTIONS for name in table]
    said = [n for n in names if re.search(rf"pipefs (-\S+ (\w+ )?)*{n}\b|`{n}`", text)]
    assert sorted(set(names) - set(said)) == []


def test_a_page_that_shows_something_else_is_found() -> None:
    said = ["sales  ~/pipes/sales · ready in 0.3 s", "next: x"]
    assert pages.matches(["sales  ~/pipes/sales · ready in 12.5 s", "…"], said)
    assert not pages.matches(["sales  ~/pipes/sales · ready"], said)
    assert not pages.matches(["sales  ~/pipes/sales · ready in 12.5 s"], said)
    assert pages.matches(["s  all saved · 2 files (7 MB) · 1.0 s"], ["s  all saved"])
    assert not pages.matches(["s  all saved · 2 files (7 MB) · 1.0 s"], ["s  1 file waits"])
