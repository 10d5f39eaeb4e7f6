"""`pipefs lock`: pins of embedded stores, written, moved and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs import lockfile
from pipefs.catalog import Snapshot
from pipefs.cli.app import App
from pipefs.cli.main import cli
from pipefs.cli.pasts import open_past
from pipefs.commits import Change
from pipefs.stores.local import LocalStore
from tests import pasts

Run = Callable[..., Result]
Take = Callable[..., Snapshot]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """The pipes `sales` and `prices`, and a project as the current folder."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repo")
    app = App()
    app.home().make()
    for name in ("sales", "prices"):
        LocalStore(tmp_path / name).close()
        app.registry().add(name, (tmp_path / name).as_uri(), f"id-{name}", {})
    return app


@pytest.fixture
def run(app: App) -> Run:
    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


@pytest.fixture
def take(app: App) -> Take:
    def go(name: str, tag: str = "", path: str = "") -> Snapshot:
        past = open_past(app, name)
        entries = pasts.put_files(past.store, {"d/a.csv": tag.encode()})
        made = pasts.take(past, entries, tag=tag, path=path)
        past.store.close()
        return made

    return go


def amend(app: App, name: str, change: Change) -> None:
    past = open_past(app, name)
    past.amend(lambda _: [change])
    past.store.close()


def pins() -> dict[str, lockfile.Pin]:
    return lockfile.read(Path("pipefs.lock"))


def said(done: Result) -> tuple[str, str]:
    """Message and hint of the error that ended a command."""
    message, _, hint = done.stderr.removeprefix("pipefs: ").partition("\n")
    return message, hint.strip()


def test_pinning_writes_all_that_a_reader_needs(run: Run, take: Take, tmp_path: Path) -> None:
    take("sales", "v1")
    newest = take("sales", "v2")
    shown = run("lock", "sales").stdout.splitlines()
    assert shown[0] == f"sales  v2 {newest.short} · 2026-11-28 13:00Z"
    assert shown[1].endswith("repo/pipefs.lock  made · next: git add pipefs.lock")
    assert pins() == {
        "sales": lockfile.Pin(
            url=(tmp_path / "sales").as_uri(),
            pipe_id="id-sales",
            snapshot=newest.id,
            tag="v2",
            commit=newest.body.commit,
            root=newest.body.root,
            time=newest.body.time,
        )
    }


def test_a_snapshot_is_named_by_tag_or_id_and_the_other_pins_stay(run: Run, take: Take) -> None:
    first, _, price = take("sales", "v1"), take("sales", "v2"), take("prices", "p")
    run("lock", "prices", "sales@v1")
    assert [(n, p.snapshot) for n, p in pins().items()] == [
        ("prices", price.id),
        ("sales", first.id),
    ]
    take("prices", "q")
    run("lock", f"sales@{first.short}")
    assert pins()["prices"].snapshot == price.id
    assert pins()["sales"].tag == "v1"


def test_without_names_every_pin_moves_to_the_newest(run: Run, take: Take) -> None:
    first, price = take("sales", "v1"), take("prices", "p")
    run("lock", "sales", "prices")
    second = take("sales", "v2")
    shown = run("lock").stdout.splitlines()
    assert shown[0] == f"prices  p {price.short} · as it was"
    assert shown[1] == f"sales  v1 {first.short} → v2 {second.short} · 2026-11-28 13:00Z"
    assert pins()["sales"].snapshot == second.id


def test_that_the_newest_is_what_a_restore_replaced_is_said(run: Run, take: Take) -> None:
    take("sales", "v1")
    take("sales", "v2")
    run("lock", "sales@v1")
    run("-y", "restore", "sales", "v1")
    assert "is what a restore replaced" in run("lock", "--check", code=4).stderr
    done = run("lock", "sales")
    assert "of sales is what a restore replaced" in done.stderr and "v2" in done.stderr
    assert "pipefs lock sales@SNAP" in done.stderr
    assert "restore" not in run("lock", "sales@v2").stderr
    take("sales", "v3")
    assert "restore" not in run("lock", "sales").stderr


def test_what_is_up_to_date_is_not_written_again(run: Run, take: Take) -> None:
    take("sales", "v1")
    run("lock", "sales")
    file = Path("pipefs.lock")
    file.write_text("# mine\n" + file.read_text())
    assert run("lock").stdout.splitlines()[-1].endswith("is up to date")
    assert file.read_text().startswith("# mine\n")


def test_from_a_folder_below_it_is_the_same_file(
    run: Run, take: Take, monkeypatch: pytest.MonkeyPatch
) -> None:
    take("sales", "v1")
    root = Path.cwd()
    (root / "notebooks").mkdir()
    monkeypatch.chdir(root / "notebooks")
    run("lock", "sales")
    assert list(lockfile.read(root / "pipefs.lock")) == ["sales"]
    assert not Path("pipefs.lock").exists()


def test_a_folders_snapshot_is_pinned_by_name_only_and_moves_within_the_folder(
    run: Run, take: Take
) -> None:
    whole = take("sales", "v1")
    take("sales", "d1", path="d")
    run("lock", "sales")
    assert pins()["sales"].snapshot == whole.id
    run("lock", "sales@d1")
    assert pins()["sales"].path == "d"
    take("sales", "v2")
    second = take("sales", "d2", path="d")
    take("sales", "v3")
    run("lock")
    assert pins()["sales"].snapshot == second.id


def test_check_ends_with_4_when_a_newer_snapshot_is_there(run: Run, take: Take) -> None:
    first, _ = take("sales", "v1"), take("prices", "p")
    run("lock", "sales", "prices")
    assert "up to date" in run("lock", "--check").stdout
    second = take("sales", "v2")
    before = Path("pipefs.lock").read_bytes()
    done = run("lock", "--check", code=4)
    text = f"sales  v1 {first.short} · behind: there is v2 {second.short}"
    assert done.stdout.splitlines()[1] == text
    assert said(done) == ("1 pin of 2 is not as it should be: sales", "Move it: pipefs lock sales")
    assert Path("pipefs.lock").read_bytes() == before
    run("lock", "--check", "prices")
    run("lock", "--check", "sales@v1")
    run("lock", "--check", "sales@v2", code=4)


def test_check_ends_with_4_when_the_pinned_snapshot_is_gone(run: Run, take: Take, app: App) -> None:
    made = take("sales", "v1")
    run("lock", "sales")
    amend(app, "sales", Change(op="forget", path="", snapshot=made.id))
    done = run("lock", "--check", code=4)
    assert done.stdout == f"sales  v1 {made.short} is gone\n"
    assert "no other" in said(run("lock", code=3))[0]
    other = take("sales", "v2")
    found = json.loads(run("lock", "--check", "--json", code=4).stdout)
    (item,) = found["pipes"]
    assert (item["gone"], item["before"], item["snapshot"]) == (True, made.id, other.id)
    assert f"v1 {made.short} is gone" in run("lock").stdout
    assert pins()["sales"].snapshot == other.id


def test_check_finds_a_pin_that_was_changed_by_hand(run: Run, take: Take) -> None:
    made = take("sales", "v1")
    run("lock", "sales")
    file = Path("pipefs.lock")
    file.write_text(file.read_text().replace(made.body.root, "0" * 64))
    assert "says something else" in run("lock", "--check", code=4).stdout
    run("lock")
    assert pins()["sales"].root == made.body.root


def test_a_tag_that_moved_does_not_make_a_pin_old(run: Run, take: Take, app: App) -> None:
    made = take("sales", "v1")
    run("lock", "sales")
    amend(app, "sales", Change(op="tag", path="", snapshot=made.id, tag="best"))
    amend(app, "sales", Change(op="tag", path="", snapshot=made.id, tag="v1", off=True))
    run("lock", "--check")
    run("lock")
    assert pins()["sales"].tag == "best"


def test_another_pipe_under_the_name_is_pinned_only_when_it_is_named(
    run: Run, take: Take, app: App, tmp_path: Path
) -> None:
    take("sales", "v1")
    run("lock", "sales")
    app.registry().remove("sales")
    LocalStore(tmp_path / "else").close()
    app.registry().add("sales", (tmp_path / "else").as_uri(), "id-else", {})
    take("sales", "w1")
    before = Path("pipefs.lock").read_bytes()
    for words in (["lock"], ["lock", "--check"], ["lock", "--check", "sales"]):
        assert "pipefs lock sales" in said(run(*words, code=4))[1]
    assert Path("pipefs.lock").read_bytes() == before
    assert f"→ {(tmp_path / 'else').as_uri()}" in run("lock", "sales").stdout
    assert pins()["sales"].pipe_id == "id-else"


def test_a_pipe_that_this_machine_does_not_have_is_named_with_its_place(
    run: Run, take: Take, app: App, tmp_path: Path
) -> None:
    take("sales", "v1")
    run("lock", "sales")
    app.registry().remove("sales")
    again = f"pipefs create sales {(tmp_path / 'sales').as_uri()}"
    assert again in said(run("lock", code=3))[1]
    assert again in said(run("mount", "sales", "--locked", code=3))[1]


def test_when_one_pipe_fails_nothing_is_written(run: Run, take: Take) -> None:
    take("sales", "v1")
    assert "pipefs snapshot prices" in said(run("lock", "sales", "prices", code=3))[1]
    assert not Path("pipefs.lock").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 3, "there is no pipefs.lock"),
        (["--check"], 3, "there is no pipefs.lock"),
        (["sales@live"], 2, "the present cannot be pinned"),
        (["sales@@2h"], 2, "is a moment"),
        (["sales@dws-1234567"], 4, "another system"),
        (["sales@v9"], 3, "no snapshot 'v9'"),
        (["sales", "sales@v1"], 2, "named twice"),
        (["nothing"], 3, 'no pipe "nothing"'),
        (["./sales"], 2, "cannot name a pipe"),
    ],
)
def test_what_cannot_be_pinned(
    run: Run, take: Take, words: list[str], code: int, says: str
) -> None:
    take("sales", "v1")
    assert says in said(run("lock", *words, code=code))[0]
    assert not Path("pipefs.lock").exists()


def test_mount_locked_says_what_is_missing_before_it_mounts(run: Run, take: Take) -> None:
    message, hint = said(run("mount", "sales", "--locked", code=3))
    assert (message, hint) == (
        "there is no pipefs.lock here or above",
        "Make it: pipefs lock sales",
    )
    take("sales", "v1")
    run("lock", "sales")
    assert said(run("mount", "prices", "--locked", code=3))[1] == "Pin it: pipefs lock prices"
    assert "two snapshots" in said(run("mount", "sales@v1", "--locked", code=2))[0]
    assert "--all goes without" in said(run("mount", "--all", "--locked", code=2))[0]


def test_mount_locked_refuses_another_pipe_of_that_name(
    run: Run, take: Take, app: App, tmp_path: Path
) -> None:
    take("sales", "v1")
    run("lock", "sales")
    app.registry().remove("sales")
    app.registry().add("sales", (tmp_path / "sales").as_uri(), "id-new", {})
    assert "id-new" in said(run("mount", "sales", "--locked", code=4))[0]


def test_the_help_says_what_keeps_a_pinned_snapshot(run: Run) -> None:
    assert "pipefs protect NAME@SNAP" in " ".join(run("lock", "--help").stdout.split())
