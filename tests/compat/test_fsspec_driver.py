"""`pipefs://` beyond fsspec's suites: the past, other processes, publishing together, refusals."""

from __future__ import annotations

import importlib
import io
import multiprocessing
import pickle
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipefs import reaching, replicated
from pipefs.commits import CommitLog
from pipefs.fsspec_driver import PipeFileSystem
from pipefs.home import resolve_home
from pipefs.reaching import Reach
from pipefs.registry import Registry
from pipefs.stores.local import LocalStore
from tests.machines import Machine
from tests.pasts import open_past, put_files, take
from tests.promises.promised import promise


@pytest.fixture
def store(ram_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """The store of the registered pipe "p", with the snapshot v1 and a file that is newer."""
    monkeypatch.setenv("PIPEFS_HOME", str(ram_path / "home"))
    store = LocalStore(ram_path / "store")
    Registry(resolve_home()).add("p", (ram_path / "store").as_uri(), "", {})
    entries = put_files(store, {"a.csv": b"x\n1\n", "d/b.csv": b"2" * 20, "d/e/c.txt": b"hello"})
    take(open_past(store), entries, tag="v1")
    store.put("a.csv", b"x\n2\n")
    return store


@pytest.fixture
def fs(store: LocalStore) -> PipeFileSystem:
    return PipeFileSystem(skip_instance_cache=True)


@pytest.fixture
def machine(ram_path: Path, store: LocalStore) -> Iterator[Machine]:
    found = Machine(ram_path / "machine", store, name="m")
    yield found
    found.close()


def commits(store: LocalStore) -> int:
    return CommitLog(store, author="t", writer="t").last_number()


@promise(
    "url-present",
    "`pipefs://NAME/PATH` is the present as the commits tell it, at most a second old: "
    "what a mount has not sent up yet is not in it, and what other tools wrote as of a "
    "listing, at most five minutes old.",
)
def test_present_and_past_by_one_url(
    fs: PipeFileSystem, store: LocalStore, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fs.cat("p/a.csv") == b"x\n2\n"
    assert fs.cat("p@v1/a.csv") == fs.cat("p@latest/a.csv") == b"x\n1\n"
    assert fs.find("p@v1") == ["p@v1/a.csv", "p@v1/d/b.csv", "p@v1/d/e/c.txt"]
    assert fs.glob("p@v1/**/*.txt") == ["p@v1/d/e/c.txt"]
    assert fs.ls("p@v1/d", detail=False) == ["p@v1/d/b.csv", "p@v1/d/e"]
    assert fs.ls("", detail=False) == ["p"]
    assert fs.cat_ranges(["p@v1/d/e/c.txt"] * 3, [0, -2, 1], [2, None, -1]) == [
        b"he",
        b"lo",
        b"ell",
    ]
    with fsspec.open("pipefs://p@v1/d/e/c.txt", "rt") as file:
        assert file.read() == "hello"
    assert fs.checksum("p@v1/a.csv") != fs.checksum("p/a.csv")
    assert fs.checksum("p@v1/d/b.csv") == fs.checksum("p/d/b.csv")
    assert fs.info("p/d") | {"mtime": 0} == {
        "name": "p/d",
        "size": 0,
        "type": "directory",
        "mtime": 0,
        "mode": None,
    }
    monkeypatch.setattr(reaching, "FRESH_S", 0.0)
    machine.reconcile()
    machine.write("new.csv", b"1")
    assert not fs.exists("p/new.csv")
    machine.sync()
    assert fs.exists("p/new.csv")
    store.put("of-another-tool", b"1")
    assert not fs.exists("p/of-another-tool")
    monkeypatch.setattr(replicated, "STALE_S", 0.0)
    assert fs.exists("p/of-another-tool")


@promise(
    "url-version",
    "A file opened by a URL is one version to its end, whatever happens to its path.",
)
def test_an_open_file_is_one_version(fs: PipeFileSystem, store: LocalStore) -> None:
    with fs.open("p/a.csv", block_size=2) as file:
        assert file.read(2) == b"x\n"
        fs.pipe("p/a.csv", b"y" * 100)
        assert file.read() == b"2\n"
    assert fs.cat("p/a.csv") == b"y" * 100


@promise(
    "url-past",
    "`pipefs://NAME@SNAP/PATH` is a snapshot or a moment, which never changes: to write "
    "there is `EROFS`.",
)
def test_the_past_never_changes(fs: PipeFileSystem) -> None:
    for change in (
        lambda: fs.pipe("p@v1/a.csv", b"1"),
        lambda: fs.rm("p@v1/a.csv"),
        lambda: fs.open("p@v1/new", "wb"),
        lambda: fs.mkdir("p@v1/new"),
        lambda: fs.cp("p/a.csv", "p@v1/new"),
    ):
        with pytest.raises(OSError, match=r"p@v1 is the past, which never changes"):
            change()


def test_a_file_comes_out_of_a_snapshot_without_its_bytes(
    fs: PipeFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> bytes:
        raise AssertionError("the store copies it itself")

    with monkeypatch.context() as patch:
        patch.setattr(Reach, "read", never)
        fs.cp("p@v1/a.csv", "p/restored.csv")
        fs.mv("p/d", "p/moved", recursive=True)
    assert fs.cat("p/restored.csv") == b"x\n1\n"
    assert fs.find("p") == ["p/a.csv", "p/moved/b.csv", "p/moved/e/c.txt", "p/restored.csv"]


def test_many_files_are_one_commit(
    fs: PipeFileSystem, store: LocalStore, tmp_path: Path, machine: Machine
) -> None:
    fs.ls("p")
    for n in range(30):
        (tmp_path / f"{n}.txt").write_text(str(n))
    before = commits(store)
    fs.put([str(p) for p in sorted(tmp_path.iterdir())], "p/many/")
    fs.cp("p/many", "p/again", recursive=True)
    fs.rm("p/many", recursive=True)
    assert commits(store) - before == 3
    machine.sync()
    assert {f"again/{n}.txt" for n in range(30)} < set(machine.tree())
    fs.get("p/again", str(tmp_path / "back"), recursive=True)
    assert len(list((tmp_path / "back").iterdir())) == 30


@promise(
    "url-together",
    "Files written in one `with fs.transaction` are announced by one commit a pipe, so "
    "another machine sees all of them or none.",
)
def test_a_transaction_is_seen_whole_or_not(fs: PipeFileSystem, store: LocalStore) -> None:
    fs.ls("p")
    before = commits(store)
    with fs.transaction:
        with fs.open("p/t/1", "wb") as one:
            one.write(b"1")
        fs.pipe("p/t/2", b"2")
        assert not fs.exists("p/t")
    first = CommitLog(store, author="t", writer="t").read(before + 1)
    assert first is not None and [c.path for c in first.commit.changes] == ["t/1", "t/2"]
    assert fs.cat("p/t", recursive=True) == {"p/t/1": b"1", "p/t/2": b"2"}
    with pytest.raises(KeyError), fs.transaction:
        fs.pipe("p/t/3", b"3")
        raise KeyError
    assert not fs.exists("p/t/3")


@promise(
    "url-write",
    "What is written to a URL is in the store and shows on every machine when it is "
    "closed, whole; what an error in its `with` block cut short is not there at all.",
)
def test_what_an_error_cut_short_is_not_published(fs: PipeFileSystem) -> None:
    with pytest.raises(KeyError), fs.open("p/half", "wb") as file:
        file.write(b"half")
        raise KeyError
    assert not fs.exists("p/half")


@promise(
    "url-append",
    "What is appended by a URL takes the place of the version that it was read from; when "
    "that was changed meanwhile the new one stays, and the append is `ESTALE`.",
)
def test_appending_takes_the_place_of_what_was_read(fs: PipeFileSystem, store: LocalStore) -> None:
    with fs.open("p/a.csv", "ab") as file:
        assert file.tell() == 4
        file.write(b"3\n")
    assert fs.cat("p/a.csv") == b"x\n2\n3\n"
    with pytest.raises(OSError, match="changed by somebody else"), fs.open("p/a.csv", "ab") as file:
        file.write(b"mine")
        store.put("a.csv", b"theirs")
    assert store.get("a.csv", None, 0, 100) == b"theirs"
    with fs.open("p/fresh", "ab") as file:
        file.write(b"1")
    assert fs.cat("p/fresh") == b"1"


def test_metadata_modes_and_folders(fs: PipeFileSystem, store: LocalStore, tmp_path: Path) -> None:
    with fs.open("p/m", "wb", metadata={"author": "maria"}) as file:
        file.write(b"1")
    assert fs.info("p/m")["metadata"] == {"author": "maria"}
    assert store.head("m").metadata["author"] == "maria"
    assert fs.info("p/m")["mode"] is None  # as a mount shows what has none
    (tmp_path / "mine").write_bytes(b"1")
    (tmp_path / "mine").chmod(0o600)
    fs.put_file(str(tmp_path / "mine"), "p/m2")
    with fs.open("p/m2", "wb") as file:
        file.write(b"2")
    assert fs.info("p/m2")["mode"] == 0o600
    fs.makedirs("p/x/y")
    with pytest.raises(FileExistsError):
        fs.makedirs("p/x/y")
    with pytest.raises(FileNotFoundError):
        fs.mkdir("p/q/r", create_parents=False)
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("p/x")
    fs.rmdir("p/x/y")
    assert fs.ls("p/x") == []
    with pytest.raises(IsADirectoryError):
        fs.cat_file("p/x")
    with pytest.raises(FileNotFoundError):
        fs.rm("p/none")
    fs.touch("p/m", truncate=False)
    assert fs.modified("p/m").timestamp() > fs.modified("p@v1/a.csv").timestamp()


def test_links_are_what_they_lead_to(fs: PipeFileSystem, machine: Machine) -> None:
    machine.reconcile()
    machine.symlink("to", "d/e")
    machine.symlink("d/up", "../a.csv")
    machine.symlink("broken", "none")
    machine.symlink("out", "../../etc")
    machine.sync()
    assert fs.cat("p/to/c.txt") == b"hello" and fs.cat("p/d/up") == b"x\n2\n"
    assert fs.ls("p/to", detail=False) == ["p/to/c.txt"]
    kinds = {i["name"]: i["type"] for i in fs.ls("p")}
    assert kinds["p/to"] == "directory" and kinds["p/broken"] == "other"
    with pytest.raises(FileNotFoundError):
        fs.open("p/broken")
    with pytest.raises(OSError, match="Invalid cross-device"):
        fs.ls("p/out")


def test_errors_say_what_to_do(fs: PipeFileSystem) -> None:
    with pytest.raises(TypeError, match="no option pips"):
        PipeFileSystem(pips={})
    with pytest.raises(FileNotFoundError, match="pipefs list"):
        fs.ls("q")
    with pytest.raises(FileNotFoundError, match="no snapshot"):
        fs.ls("p@none")
    with pytest.raises(FileNotFoundError):
        fs.cat("p/none")
    with pytest.raises(NotADirectoryError):
        fs.info("p/a.csv/b")
    with pytest.raises(OSError, match="belongs to pipefs"):
        fs.cat("p/.pipefs/format.json")


# --- other processes ----------------------------------------------------------------------------


def _read(pickled: bytes, path: str, out: Any) -> None:
    fs = pickle.loads(pickled)
    out.send(fs.cat(path))


def test_another_process_needs_no_registry_and_means_the_same_snapshot(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fs, path = fsspec.core.url_to_fs("pipefs://p@latest/a.csv", skip_instance_cache=True)
    pickled = pickle.dumps(fs)  # nothing was read yet
    take(open_past(store), put_files(store, {"a.csv": b"newer"}), tag="v2")
    shutil.rmtree(resolve_home().config)
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "another"))
    here, there = multiprocessing.Pipe()
    for method in ("spawn", "fork"):
        context = multiprocessing.get_context(method)
        worker = context.Process(target=_read, args=(pickled, path, there))
        worker.start()
        assert here.poll(60) and here.recv() == b"x\n1\n"
        worker.join()
    assert pickle.loads(pickled).cat("p/a.csv") == b"newer"


@promise(
    "url-pinned",
    "A file system that fsspec made for a URL means one snapshot for good, also by "
    "`latest`, and so does its copy in another process, which needs neither registry nor "
    "daemon.",
)
def test_a_url_means_the_newest_snapshot_and_what_it_opened_keeps_its_own(
    store: LocalStore,
) -> None:
    first, path = fsspec.core.url_to_fs("pipefs://p@latest/a.csv")
    take(open_past(store), put_files(store, {"a.csv": b"newer"}), tag="v2")
    first._reach_of("p").look_again()
    second, _ = fsspec.core.url_to_fs("pipefs://p@latest/a.csv")
    assert (first.cat(path), second.cat(path)) == (b"x\n1\n", b"newer")
    assert pickle.loads(pickle.dumps(first)).cat(path) == b"x\n1\n"


def _read_on(fs: PipeFileSystem, path: str, mine: Reach, out: Any) -> None:
    out.send((fs.cat(path), fs._reach_of(path) is mine))


def test_a_forked_process_opens_its_own(fs: PipeFileSystem) -> None:
    assert fs.cat("p@v1/a.csv") == b"x\n1\n"
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    for path in ("p@v1/a.csv", "p/a.csv"):
        worker = context.Process(target=_read_on, args=(fs, path, fs._reach_of(path), there))
        worker.start()
        assert here.poll(60) and here.recv() == (fs.cat(path), False)
        worker.join()


def test_the_protocol_is_an_entry_point() -> None:
    text = (Path(__file__).parents[2] / "setup.py").read_text()
    (said,) = re.findall(r'"fsspec.specs": \["pipefs = ([\w.]+):(\w+)"\]', text)
    assert getattr(importlib.import_module(said[0]), said[1]) is PipeFileSystem


def test_an_open_file_pickles_too(fs: PipeFileSystem) -> None:
    with fs.open("p@v1/d/e/c.txt") as file:
        file.read(2)
        assert pickle.loads(pickle.dumps(file)).read() == b"llo"


def test_threads_share_what_they_read_by(store: LocalStore) -> None:
    found: list[Reach] = []

    def look() -> None:
        found.append(PipeFileSystem()._reach_of("p/a.csv"))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(reach) for reach in found}) == 1


def test_fsspecs_own_caches_stand_on_top(fs: PipeFileSystem, tmp_path: Path) -> None:
    options = {"filecache": {"cache_storage": str(tmp_path / "cache"), "check_files": True}}
    for path, before, after in [
        ("p@v1/d/e/c.txt", b"hello", b"hello"),
        ("p/a.csv", b"x\n2\n", b"x\n3\n"),
    ]:
        with fsspec.open(f"filecache::pipefs://{path}", **options) as file:
            assert file.read() == before
        fs.pipe("p/a.csv", b"x\n3\n")
        with fsspec.open(f"filecache::pipefs://{path}", **options) as file:
            assert file.read() == after
        fs.pipe("p/a.csv", b"x\n2\n")


def test_pipes_can_be_named_without_a_registry(store: LocalStore, ram_path: Path) -> None:
    place = (ram_path / "store").as_uri()
    options = {"pipes": {"other": place}}
    assert fsspec.open("pipefs://other@v1/a.csv", **options).open().read() == b"x\n1\n"
    with fsspec.open("pipefs://other/b", "wb", **options) as file:
        file.write(io.BytesIO(b"1").getvalue())
    assert store.get("b", None, 0, 9) == b"1"
