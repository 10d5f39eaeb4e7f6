"""The pages of the user guide, and what is typed on them.

A page is a session: its blocks run in order, at a desk of its own (see `tests/typed.py`).

- ```` ```console ````: lines that begin with `$ ` are typed; the lines below are what they say.
  `ben$ ` is typed at a colleague's desk. A line that is only `…` stands for any lines. Where a
  message (`pipefs: …`) is shown, the command must fail; every other one must end with 0.
- ```` ```python ````: runs as it stands, after the page's first one (its imports).
- ```` ```shell ```` and ```` ```py ````: cannot run here, are counted, and need a reason.
- `<!-- before: … -->`: typed first, not shown. `<!-- s3: BUCKET -->`: a server with this bucket.

Ids, times, numbers and sizes may differ from the page; every word counts.

`python -m tests.guide.pages PAGE…` writes what the commands say into the pages, to be read and
shortened by a person.
"""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.seaweed import SeaweedServer
from tests.typed import Desk, Starter, starting

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
RUN, NOT_RUN, PLAIN = {"console", "python"}, {"shell", "py"}, {"text", "toml", "json", "csv", "ini"}

_FENCE = re.compile(r"^( *)```(\w*)(.*)$")
_PROMPT = re.compile(r"^(\w*)\$ (.*)$")
_COMMENT = re.compile(r"<!-- (before|s3): (.*?) -->", re.DOTALL)


@dataclass(slots=True)
class Block:
    """A fenced block: its language, the number of its first line, its lines."""

    language: str
    start: int
    lines: list[str]


@dataclass(slots=True)
class Step:
    """A typed line and what the page says it says."""

    who: str
    line: str
    shown: list[str] = field(default_factory=list)


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    current: Block | None = None
    for number, line in enumerate(text.splitlines()):
        fence = _FENCE.match(line)
        if current is None and fence:
            current = Block(fence[2], number + 1, [])
        elif current is not None and line.strip() == "```":
            yield current
            current = None
        elif current is not None:
            current.lines.append(line)
    if current is not None:
        raise ValueError(f"line {current.start}: a block without an end")


def steps(block: Block) -> Iterator[Step]:
    """The typed lines of a console block; a line that ends with a backslash goes on."""
    current: Step | None = None
    for line in block.lines:
        if current is not None and current.line.endswith("\\") and not current.shown:
            current.line += "\n" + line
        elif match := _PROMPT.match(line):
            if current is not None:
                yield current
            current = Step(match[1], match[2])
        elif current is None:
            raise ValueError(f"line {block.start}: a console block begins with no prompt")
        else:
            current.shown.append(line)
    if current is not None:
        yield current


_MASKS = [
    # What a busy machine has sent, or waited for, before it is asked to.
    (r"(?<=all saved)( · \d+ files? \([^)]*\))?( · [\d.]+ m?s)?", ""),
    (r" · waited [^·]*?(?= ·|$)", ""),
    (r"\bcache \d.*$", "CACHE"),
    (r"(?<=\.conflict-)[\w-]+?(?=-20\d)", "HOST"),
    (r"(?<!\d)20\d\d-?\d\d-?\d\d([T ]?\d\d:?\d\d(:?\d\d(\.\d+)?)?)?Z?", "TIME"),
    (r"\b[\w.-]+@[\w-]+\b(?=[ :]|$)", "WHO"),
    (r"\b([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{7,64})\b", "ID"),
    (r"https?://(127\.0\.0\.1:\d+|s3\.[a-z0-9-]+\.amazonaws\.com)", "URL"),
    (r"\d[\d,.]*( ?(B|KB|MB|GB|TB|ms|µs|s|min|h|d|%))?\b", "N"),
    (r"\s+", " "),
]


def masked(line: str) -> str:
    """A line without what may differ."""
    for pattern, word in _MASKS:
        line = re.sub(pattern, word, line)
    return line.strip()


def matches(shown: Sequence[str], said: Sequence[str]) -> bool:
    """Whether a page shows what was said; `…` stands for any lines."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "…" else re.escape(masked(line)) + r"\n" for line in shown
    )
    return bool(re.fullmatch(pattern, "".join(masked(line) + "\n" for line in said)))


class Session:
    """The desks of one page."""

    def __init__(self, text: str, starter: Starter, env: dict[str, str] | None = None) -> None:
        self._starter, self._env = starter, env
        self._desks: dict[str, Desk] = {}
        self._prelude = ""
        for kind, line in _COMMENT.findall(text):
            if kind == "before":
                done = self.desk("").type(line)
                assert done.code == 0, (line, done)

    def desk(self, who: str) -> Desk:
        if who not in self._desks:
            self._desks[who] = Desk(self._starter, self._env)
        return self._desks[who]

    def do(self, step: Step) -> tuple[int, list[str]]:
        """(exit code, lines)."""
        done = self.desk(step.who).type(f"{{ {step.line}\n}} 2>&1")
        home = str(self.desk(step.who).home)
        return done.code, done.out.replace(home, "/home/anna").splitlines()

    def python(self, block: Block) -> tuple[int, list[str]]:
        source = "\n".join(block.lines) + "\n"
        desk = self.desk("")
        script = desk.base / "block.py"
        script.write_text(self._prelude + source)
        done = desk.type(f"python-at-once {script} 2>&1")
        self._prelude = self._prelude or source
        return done.code, done.out.splitlines()

    def close(self) -> None:
        for desk in self._desks.values():
            desk.close()


@contextlib.contextmanager
def session(text: str, starter: Starter, server: SeaweedServer | None) -> Iterator[Session]:
    """A page's session, with the buckets that the page speaks of."""
    for kind, bucket in _COMMENT.findall(text):
        if kind == "s3":
            assert server is not None
            client = server.client()
            client.create_bucket(Bucket=bucket)
            on = {"Status": "Enabled"}
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=on)  # type: ignore[arg-type]  # a literal
    found = Session(text, starter, server.environment() if server else None)
    try:
        yield found
    finally:
        found.close()


def as_anna(line: str) -> str:
    """A line of this machine as the guide's person would see it."""
    host = socket.gethostname().partition(".")[0]
    line = re.sub(rf"\b[\w.-]+@{re.escape(host)}\b", "anna@lab7", line)
    line = re.sub(r"(?<=\.conflict-)[\w-]+?(?=-20\d)", "lab7", line)
    return re.sub(r" · waited [^·]*?(?= ·|$)", "", line)


def wants_s3(text: str) -> bool:
    return any(kind == "s3" for kind, _ in _COMMENT.findall(text))


def _written(path: Path, starter: Starter, server: SeaweedServer | None) -> str:
    """The page with what its commands say now."""
    text = path.read_text(encoding="utf-8")
    lines, made, done_until = text.splitlines(), [], 0
    with session(text, starter, server if wants_s3(text) else None) as page:
        for block in blocks(text):
            if block.language == "python":
                code, said = page.python(block)
                print(f"{path.name}:{block.start}", code, *said, sep="\n    ")
            if block.language != "console":
                continue
            made += lines[done_until : block.start]
            done_until = block.start + len(block.lines)
            for step in steps(block):
                code, said = page.do(step)
                print(f"{path.name}:{block.start}", code, step.line, *said, sep="\n    ")
                made.append(f"{step.who}$ {step.line}")
                made += step.shown if matches(step.shown, said) else map(as_anna, said)
    return "\n".join([*made, *lines[done_until:]]) + "\n"


if __name__ == "__main__":
    weed = SeaweedServer.start()
    try:
        with starting() as at_once:
            for name in sys.argv[1:]:
                Path(name).write_text(_written(Path(name), at_once, weed), encoding="utf-8")
    finally:
        weed.stop()
