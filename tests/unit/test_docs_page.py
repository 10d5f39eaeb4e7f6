"""A data set's page: what is on it, and that nothing in a bucket becomes markup."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import Result

from pipefs.docspage import FileRow, Page, markdown, render

Run = Callable[..., Result]


class _Seen(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_d6_55_a_page_says_what_there_is_and_how_to_get_it(run: Run, tmp_path: Path) -> None:
    run("create", "sales", (tmp_path / "s").as_uri(), "-o", 'schema={"pandas":{"sep":";"}}')
    (tmp_path / "README.md").write_text("# Sales\n\nBy **quarter**.\n\n- one\n- `two`\n")
    (tmp_path / "LICENSE.md").write_text("Free for all.\n")
    (tmp_path / "q3.csv").write_text("a;b\n1;2\n")
    run("put", "README.md", "LICENSE.md", "q3.csv", "sales/", "--meta", "source=NOAA")
    run("snapshot", "sales", "v1", "-m", "as <delivered>")
    assert run("docs", "sales").stdout.startswith("sales.html  3 files · ")
    seen = _Seen((tmp_path / "sales.html").read_text())
    for words in (
        "By quarter.",
        "Free for all.",
        f"pipefs create {(tmp_path / 's').as_uri()}",
        "pd.read_csv('pipefs://sales/q3.csv', sep=';')",
        "source: NOAA",
        "as <delivered>",
        "8 B",
    ):
        assert words in seen.text, words
    assert ("strong", {}) in seen.tags
    run("rm", "sales/q3.csv")
    assert "q3.csv" not in _Seen(run("docs", "sales", "-o", "-").stdout).text
    assert "pipefs mount sales@v1" in run("docs", "sales@v1", "-o", "-").stdout
    assert "whole pipe" in run("docs", "sales/x", code=2).stderr


def test_nothing_of_a_bucket_is_markup() -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)> [x](javascript:alert(1))'
    page = Page(
        name=evil,
        url=evil,
        readme=f'# {evil}\n\n`{evil}` [a](https://x.org/"onclick=alert(1)) **{evil}**\n```\n{evil}',
        license=evil,
        schema={"pandas": {evil: evil, "sep": evil, "os.system('x')": 1}},
        files=[FileRow(f"{evil}.csv", 1, 0, evil)],
        snapshots=[(evil, evil, evil)],
        created=evil,
        created_by=evil,
    )
    seen = _Seen(render(page))
    tags = seen.tags
    assert f", sep={evil!r})" in seen.text
    assert "os.system('x')=" not in seen.text
    assert {name for name, _ in tags}.isdisjoint({"script", "img", "iframe", "object"})
    attributes = {key for _, attrs in tags for key in attrs}
    assert attributes <= {
        "lang",
        "charset",
        "name",
        "content",
        "http-equiv",
        "class",
        "href",
        "rel",
    }
    assert all(str(a["href"]).startswith("https://") for _, a in tags if "href" in a)


def test_a_long_list_is_cut_and_counted() -> None:
    files = [FileRow(f"{n}.csv", 1, 0) for n in range(2500)]
    assert "and 500 more" in render(Page("a", "s3://b", files=files))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", []),
        ("## Two\ntext", ["<h3>Two</h3>", "<p>text</p>"]),
        ("a\nb\n\nc", ["<p>a\nb</p>", "<p>c</p>"]),
        ("1. a\n2) b", ["<ul><li>a</li><li>b</li></ul>"]),
        ("```python\nx < 1\n```\nend", ["<pre>x &lt; 1</pre>", "<p>end</p>"]),
        ("```\nopen", ["<pre>open</pre>"]),
        ("[a](https://x.org/b?c=1)", ['<p><a href="https://x.org/b?c=1" rel="nofollow">a</a></p>']),
        ("[a](file:///etc)", ["<p>[a](file:///etc)</p>"]),
    ],
)
def test_as_much_of_markdown_as_a_readme_has(text: str, shown: list[str]) -> None:
    assert list(markdown(text)) == shown
