"""What only the embedded store promises: plain files, other tools, other processes, power loss."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.errors import (
    Corrupt,
    NoSpace,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    UsageError,
)
from pipefs.stores import local, local_recovery
from pipefs.stores.base import Cancelled, FileBody
from pipefs.stores.local import LocalStore
from pipefs.stores.opening import open_store
from pipefs.stores.wrap import innermost
from tests.mounted import small_disk


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[LocalStore]:
    store = LocalStore(folder)
    yield store
    store.close()


def plain_files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and ".pipefs-store" not in p.parts
    }


def test_current_objects_are_plain_files_at_their_keys(store: LocalStore, folder: Path) -> None:
    store.put("a/b/c.csv", b"1,2")
    store.put("a/b/c.csv", b"1,2,3")
    store.put("top.txt", b"top")
    store.put("gone/deep/x", b"x")
    store.delete("gone/deep/x")
    assert plain_files(folder) == {"a/b/c.csv": b"1,2,3", "top.txt": b"top"}
    assert not (folder / "gone").exists()


def test_a_body_that_the_disk_cannot_take_is_refused_before_a_byte_is_written(
    tmp_path: Path,
) -> None:
    sent: list[int] = []
    with small_disk(tmp_path / "disk", "16m") as disk, (tmp_path / "sparse").open("wb+") as file:
        file.truncate(3 << 40)
        store = LocalStore(disk / "store")
        with pytest.raises(NoSpace):
            store.put("k", FileBody(file.fileno(), 3 << 40, progress=sent.append))
        assert sent == []
        assert list(store.list("")) == []
        assert store.put("small", b"fits").size == 4
        store.close()


def test_versions_are_readable_with_ordinary_tools(store: LocalStore, folder: Path) -> None:
    old = store.put("k", b"old content")
    store.put("k", b"new")
    assert old.version_id is not None
    name = old.version_id[-16:]
    path = folder / ".pipefs-store" / "versions" / name[:2] / name
    assert path.read_bytes() == b"old content"


def test_an_edit_in_place_is_a_new_version_and_changes_no_old_one(
    store: LocalStore, folder: Path
) -> None:
    made = store.put("k", b"as it was put")
    with open(folder / "k", "r+b") as file:
        file.write(b"AS")
    assert store.get("k", made.version_id, 0, 99) == b"as it was put"
    assert store.get("k", None, 0, 99) == b"AS it was put"
    with pytest.raises(PreconditionFailed):
        store.put("k", b"lost update", if_match=made.etag)
    assert len(list(store.list_versions("k"))) == 2


def test_files_made_and_removed_by_other_tools_are_seen(store: LocalStore, folder: Path) -> None:
    store.put("d/kept", b"1")
    store.put("d/removed", b"1")
    (folder / "d" / "removed").unlink()
    (folder / "d" / "made").write_bytes(b"made outside")
    os.symlink("kept", folder / "d" / "link")
    assert [v.key for v in store.list()] == ["d/kept", "d/made"]
    assert store.get("d/made", None, 0, 99) == b"made outside"
    with pytest.raises(NotFound):
        store.head("d/removed")
    with pytest.raises(PreconditionFailed):
        store.put("d/made", b"2", if_none_match=True)
    store.delete("d/made")
    assert not (folder / "d" / "made").exists()


def test_a_level_of_versions_sees_what_other_tools_did_there(
    store: LocalStore, folder: Path
) -> None:
    store.put("d/kept", b"1")
    store.put("d/removed", b"1")
    store.put("d/sub/known", b"1")
    (folder / "d" / "removed").unlink()
    (folder / "d" / "kept").write_bytes(b"written over")
    (folder / "d" / "made").write_bytes(b"made outside")
    (folder / "d" / "new" / "deep").mkdir(parents=True)
    (folder / "d" / "new" / "deep" / "x").write_bytes(b"made outside")
    (folder / "d" / "empty").mkdir()
    found = list(store.list_level_versions("d/"))
    versions = [(v.key, v.size, v.is_delete_marker) for v in found if not isinstance(v, str)]
    assert versions == [
        ("d/kept", 12, False),
        ("d/kept", 1, False),
        ("d/made", 12, False),
        ("d/removed", 0, True),
        ("d/removed", 1, False),
    ]
    assert [v for v in found if isinstance(v, str)] == ["new", "sub"]
    deep = list(store.list_level_versions("d/new/deep/"))
    assert [v.key for v in deep if not isinstance(v, str)] == ["d/new/deep/x"]


def test_keys_without_a_file_name_have_no_plain_file_and_all_else(
    store: LocalStore, folder: Path
) -> None:
    odd = ["a//b", "../up", "x/./y", "d/", "n" * 256, ".pipefs-store/index/data.mdb", "\0"]
    for key in odd:
        store.put(key, key.encode())
    assert plain_files(folder) == {}
    assert not (folder.parent / "up").exists()
    assert sorted(v.key for v in store.list()) == sorted(odd)
    for key in odd:
        assert store.get(key, None, 0, 999) == key.encode()
    names = [v if isinstance(v, str) else v.key for v in store.list_level_versions()]
    assert sorted(names) == sorted(["\0", "..", ".pipefs-store", "a", "d", "n" * 256, "x"])
    assert [v for v in store.list_level_versions("a/") if isinstance(v, str)] == [""]


def test_long_keys_with_one_beginning_keep_apart(store: LocalStore) -> None:
    begin = "/".join(["p" * 200] * 4)
    names = [f"{begin}/{n}" for n in range(5)]
    for name in names:
        store.put(name, name.encode())
        store.put(name, name.encode())
    assert sorted(v.key for v in store.list(f"{begin}/")) == names
    assert len(list(store.list_versions(names[2]))) == 2
    assert store.list_dirs(begin.rpartition("/")[0] + "/") == ["p" * 200]
    assert list(store.list_level_versions(begin.rpartition("/")[0] + "/")) == ["p" * 200]
    assert len(list(store.list_level_versions(f"{begin}/"))) == 10
    assert store.get(names[3], None, 0, 9999) == names[3].encode()


RACER = """
import sys
from pipefs.errors import PreconditionFailed
from pipefs.stores.local import LocalStore
store = LocalStore(sys.argv[1])
sys.stdin.readline()
for n in range(40):
    try:
        store.put(f"race/{n}", sys.argv[2].encode(), if_none_match=True)
        print(n)
    except PreconditionFailed:
        pass
"""


def test_processes_race_for_a_key_and_one_wins(store: LocalStore, folder: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(folder), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    wins = [[int(line) for line in r.communicate(timeout=60)[0].split()] for r in racers]
    assert sorted(n for won in wins for n in won) == list(range(40))
    for who, won in enumerate(wins):
        for n in won:
            assert store.get(f"race/{n}", None, 0, 9) == str(who).encode()


def test_store_opened_before_a_fork_works_after_it(folder: Path, store: LocalStore) -> None:
    store.put("before", b"1")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store.put("inherited", b"2")
            child = LocalStore(folder)
            child.put("child", child.get("before", None, 0, 9))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.get("child", None, 0, 9) == b"1"
    assert store.get("inherited", None, 0, 9) == b"2"


def test_two_stores_of_one_directory_in_one_process_agree(folder: Path, store: LocalStore) -> None:
    other = LocalStore(folder)
    made = store.put("k", b"1")
    assert other.head("k").version_id == made.version_id
    other.close()
    store.put("k", b"2", if_match=made.etag)


def test_plain_files_torn_by_power_loss_are_written_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(folder)
    for key in ("torn", "missing", "d/kept"):
        store.put(key, b"durable content")
    store.close()
    status = os.stat(folder / "torn")
    (folder / "torn").write_bytes(b"")
    os.utime(folder / "torn", ns=(status.st_atime_ns, status.st_mtime_ns))
    (folder / "missing").unlink()
    monkeypatch.setattr(local.files, "boot_id", lambda: "another start of the machine")
    store = LocalStore(folder)
    assert plain_files(folder) == dict.fromkeys(["torn", "missing", "d/kept"], b"durable content")
    assert [len(list(store.list_versions(k))) for k in ("torn", "missing")] == [1, 1]
    store.close()


def test_small_contents_lost_by_power_loss_come_back_from_the_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(folder)
    made = [store.put(f"k{n}", b"small %d" % n) for n in range(3)]
    # Not closed, as in a crash: nothing has been settled. The disk lost one file, cut another.
    files = [
        folder / ".pipefs-store" / "versions" / v.version_id[-16:][:2] / v.version_id[-16:]
        for v in made
        if v.version_id is not None
    ]
    files[0].unlink()
    os.truncate(files[1], 0)
    monkeypatch.setattr(local_recovery.files, "boot_id", lambda: "another start of the machine")
    again = LocalStore(folder)
    for n, version in enumerate(made):
        assert again.get(version.key, version.version_id, 0, 99) == b"small %d" % n
        assert files[n].read_bytes() == b"small %d" % n
    again.close()
    store.close()


def test_many_small_puts_are_settled_into_files(folder: Path, store: LocalStore) -> None:
    for n in range(local_recovery.SETTLE_AT + 5):
        store.put(f"k{n}", b"%d" % n)
    assert len(store._index.fresh()) < local_recovery.SETTLE_AT
    other = LocalStore(folder)
    other.close()
    assert store._index.fresh() == []


def test_failed_and_cancelled_puts_leave_no_files(store: LocalStore, folder: Path) -> None:
    made = store.put("k", b"1")
    with open(folder / "k", "rb") as file, pytest.raises(Cancelled):
        store.put("k", FileBody(file.fileno(), 1, cancelled=lambda: True))
    with pytest.raises(PreconditionFailed):
        store.put("k", b"2", if_none_match=True)
    side = folder / ".pipefs-store"
    assert len([p for p in (side / "versions").rglob("*") if p.is_file()]) == 1
    assert list((side / "tmp").iterdir()) == []
    assert made.version_id is not None
    store.delete_version("k", made.version_id)
    assert [p for p in (side / "versions").rglob("*") if p.is_file()] == []


def test_a_version_file_that_was_cut_is_corrupt_and_never_short(
    store: LocalStore, folder: Path
) -> None:
    made = store.put("k", b"0123456789")
    assert made.version_id is not None
    name = made.version_id[-16:]
    os.truncate(folder / ".pipefs-store" / "versions" / name[:2] / name, 4)
    with pytest.raises(Corrupt):
        store.get("k", made.version_id, 0, 10)


def test_open_store_takes_file_urls_and_refuses_others(folder: Path) -> None:
    store = open_store(f"file://{folder}/with%20space")
    store.put("k", b"1")
    assert (folder / "with space" / "k").read_bytes() == b"1"
    assert isinstance(innermost(store), LocalStore)
    assert store.url == f"file://{folder}/with%20space"
    store.close()
    for url in ("file://host/dir", "file:///", "ftp://x/y", "/plain/path", "file:///a?b"):
        with pytest.raises(UsageError):
            open_store(url)


def test_a_folder_that_went_away_is_a_store_that_does_not_answer(
    store: LocalStore, folder: Path
) -> None:
    store.put("a", b"1")
    store.put("b", b"2")
    before = list(store.list_versions())
    folder.rename(folder.with_name("away"))
    requests: list[Callable[[], object]] = [
        lambda: store.head("a"),
        lambda: store.get("a", None, 0, 9),
        lambda: list(store.list()),
        lambda: list(store.list_versions()),
        lambda: store.put("a", b"new"),
        lambda: store.delete("b"),
    ]
    for request in requests:
        with pytest.raises(StoreUnavailable, match="is not there any more"):
            request()
    assert not folder.exists()
    folder.with_name("away").rename(folder)
    assert list(store.list_versions()) == before
    assert store.get("a", None, 0, 9) == b"1"


def test_a_file_in_the_way_of_the_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError) as caught:
        LocalStore(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
