"""`pipefs config`: the defaults of all pipes, and those that a team publishes."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (done.stdout, done.stderr)
        return done

    return go


@pytest.fixture
def site() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server, and what it has by path."""
    pages: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", pages
        server.shutdown()
        thread.join()


def test_defaults_count_for_all_pipes_until_they_are_unset(run: Run, tmp_path: Path) -> None:
    assert "no settings for all pipes" in run("config").stdout
    run("config", "region=eu-west-1", "cache_limit=1G")
    assert run("config").stdout == "cache_limit  1G\nregion       eu-west-1\n"
    run("create", "a", (tmp_path / "a").as_uri())
    assert "eu-west-1" in run("show", "a").stdout
    run("config", "region=")
    assert json.loads(run("config", "--json").stdout)["defaults"] == {"cache_limit": "1G"}
    assert "Did you mean region" in run("config", "regoin=x", code=2).stderr
    assert "Did you mean region" in run("config", "regoin=", code=2).stderr


def test_t4_18_a_team_publishes_its_settings(run: Run, site: tuple[str, dict[str, bytes]]) -> None:
    url, pages = site
    pages["/config.json"] = b'{"region": "eu-west-1", "exclude": ["*.tmp"]}'
    run("config", "--from-url", url, "region=eu-north-1")
    assert run("config").stdout == 'exclude  ["*.tmp"]\nregion   eu-north-1\n'


@pytest.mark.parametrize(
    ("page", "code", "said"),
    [
        (b'{"region": "x", "elastic_search_url": "y"}', 2, "elastic_search_url"),
        (b'{"cache_limit": "much"}', 2, "cache_limit"),
        (b"<html>", 2, "no JSON object of settings"),
        (None, 5, "gives no settings: Not Found"),
    ],
)
def test_t4_18_what_is_not_known_is_refused_and_nothing_changes(
    run: Run, site: tuple[str, dict[str, bytes]], page: bytes | None, code: int, said: str
) -> None:
    url, pages = site
    if page is not None:
        pages["/config.json"] = page
    assert said in run("config", "--from-url", url, code=code).stderr
    assert json.loads(run("config", "--json").stdout)["defaults"] == {}
    assert "is no URL" in run("config", "--from-url", "ftp://x", code=2).stderr
