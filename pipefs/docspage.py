"""A data set's page: one HTML file that says what is in a pipe and how to get it. Pure.

Nothing on it comes from elsewhere and nothing on it runs: texts of a bucket are anybody's, so all
of them are escaped, and only links of the web are links.
"""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipefs.units import show_count, show_size, utc_text

MAX_ROWS = 2000
"""Files on the page; more make it slow, and are counted."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file of the pipe."""

    path: str
    size: int
    mtime_ns: int
    about: str = ""
    """What was said of it."""


@dataclass(frozen=True, slots=True)
class Page:
    """What the page shows."""

    name: str
    url: str
    at: str = ""
    """The snapshot, "" for the present."""
    created: str = ""
    created_by: str = ""
    readme: str = ""
    license: str = ""
    schema: Mapping[str, object] = field(default_factory=dict)
    files: Sequence[FileRow] = ()
    snapshots: Sequence[tuple[str, str, str]] = ()
    """(tag or id, time, message), newest first."""
    made: str = ""
    """When the page was made, UTC."""


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre, code { font: 14px/1.4 ui-monospace, monospace; background: #8881; border-radius: 4px; }
pre { padding: .7rem 1rem; overflow-x: auto; } code { padding: 0 .2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .2rem .6rem; text-align: left; }
tr { border-bottom: 1px solid #8883; } td.n { text-align: right; white-space: nowrap; }
.dim { opacity: .65; } h2 { margin-top: 2.2rem; }
""".strip()


def render(page: Page) -> str:
    """The whole file."""
    title = f"{page.name}@{page.at}" if page.at else page.name
    total = sum(f.size for f in page.files)
    facts = [show_count(len(page.files), "file"), show_size(total)]
    if page.files:
        newest = max(f.mtime_ns for f in page.files)
        facts.append(f"newest {utc_text(newest)[:10]}")
    if page.created:
        by = f" by {page.created_by}" if page.created_by else ""
        facts.append(f"made {page.created[:10]}{by}")
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="dim">{_text(" · ".join(facts))}<br><code>{_text(page.url)}</code></p>',
        *markdown(page.readme),
        *_how(page, title),
        *_schema(page.schema),
        *_files(page.files),
        *_snapshots(page.snapshots),
        *(("<h2>License</h2>", *markdown(page.license)) if page.license else ()),
        f'<p class="dim">Made {_text(page.made)} by pipefs.</p>',
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
    )
    return "\n".join([head, *parts, "</body></html>", ""])


def _text(text: str) -> str:
    """Any text, as text; bytes that are no UTF-8 as a sign."""
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return html.escape(clean)


def _how(page: Page, title: str) -> Iterator[str]:
    shell = f"pip install pipefs\npipefs create {shlex.quote(page.url)}\npipefs mount {title}"
    first = next((f.path for f in page.files if f.path.endswith((".parquet", ".csv"))), "")
    yield "<h2>Get it</h2>"
    yield f"<pre>{_text(shell)}</pre>"
    if first:
        reader = "read_parquet" if first.endswith(".parquet") else "read_csv"
        told = page.schema.get("pandas")
        # Who copies this runs it: only names and plain values come from the bucket.
        options = told.items() if isinstance(told, dict) else ()
        more = "".join(f", {k}={v!r}" for k, v in options if str(k).isidentifier())
        code = f"import pandas as pd\n\ndf = pd.{reader}({f'pipefs://{title}/{first}'!r}{more})"
        yield f"<pre>{_text(code)}</pre>"


def _schema(schema: Mapping[str, object]) -> Iterator[str]:
    if schema:
        yield "<h2>How to read it</h2>"
        yield f"<pre>{_text(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"


def _files(files: Sequence[FileRow]) -> Iterator[str]:
    yield "<h2>Files</h2>"
    if not files:
        yield "<p>None yet.</p>"
        return
    yield "<table><tr><th>path</th><th>size</th><th>time</th><th></th></tr>"
    for one in files[:MAX_ROWS]:
        yield (
            f'<tr><td>{_text(one.path)}</td><td class="n">{_text(show_size(one.size))}</td>'
            f'<td class="n">{_text(utc_text(one.mtime_ns)[:16].replace("T", " "))}</td>'
            f'<td class="dim">{_text(one.about)}</td></tr>'
        )
    yield "</table>"
    if len(files) > MAX_ROWS:
        yield f"<p>and {len(files) - MAX_ROWS:,} more</p>"


def _snapshots(found: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    if not found:
        return
    yield "<h2>Snapshots</h2>"
    yield "<table><tr><th>name</th><th>time</th><th>message</th></tr>"
    for name, when, message in found:
        yield (
            f'<tr><td>{_text(name)}</td><td class="n">{_text(when)}</td>'
            f"<td>{_text(message)}</td></tr>"
        )
    yield "</table>"


# --- as much of Markdown as a README has ------------------------------------------------------

_INLINE = (
    (re.compile(r"`([^`\n]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"<strong>\1</strong>"),
    (
        re.compile(r"\[([^\]\n]+)\]\((https?://[^\s)\"'<>]+)\)"),
        r'<a href="\2" rel="nofollow">\1</a>',
    ),
)
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\Z")
_ITEM = re.compile(r"\s*(?:[-*+]|\d+[.)])\s+(.*)")


def markdown(text: str) -> Iterator[str]:
    """Headings, lists, code and paragraphs; whatever else there is stays as it is written."""
    block: list[str] = []
    fence: list[str] | None = None
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            if fence is None:
                yield from _block(block)
                block, fence = [], []
            else:
                yield f"<pre>{_text(chr(10).join(fence))}</pre>"
                fence = None
        elif fence is not None:
            fence.append(line)
        elif found := _HEADING.match(line):
            yield from _block(block)
            block = []
            # The page has the first level itself.
            level = min(6, len(found[1]) + 1)
            yield f"<h{level}>{_inline(found[2])}</h{level}>"
        elif line.strip():
            block.append(line)
        else:
            yield from _block(block)
            block = []
    yield from _block(block)
    if fence is not None:
        yield f"<pre>{_text(chr(10).join(fence))}</pre>"


def _block(lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    if not lines:
        return
    if all(_ITEM.match(line) for line in lines):
        items = (f"<li>{_inline(m[1])}</li>" for line in lines if (m := _ITEM.match(line)))
        yield f"<ul>{''.join(items)}</ul>"
    else:
        yield f"<p>{_inline(chr(10).join(lines))}</p>"


def _inline(text: str) -> str:
    shown = _text(text)
    for pattern, instead in _INLINE:
        shown = pattern.sub(instead, shown)
    return shown
