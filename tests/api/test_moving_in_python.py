"""Push, previews and orphans of a pipe in Python; pull has tests beside its library."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipefs import Pipe
from pipefs.errors import Conflict, PartlyDone, ReadOnly, Refused, UsageError
from pipefs.stores.local import LocalStore


def test_d6_07_push_and_its_preview(pipe: Pipe, ram_path: Path) -> None:
    (pipe.dirpath / "a.csv").write_text("1")
    assert (list(pipe.push_preview()), pipe.push_preview().bytes) == (["a.csv"], 1)
    said = repr(pipe.push_preview())
    assert said == f"<sales: 1 file, 1 B would be pushed from {pipe.dirpath}>"
    assert pipe.scan_remote() == []
    pipe.setmode("mod")
    assert list(pipe.push()) == [] and list(pipe.push(mode="new")) == ["a.csv"]
    pipe.setmode("default")
    (ram_path / "other").mkdir()
    (ram_path / "other" / "b.csv").write_text("2")
    with pytest.raises(Conflict, match=r"not pulled: a\.csv"):
        pipe.push(dest=ram_path / "other")
    assert list(pipe.push(["b.csv"], dest=ram_path / "other")) == ["b.csv"]
    with pytest.raises(Conflict, match=r"not pulled: b\.csv"):
        pipe.is_synced(israise=True)
    assert not pipe.is_synced(dest=ram_path / "other")
    for wrong in ({"mode": "newest"}, {"files": ["../a"]}):
        with pytest.raises(UsageError):
            pipe.push(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_d6_24_orphans_are_previewed_unless_asked_for(pipe: Pipe, store: LocalStore) -> None:
    pipe.put("1", "both.csv")
    pipe.pull()
    pipe.put("2", "there.csv")
    store.put("d/there.txt", b"3")
    for name in ("here.csv", "d/here.txt"):
        (pipe.dirpath / name).parent.mkdir(exist_ok=True)
        (pipe.dirpath / name).write_text("h")
    with pytest.warns(UserWarning, match="takes dryrun=False"):
        assert pipe.remove_orphans() == {"local": ["d/here.txt", "here.csv"], "remote": []}
    assert pipe.remove_orphans(["here.csv", "both.csv"], dryrun=False)["local"] == ["here.csv"]
    found = pipe.remove_orphans(direction="remote", dryrun=False, include="*.csv")
    assert found == {"local": [], "remote": ["there.csv"]}
    found = pipe.remove_orphans(direction="both", dryrun=False, cached=False)
    assert found == {"local": ["d/here.txt"], "remote": ["d/there.txt"]}
    assert found["remote"][0].size == 1
    assert pipe.scan_remote() == pipe.scan_local() == ["both.csv"]
    assert not (pipe.dirpath / "d").exists()
    with pytest.raises(UsageError):
        pipe.remove_orphans(direction="up")


def test_d6_24_an_orphan_that_changes_meanwhile_stays(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = pipe.dirpath / "here.csv"
    place.write_text("h")
    from pipefs.folder import orphans

    real = orphans.delete_there

    def meanwhile(*given: object) -> None:
        place.write_text("written just now")
        real(*given)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(orphans, "delete_there", meanwhile)
    with pytest.raises(PartlyDone, match=r"1 file stayed; here\.csv: changed just now"):
        pipe.remove_orphans(dryrun=False)
    assert place.read_text() == "written just now"


def test_a_snapshot_has_no_folder_in_step_with_it(pipe: Pipe) -> None:
    pipe.put("1", "a.csv")
    pipe.snapshot("v1")
    past = Pipe("sales@v1")
    for call in (past.pull, past.push, past.is_synced, past.reset, past.remove_orphans):
        with pytest.raises(ReadOnly, match="sales@v1 is a snapshot") as raised:
            call()
        assert "pipefs get sales@v1/ FOLDER" in raised.value.hint
    with pytest.raises(Refused, match="opened offline"):
        Pipe("sales", offline=True).push()
