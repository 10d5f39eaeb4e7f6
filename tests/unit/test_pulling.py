"""Pull: from a pipe into a plain folder, without a mount."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipefs.errors import (
    AccessDenied,
    Busy,
    Conflict,
    Corrupt,
    NoSpace,
    NotAccepted,
    NotFound,
    StoreUnavailable,
    UsageError,
)
from pipefs.folder import fetching
from pipefs.folder.pulling import is_synced
from pipefs.folder.record import Record
from pipefs.folder.reports import PartlyMoved
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore, WrapperStore
from tests.folders import User
from tests.promises.promised import promise
from tests.replicas import requests


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.put("a.csv", b"1", metadata={"mtime": "1700000000.25", "mode": "33184"})
    store.put("d/b.csv", b"22", metadata={"mtime": "1700000100"})
    store.put("d/c.txt", b"333", metadata={"mtime": "1700000200"})
    return store


@pytest.fixture
def ann(tmp_path: Path, store: LocalStore) -> Iterator[User]:
    user = User(tmp_path, tmp_path / "store", "ann")
    yield user
    user.close()


ALL = {"a.csv": "1", "d/b.csv": "22", "d/c.txt": "333"}


def test_d6_05_pull_brings_files_with_times_and_modes(ann: User, store: LocalStore) -> None:
    report = ann.pull()
    assert ann.has() == ALL
    assert report.files == ["a.csv", "d/b.csv", "d/c.txt"]
    assert (report.bytes, report.dry_run, report.direction) == (6, False, "pull")
    first = report.files[0]
    assert (first.size, first.is_new, first.version) == (1, True, store.head("a.csv").version_id)
    assert first.modified_at.isoformat() == "2023-11-14T22:13:20.250000+00:00"
    status = (ann.path / "a.csv").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (1_700_000_000_250_000_000, 0o640)
    mask = fetching._umask()
    assert stat.S_IMODE((ann.path / "d/b.csv").stat().st_mode) == 0o666 & ~mask


def test_d6_05_what_is_in_step_is_not_fetched_again(ann: User, store: LocalStore) -> None:
    ann.pull()
    before = requests(ann.replica)
    assert ann.pull(cached=True).files == []
    assert requests(ann.replica) - before <= 3
    store.put("a.csv", b"new")
    assert ann.pull().files == ["a.csv"]
    assert ann.has() == {**ALL, "a.csv": "new"}


def test_d6_06_a_preview_says_what_would_be_done_and_does_nothing(ann: User) -> None:
    report = ann.pull(dry_run=True)
    assert report.files == list(ALL)
    assert (report.bytes, report.dry_run) == (6, True)
    assert not ann.path.exists()
    assert is_synced(ann.replica, ann.folder) == list(ALL)


def test_d6_10_modes_of_a_pull(ann: User, store: LocalStore) -> None:
    ann.pull("a.csv")
    store.put("a.csv", b"changed")
    assert ann.pull(mode="new", dry_run=True).files == ["d/b.csv", "d/c.txt"]
    assert ann.pull(mode="mod", dry_run=True).files == ["a.csv"]
    assert ann.pull(mode="all").files == list(ALL)
    assert ann.pull(mode="all").files == list(ALL)


def test_d6_11_named_files_are_fetched_whatever_is_there(ann: User) -> None:
    ann.pull()
    ann.write("a.csv", "mine, and not wanted")
    assert ann.pull().files == []
    report = ann.pull("a.csv", "./d/b.csv")
    assert (report.files, report.lost) == (["a.csv", "d/b.csv"], ["a.csv"])
    assert ann.has() == ALL
    with pytest.raises(NotFound, match=r"there is no file none\.csv in the pipe p"):
        ann.pull("none.csv", "a.csv")
    for path in ("../a", ".pipefs/pipe.json", "d/.snapshots/x"):
        with pytest.raises(UsageError):
            ann.pull(path)


def test_d6_12_a_pull_of_what_the_filters_take(ann: User) -> None:
    assert ann.pull(include="*.csv", exclude="d/*").files == ["a.csv"]
    assert ann.pull(include="*.csv|*.txt", exclude="*.txt").files == ["d/b.csv"]


def test_d6_14_the_newest_and_the_oldest(ann: User) -> None:
    assert ann.pull(nrecent=1).files == ["d/c.txt"]
    assert ann.pull(nrecent=1).files == []
    assert ann.pull(nrecent=-1).files == ["a.csv"]
    assert ann.pull(nrecent=0).files == ["d/b.csv"]


def test_d6_15_changed_on_both_sides(ann: User, store: LocalStore) -> None:
    ann.pull()
    ann.write("a.csv", "mine")
    store.put("a.csv", b"theirs")
    store.put("new.csv", b"n")
    with pytest.raises(Conflict, match=r"changed here and in the pipe.*a\.csv") as raised:
        ann.pull()
    assert f"resolve p/a.csv --dest {ann.path} --keep mine|theirs|both" in raised.value.hint
    assert ann.has() == {**ALL, "a.csv": "mine"}
    report = ann.pull(merge_mode="keep")
    assert (report.files, report.kept) == (["new.csv"], ["a.csv"])
    assert ann.has()["a.csv"] == "mine"
    assert ann.pull().files == []
    store.put("a.csv", b"theirs again")
    report = ann.pull(merge_mode="overwrite")
    assert (report.files, report.lost) == (["a.csv"], ["a.csv"])
    assert ann.has()["a.csv"] == "theirs again"


def test_d6_15_the_same_change_on_both_sides_is_no_conflict(ann: User, store: LocalStore) -> None:
    ann.pull()
    ann.write("a.csv", "same")
    store.put("a.csv", b"same")
    assert ann.pull().files == []
    store.put("a.csv", b"later")
    assert ann.pull().files == ["a.csv"]


def test_d6_15_a_file_that_was_only_touched_is_no_change(ann: User, store: LocalStore) -> None:
    ann.pull()
    os.utime(ann.path / "a.csv")
    store.put("a.csv", b"2")
    assert ann.pull().files == ["a.csv"]


def test_files_that_are_equal_on_both_sides_are_not_fetched(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.write("a.csv", "1")
    ann.write("d/b.csv", "22", mtime=1_700_000_100)
    faulty = FaultStore(ann.replica.store)
    faulty.fail("get", key="*.csv")
    monkeypatch.setattr(type(ann.replica), "store", property(lambda _self: faulty))
    assert ann.pull(include="*.csv").files == []
    ann.write("d/c.txt", "xxx")
    with pytest.raises(Conflict):
        ann.pull()


def test_d6_16_what_other_tools_wrote_is_looked_for_every_five_minutes(
    ann: User, store: LocalStore
) -> None:
    ann.pull()
    store.put("other.csv", b"o")
    assert ann.pull(cached=True).files == []
    assert ann.pull(cached=False).files == ["other.csv"]


def test_d6_23_is_synced(ann: User, store: LocalStore) -> None:
    ann.pull()
    assert is_synced(ann.replica, ann.folder) == []
    ann.write("mine.csv", "not pushed")
    assert is_synced(ann.replica, ann.folder) == []
    store.put("d/c.txt", b"changed")
    assert is_synced(ann.replica, ann.folder) == []
    assert is_synced(ann.replica, ann.folder, cached=False) == ["d/c.txt"]


def test_d6_54_readme_and_license_are_named_when_they_come_and_when_they_change(
    ann: User, store: LocalStore
) -> None:
    store.put("README.md", b"# Sales")
    store.put("LICENSE.md", b"free")
    store.put("d/README.md", b"not of the pipe")
    assert ann.pull().documents == ["README.md", "LICENSE.md"]
    assert ann.pull(mode="default").documents == []
    store.put("README.md", b"# Sales, corrected")
    assert ann.pull().documents == ["README.md"]


def test_a_file_deleted_here_comes_again_and_one_deleted_there_stays(
    ann: User, store: LocalStore
) -> None:
    ann.pull()
    (ann.path / "a.csv").unlink()
    store.delete("d/b.csv")
    assert ann.pull().files == ["a.csv"]
    assert ann.has() == ALL


# --- safety -------------------------------------------------------------------------------------


@promise(
    "pull-both-changed",
    "A pull never overwrites a file that was changed here without being told to, also when "
    "that happens while it runs.",
)
def test_a_change_during_the_pull_is_never_overwritten(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann.pull()
    for key in ("a.csv", "d/b.csv", "new.csv"):
        store.put(key, b"theirs")
    real = fetching.land

    def meanwhile(part: str, place: str, before: object) -> object:
        name = os.path.relpath(place, ann.path)
        if name != "d/b.csv":
            ann.write(name, "mine, just now")
        return real(part, place, before)  # type: ignore[arg-type]  # what land takes

    monkeypatch.setattr(fetching, "land", meanwhile)
    with pytest.raises(PartlyMoved) as raised:
        ann.pull()
    monkeypatch.undo()
    report = raised.value.report
    assert (report.files, sorted(report.failed)) == (["d/b.csv"], ["a.csv", "new.csv"])
    assert ann.has() == {
        **ALL,
        "a.csv": "mine, just now",
        "d/b.csv": "theirs",
        "new.csv": "mine, just now",
    }
    with pytest.raises(Conflict, match=r"a\.csv, new\.csv"):
        ann.pull()


class LyingStore(WrapperStore):
    """Sends other bytes than the version has."""

    def get(self, key: str, version_id: str | None, start: int, length: int) -> bytes:
        found = super().get(key, version_id, start, length)
        return found.replace(b"333", b"3x3")


@promise(
    "pull-checked",
    "A pulled file has its name only with the bytes that the pipe has by checksum, and "
    "their time and mode.",
)
def test_wrong_bytes_never_get_the_files_name(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    lying = LyingStore(ann.replica.store)
    monkeypatch.setattr(type(ann.replica), "store", property(lambda _self: lying))
    with pytest.raises(PartlyMoved, match=r"1 of 3 files were not pulled; d/c\.txt"):
        ann.pull()
    assert ann.has() == {"a.csv": "1", "d/b.csv": "22"}


def test_what_was_done_before_the_store_failed_stays_done(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        store.put(f"many/{n:02}", b"x")
    faulty = FaultStore(ann.replica.store)
    faulty.fail("get", key="many/20", times=100)
    monkeypatch.setattr(type(ann.replica), "store", property(lambda _self: faulty))
    with pytest.raises(StoreUnavailable):
        ann.pull()
    monkeypatch.undo()
    done = set(ann.has())
    assert "many/20" not in done
    assert set(ann.pull().files) == {*ALL, *(f"many/{n:02}" for n in range(40))} - done


def test_credentials_that_expire_end_a_pull_and_a_missing_right_does_not(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = FaultStore(ann.replica.store)
    monkeypatch.setattr(type(ann.replica), "store", property(lambda _self: faulty))
    faulty.fail("get", lambda: NotAccepted("expired", hint="aws sso login"), key="a.csv")
    with pytest.raises(NotAccepted) as ended:
        ann.pull()
    assert ended.value.exit_code == 5 and ended.value.hint == "aws sso login"
    faulty.fail("get", lambda: AccessDenied("not allowed"), key="a.csv")
    with pytest.raises(PartlyMoved, match=r"a\.csv: not allowed"):
        ann.pull()
    assert (ann.path / "d/b.csv").exists() and not (ann.path / "a.csv").exists()


def test_a_large_file_goes_on_from_its_part(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PIECE_BYTES", 1000)
    body = bytes(range(256)) * 40
    store.put("large", body)
    faulty = FaultStore(ann.replica.store)
    faulty.fail("get", key="large", skip=6, times=100)
    monkeypatch.setattr(type(ann.replica), "store", property(lambda _self: faulty))
    with pytest.raises(StoreUnavailable):
        ann.pull("large")
    (part,) = ann.path.glob(".pipefs-part-*")
    left = part.stat().st_size
    assert left % 1000 == 0 and 3000 <= left <= 6000
    monkeypatch.setattr(type(ann.replica), "store", property(lambda _self: faulty.inner))
    before = requests(ann.replica, "get")
    assert ann.pull("large", cached=True).files == ["large"]
    monkeypatch.undo()
    assert requests(ann.replica, "get") - before <= (len(body) - left) / 1000 + 3
    assert (ann.path / "large").read_bytes() == body
    assert not list(ann.path.glob(".pipefs-part-*"))


def test_a_part_with_wrong_bytes_is_fetched_anew(
    ann: User, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PIECE_BYTES", 1000)
    body = bytes(range(256)) * 40
    version = store.put("large", body)
    remote = fetching.Remote(len(body), 0, "large", version.version_id, version.etag)
    ann.write(fetching._part_name("large", remote), b"\0" * 5000)
    assert ann.pull("large").files == ["large"]
    assert (ann.path / "large").read_bytes() == body


def test_one_pull_of_a_folder_at_a_time(ann: User) -> None:
    with (
        Record(ann.replica.home, ann.folder.path, ann.replica.pipe.pipe_id),
        pytest.raises(Busy, match="another pull or push"),
    ):
        ann.pull()
    ann.pull()


def test_a_record_that_does_not_fit_on_the_disk_is_not_damaged(ann: User) -> None:
    ann.pull()
    with Record(ann.replica.home, ann.folder.path, ann.replica.pipe.pipe_id) as record:
        known = record.known()
        # What SQLite says of a file that may not grow is what it says on a full disk.
        record._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(NoSpace, match="cannot be written"):
            record.put({f"{n:0200}": next(iter(known.values())) for n in range(200)})
        assert record.known() == known
        record._db.execute("PRAGMA max_page_count = 100000")
        record.put(known)
    record.file.write_bytes(b"nothing that SQLite knows" * 100)
    with pytest.raises(Corrupt, match="cannot be read"):
        ann.pull()


def test_links_in_the_folder_are_followed(ann: User, tmp_path: Path, store: LocalStore) -> None:
    (tmp_path / "big-disk").mkdir()
    ann.path.mkdir()
    (ann.path / "d").symlink_to(tmp_path / "big-disk")
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text("1")
    (ann.path / "a.csv").symlink_to(elsewhere)
    ann.pull()
    assert (tmp_path / "big-disk/b.csv").read_text() == "22"
    store.put("a.csv", b"new")
    ann.pull()
    assert (ann.path / "a.csv").is_symlink()
    assert elsewhere.read_text() == "new"
