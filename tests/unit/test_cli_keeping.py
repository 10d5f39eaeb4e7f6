"""`pipefs tag forget protect prune du`: what the user types, and what comes back."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs import catalog as cat
from pipefs import manifest
from pipefs.cli.app import App
from pipefs.cli.main import cli
from pipefs.errors import NotFound
from pipefs.past import pruning
from pipefs.stores.local import LocalStore
from tests.kept import Pipe, later
from tests.promises.promised import promise

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """A home with the pipe `sales` in an embedded store."""
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    app = App()
    app.home().make()
    app.registry().add("sales", (tmp_path / "store").as_uri(), "id", {})
    return app


@pytest.fixture
def pipe(home: App, tmp_path: Path) -> Iterator[Pipe]:
    """With the snapshots v1, v2 and one without a tag."""
    store = LocalStore(tmp_path / "store")
    pipe = Pipe(tmp_path, store)
    for n, tag in enumerate(("v1", "v2", "")):
        pipe.write("a.csv", b"%d" % n * (n + 1))
        pipe.snapshot(tag)
    pipe.write("a.csv", b"now")
    yield pipe
    pipe.close()
    store.close()


@pytest.fixture
def run(home: App) -> Run:
    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


@pytest.fixture
def a_day_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was done before is older than a grace period."""
    monkeypatch.setattr(pruning, "store_clock", lambda _store: later())
    monkeypatch.setattr(pruning, "local_clock", later)


def untagged(pipe: Pipe) -> str:
    (found,) = [s for s in pipe.past().catalog.kept() if not s.tags]
    return found.short


def tags_of(pipe: Pipe) -> dict[str, list[str]]:
    return {s.short: s.tags for s in pipe.past().catalog.kept()}


# --- tag ----------------------------------------------------------------------------------------


def test_dws_27_a_snapshot_may_have_several_tags(run: Run, pipe: Pipe) -> None:
    short = untagged(pipe)
    assert run("tag", f"sales@{short}", "best", "2026Q3").stdout == f"{short}  best 2026Q3\n"
    assert run("tag", "sales@best", "final").stdout == f"{short}  best 2026Q3 final\n"
    for name in ("best", "2026Q3", "final"):
        assert pipe.past().catalog.find(name).short == short
    run("tag", "sales@best", "final")
    assert tags_of(pipe)[short] == ["best", "2026Q3", "final"]
    listed = json.loads(run("tag", "sales@best", "--list", "--json").stdout)["tags"]
    assert [t["tag"] for t in listed] == ["best", "2026Q3", "final"]
    assert "v1" in run("tag", "sales", "--list").stdout


def test_dws_26_a_tag_is_taken_away(run: Run, pipe: Pipe) -> None:
    run("tag", "sales@v1", "best")
    run("tag", "sales@best", "v1", "-d")
    assert ["best"] in tags_of(pipe).values()
    run("tag", "sales@best", "best", "-d")
    done = run("tag", "sales@v2", "best", "-d", code=3)
    assert "v2 does not have the tag 'best'" in done.stderr
    run("tag", "sales@v1", "x", "-d", code=3)


def test_a_tag_moves_only_with_force(run: Run, pipe: Pipe) -> None:
    done = run("tag", "sales@v2", "v1", code=4)
    assert "belongs to" in done.stderr
    assert "--force" in done.stderr
    assert run("tag", "sales@v2", "v1", "--force").stdout.endswith("  v2 v1\n")
    assert pipe.past().catalog.find("v1").tags == ["v2", "v1"]


@pytest.mark.parametrize("bad", ["latest", "live", "abcdef12", "dws-x", ".hidden", "a b", "a/b"])
def test_names_that_mean_something_else_are_no_tags(run: Run, pipe: Pipe, bad: str) -> None:
    run("tag", "sales@v1", bad, code=2)


def test_what_cannot_be_tagged_is_said(run: Run, pipe: Pipe) -> None:
    assert "no snapshot 'v9'" in run("tag", "sales@v9", "x", code=3).stderr
    assert "which snapshot" in run("tag", "sales", "x", code=2).stderr
    assert "a part of a snapshot" in run("tag", "sales@v1/a.csv", "x", code=2).stderr
    assert "a moment" in run("tag", "sales@@2h", "x", code=2).stderr
    assert "another system" in run("tag", "sales@dws-4f2a91c", "x", code=4).stderr
    assert 'no pipe "nope"' in run("tag", "nope@v1", "x", code=3).stderr


# --- forget -------------------------------------------------------------------------------------


def test_forget_asks_and_without_a_terminal_refuses(run: Run, pipe: Pipe) -> None:
    done = run("forget", "sales@v1", code=4)
    assert "This forgets 1 snapshot of sales: v1." in done.stderr
    assert "pipefs -y forget sales@v1" in done.stderr
    assert len(tags_of(pipe)) == 3
    run("forget", "sales@v1", "-n")
    assert len(tags_of(pipe)) == 3


def test_forget_on_a_terminal_takes_yes_or_no(home: App, pipe: Pipe) -> None:
    def answer(word: str) -> tuple[int, str]:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "pipefs.cli.main", "forget", "sales@v1"],
            stdin=slave, stdout=slave, stderr=slave, env=os.environ, close_fds=True,
        )  # fmt: skip
        os.close(slave)
        os.write(master, word.encode() + b"\n")
        said = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:
                break
            said += piece
        os.close(master)
        return process.wait(), said.decode()

    code, said = answer("n")
    assert (code, len(tags_of(pipe))) == (4, 3)
    assert "This forgets 1 snapshot of sales: v1. Go on?" in said
    code, said = answer("y")
    assert (code, len(tags_of(pipe))) == (0, 2)


def test_forgotten_snapshots_can_be_brought_back(run: Run, pipe: Pipe) -> None:
    done = run("-y", "forget", "sales@v1", "sales@v2")
    assert "pipefs forget sales@v1 --undo" in done.stdout
    assert time.strftime("back until %Y-", time.gmtime(time.time() + 86_400)) in done.stdout
    assert "pipefs prune sales" in done.stdout
    assert len(tags_of(pipe)) == 1
    run("diff", "sales", "v1", code=3)
    assert run("forget", "sales@v1", "--undo").stdout.startswith("back  v1")
    assert ["v1"] in tags_of(pipe).values()
    assert "was not forgotten" in run("forget", "sales@v1", "--undo", code=4).stderr
    assert run("forget", "sales@v9", "--undo", code=3)
    pipe.check()


def test_a_policy_says_what_stays_and_why(run: Run, pipe: Pipe) -> None:
    run("protect", "sales@v1")
    done = run("forget", "sales", "--keep-last", "1", "-n")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["kept", "kept", "would"]
    assert lines[0].endswith("last")
    assert lines[1].endswith("protected")
    found = json.loads(run("-y", "forget", "sales", "--keep-last", "1", "--json").stdout)
    assert [s["tags"] for s in found["forgotten"]] == [["v2"]]
    assert [s["reasons"] for s in found["kept"]] == [["last"], ["protected"]]
    assert sorted(tags_of(pipe).values()) == [[], ["v1"]]
    assert "nothing to forget" in run("-y", "forget", "sales", "--keep-within", "30d").stdout


def test_the_question_repeats_the_policy(run: Run, pipe: Pipe) -> None:
    done = run("forget", "sales", "--keep-last", "1", "--keep-tag", "v* x", code=4)
    assert "pipefs -y forget sales --keep-last 1 --keep-tag 'v* x'" in done.stderr


def test_a_policy_that_keeps_nothing_is_refused(run: Run, pipe: Pipe) -> None:
    done = run("-y", "forget", "sales", "--keep-tag", "nothing*", code=4)
    assert "every snapshot of the pipe" in done.stderr
    assert len(tags_of(pipe)) == 3


def test_what_to_forget_must_be_said(run: Run, pipe: Pipe) -> None:
    assert "which snapshots" in run("-y", "forget", "sales", code=2).stderr
    run("-y", "forget", "sales@v1", "--keep-last", "1", code=2)
    run("-y", "forget", "sales", "--keep-within", "soon", code=2)
    run("-y", "forget", "sales", "--keep-last", "0", code=2)
    run("-y", "forget", "sales@v1", "sales@v9", code=3)
    assert len(tags_of(pipe)) == 3


@promise(
    "retention-protected",
    "A protected snapshot cannot be forgotten, by name or by a policy, before it is unprotected.",
)
def test_protected_snapshots_are_refused_with_4(run: Run, pipe: Pipe) -> None:
    assert run("protect", "sales@v1", "sales@v2").stdout == "v1  protected\nv2  protected\n"
    done = run("-y", "forget", "sales@v1", code=4)
    assert "v1 is protected" in done.stderr
    assert "pipefs unprotect sales@v1" in done.stderr
    assert run("unprotect", "sales@v1").stdout == "v1  not protected any more\n"
    run("-y", "forget", "sales@v1")
    run("protect", "sales@v1", code=3)
    run("protect", "sales", code=2)


# --- prune and du -------------------------------------------------------------------------------


def test_dws_38_a_snapshot_is_deleted_with_what_only_it_had(
    run: Run, pipe: Pipe, a_day_later: None
) -> None:
    made = pipe.past().catalog.find("v1")
    run("-y", "forget", "sales@v1")
    said = run("prune", "sales").stdout
    assert "1 forgotten snapshot would go for good" in said
    assert "delete it: pipefs prune sales -y" in said
    assert b"0" in {pipe.store.get(v.key, v.version_id, 0, 9) for v in pipe.versions()}
    said = run("prune", "sales", "-y").stdout
    assert "1 forgotten snapshot went for good" in said
    assert "deleted" in said.splitlines()[-1]
    assert "for good" not in run("prune", "sales", "-y").stdout
    assert b"0" not in {pipe.store.get(v.key, v.version_id, 0, 9) for v in pipe.versions()}
    for key in (cat.object_key(made.id), manifest.key_of_object(made.body.root)):
        with pytest.raises(NotFound):
            pipe.store.head(key)
    run("forget", "sales@v1", "--undo", code=3)
    pipe.check()


def test_prune_only_reports_unless_it_is_told_yes(run: Run, pipe: Pipe, a_day_later: None) -> None:
    pipe.write("a.csv", b"newer")
    before = list(pipe.store.list_versions(""))
    report = json.loads(run("prune", "sales", "--json").stdout)
    assert report["dry_run"]
    kinds = {h["kind"]: h.get("versions") for h in report["report"]["held"]}
    assert (kinds["live"], kinds["snapshot"]) == (1, 1)
    assert sum(h["kind"] == "snapshot" for h in report["report"]["held"]) == 3
    run("prune", "sales", "-y", "-n")
    assert list(pipe.store.list_versions("")) == before
    done = json.loads(run("-y", "prune", "sales", "--json").stdout)["report"]
    assert done["deleted_versions"] > 0
    assert {pipe.store.get(v.key, v.version_id, 0, 9) for v in pipe.versions()} == {
        b"0", b"11", b"222", b"newer",
    }  # fmt: skip


def test_within_the_grace_period_nothing_goes(run: Run, pipe: Pipe) -> None:
    pipe.write("a.csv", b"newer")
    versions = len(pipe.versions())
    assert run("prune", "sales", "-y").stdout.splitlines()[-1] == "sales  0 versions deleted, 0 B"
    assert len(pipe.versions()) == versions
    assert "24 hours" in run("prune", "sales", "-y", "--grace", "1h", code=2).stderr
    run("prune", "sales", "--grace", "soon", code=2)


def test_du_counts_the_present_or_a_snapshot(run: Run, pipe: Pipe) -> None:
    pipe.machine.mkdir("d")
    pipe.write("d/b", b"12345")
    pipe.snapshot("v4")
    assert run("du", "sales@v2").stdout == "sales@v2  1 file, 2 B\n"
    assert run("du", "sales@v4").stdout == "sales@v4  2 files, 8 B\n"
    assert run("du", "sales@v4/d").stdout == "sales@v4/d  1 file, 5 B\n"
    found = json.loads(run("du", "sales@v4/d/b", "--json").stdout)
    assert (found["files"], found["bytes"]) == (1, 5)
    run("du", "sales@v4/nothing", code=3)
    assert json.loads(run("du", "sales", "--json").stdout)["snapshot"] == "live"


def test_du_versions_says_who_holds_the_past(run: Run, pipe: Pipe) -> None:
    pipe.write("other", b"12345")
    pipe.write("a.csv", b"again")
    found = json.loads(run("du", "sales", "--versions", "--json").stdout)["held"]
    by_label = {h.get("label") or h["kind"]: (h["versions"], h["bytes"]) for h in found}
    assert by_label["live"] == (2, 10)
    assert (by_label["v1"], by_label["v2"]) == ((1, 1), (1, 2))
    assert by_label["grace"] == (1, 3)
    assert by_label["own"][0] > 5
    lines = run("du", "sales/a.csv", "--versions").stdout.splitlines()
    assert lines[0].split() == ["live", "files", "1", "5", "B"]
    assert not any(".pipefs" in line for line in lines)
    run("du", "sales@v1", "--versions", code=2)
