"""What people type to find something, as a query of FTS5. Pure.

storms 2026            both words, anywhere; each also as the beginning of a word
"as downloaded"        these words, one after the other
-draft                 without this word
name:q3  text:"tail risk"  column:wind  message:raw
author:maria  source:"NOAA HURDAT"     a file's metadata
"""

from __future__ import annotations

import re

from pipefs.errors import UsageError

_FIELDS = {
    "name": "name",
    "path": "name",
    "text": "text",
    "content": "text",
    "column": "columns",
    "columns": "columns",
    "message": "message",
    "meta": "metadata",
    "metadata": "metadata",
}
_CLAUSE = re.compile(
    r'(?P<minus>-?)(?:(?P<key>[\w.-]+):)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))'
)


def fts_query(text: str) -> str:
    """
    Raises:
        UsageError: nothing is asked for.
    """
    wanted: list[str] = []
    unwanted: list[str] = []
    for clause in _CLAUSE.finditer(text):
        told = clause["word"] if clause["word"] is not None else clause["phrase"]
        query = _clause(clause["key"], told, is_phrase=clause["word"] is None)
        if query:
            (unwanted if clause["minus"] else wanted).append(query)
    if not wanted:
        raise UsageError(
            f"{text!r} asks for nothing",
            hint='Words, "several words", name:x, column:x, text:x, or KEY:VALUE of metadata; '
            "-x without it",
        )
    query = " AND ".join(wanted)
    return " NOT ".join([f"({query})", *unwanted]) if unwanted else query


def _clause(key: str | None, told: str, *, is_phrase: bool) -> str:
    words = re.findall(r"\w+", told.replace("_", " "))
    if not words:
        return ""
    field = _FIELDS.get(key.lower()) if key else ""
    if key and not field:
        # Metadata are kept as "key value", so this is a phrase of them.
        words, field = [*re.findall(r"\w+", key.replace("_", " ")), *words], "metadata"
    quoted = '"' + " ".join(words) + '"' + ("" if is_phrase else "*")
    return f"{{{field}}} : {quoted}" if field else quoted
