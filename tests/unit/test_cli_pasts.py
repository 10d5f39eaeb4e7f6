"""What the commands about the past share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipefs.cli.app import App
from pipefs.cli.pasts import contents_at, live_view, open_past, time_text, time_text_ns, view_at
from pipefs.errors import NotFound, Refused
from pipefs.manifest import Entry
from pipefs.stores.local import LocalStore
from tests import pasts


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """A home with the pipe `sales` in an embedded store."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    app = App()
    home = app.home()
    home.make()
    LocalStore(tmp_path / "store").close()
    app.registry(home).add("sales", (tmp_path / "store").as_uri(), "id", {})
    return app


def test_the_past_of_a_pipe_is_opened_by_its_name(app: App) -> None:
    past = open_past(app, "sales")
    entries = pasts.put_files(past.store, {"a.csv": b"1", "d/b.csv": b"22"})
    made = pasts.take(past, entries, tag="v1", message="first")
    again = open_past(app, "sales")
    assert [s.id for s in again.catalog.kept()] == [made.id]
    for name in ("v1", made.short, "latest"):
        view = view_at(app, again, "sales", name)
        assert [e.path for e in view.entries()] == ["a.csv", "d", "d/b.csv"]


def test_what_is_no_pipe_or_no_snapshot_is_not_found(app: App) -> None:
    with pytest.raises(NotFound, match='no pipe "sale"'):
        open_past(app, "sale")
    with pytest.raises(NotFound, match="no snapshot 'v9'"):
        view_at(app, open_past(app, "sales"), "sales", "v9")


def test_the_present_of_what_is_not_mounted_is_what_its_state_has(app: App) -> None:
    past = open_past(app, "sales")
    for moment in (None, "live"):
        assert list(view_at(app, past, "sales", moment).entries()) == []
    with pytest.raises(NotFound):
        live_view(app, "sale")


def test_what_is_only_on_this_machine_is_read_where_it_is_mounted(app: App) -> None:
    contents = contents_at(app, open_past(app, "sales"), "sales", "live")
    with pytest.raises(Refused, match="not in the store yet") as refused:
        contents.open(Entry(path="a.csv", size=5))
    assert "pipefs mount sales" in refused.value.hint


@pytest.mark.parametrize(
    ("utc", "text"),
    [
        ("2026-11-28T12:00:00.123456Z", "2026-11-28 12:00Z"),
        ("2026-11-28T13:00:59+01:00", "2026-11-28 12:00Z"),
        ("2026-11-28T12:00:00.123456789Z", "2026-11-28 12:00Z"),
        ("once", "once"),
        ("", ""),
    ],
)
def test_times_are_utc_and_to_the_minute(utc: str, text: str) -> None:
    assert time_text(utc) == text


def test_a_time_in_ns_reads_the_same() -> None:
    assert time_text_ns(1_795_867_200 * 10**9) == "2026-11-28 12:00Z"
    assert time_text_ns(0) == ""
