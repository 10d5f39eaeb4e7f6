"""Open files, several files at once, and other processes beside us."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import pipefs
from pipefs import Pipe
from pipefs.errors import (
    Conflict,
    NotFound,
    PartlyDone,
    Refused,
    Unsupported,
    UsageError,
)
from pipefs.keys import PARKED
from pipefs.stores.local import LocalStore
from tests.machines import Machine, UnversionedStore

# --- open files ---------------------------------------------------------------------------------


def test_open_to_read(pipe: Pipe) -> None:
    data = bytes(range(256)) * 40_000  # 10 MB
    pipe.put_bytes(data, "big.bin")
    with pipe.open("big.bin", "rb") as file:
        assert file.read(10) == data[:10]
        file.seek(-5, io.SEEK_END)
        assert file.read() == data[-5:]
        file.seek(5_000_000)
        pipe.put_bytes(b"other", "big.bin")  # what is open stays what it was
        assert file.read(1000) == data[5_000_000:5_001_000]
    pipe.put("x\ny\n", "t.txt")
    assert list(pipe.open("t.txt")) == ["x\n", "y\n"]
    assert pd.read_csv(pipe.open("t.txt", "rb")).columns.tolist() == ["x"]
    with pytest.raises(NotFound):
        pipe.open("none")
    with pytest.raises(UsageError):
        pipe.open("t.txt", "a")
    with pytest.raises(UsageError):
        pipe.open("t.txt", "w", snapshot="x")


def test_open_to_write(pipe: Pipe, machine: Machine) -> None:
    with pipe.open("a.bin", "wb", meta={"k": "v"}) as file:
        file.write(b"abc")
        file.seek(0)
        file.write(b"X")
        assert pipe.scan_remote() == []
    assert pipe.get_bytes("a.bin") == b"Xbc" and pipe.meta("a.bin") == {"k": "v"}
    with pipe.open("t.txt", "w") as text:
        text.write("Zoë\n")
    pd.DataFrame({"a": [1]}).to_parquet(pipe.open("f.parquet", "wb"))
    machine.sync()
    assert machine.tree()["t.txt"] == "Zoë\n".encode()
    with pytest.raises(RuntimeError), pipe.open("t.txt", "w") as text:
        text.write("half")
        raise RuntimeError
    assert pipe.get("t.txt")[0] == "Zoë\n"
    with pytest.raises(FileExistsError):
        pipe.open("t.txt", "x")
    with pipe.open("new.txt", "x") as text:
        text.write("n")
    assert pipe.get("new.txt")[0] == "n"


# --- several at once ----------------------------------------------------------------------------


def test_a_transaction_is_seen_whole_or_not_at_all(pipe: Pipe, machine: Machine) -> None:
    """`with pipe.transaction():` publishes many files at once: other machines see all or none."""

    def state(turn: int) -> dict[str, bytes]:
        return {f"f{n}": b"%d" % turn for n in range(8)} | {f"only{turn}": b""}

    for path, data in state(0).items():
        pipe.put_bytes(data, path)
    machine.follow()
    seen: list[dict[str, object]] = []
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            machine.reconcile()
            seen.append(dict(machine.tree()))

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        for turn in range(1, 5):
            with pipe.transaction():
                for path, data in state(turn).items():
                    pipe.put_bytes(data, path)
                pipe.delete(f"only{turn - 1}")
    finally:
        stop.set()
        thread.join()
    assert all(shown in [state(turn) for turn in range(5)] for shown in seen)
    machine.sync()
    assert machine.tree() == state(4)


def test_what_is_in_a_transaction(pipe: Pipe, machine: Machine, ram_path: Path) -> None:
    pipe.put("old", "old.txt")
    (ram_path / "f.txt").write_text("file")
    with pipe.transaction() as t:
        pipe.put({"a": 1}, "a.json", meta={"k": "v"})
        pipe.put_file(ram_path / "f.txt", "d/")
        (ram_path / "f.txt").write_text("changed since")
        with pipe.open("w.txt", "w") as file:
            file.write("written")
        pipe.delete("old.txt")
        pipe.put("first", "twice.txt")
        pipe.put("second", "twice.txt")
        assert pipe.scan_remote() == ["old.txt"] and len(t) == 5
    assert {p.path for p in t.published} == {"a.json", "d/f.txt", "w.txt", "old.txt", "twice.txt"}
    assert pipe.scan_remote() == ["a.json", "d/f.txt", "twice.txt", "w.txt"]
    assert pipe.get("d/f.txt")[0] == "file" and pipe.get("twice.txt")[0] == "second"
    assert pipe.get("w.txt")[0] == "written"
    assert pipe.get("a.json") == ({"a": 1}, {"k": "v"})


def test_a_transaction_that_fails_changes_nothing(pipe: Pipe, store: LocalStore) -> None:
    seen = pipe.put("1", "a.txt")
    with pytest.raises(RuntimeError), pipe.transaction():
        pipe.put("2", "b.txt")
        assert pipe.delete_files_remote("a.txt", confirm=False) == ["a.txt"]
        raise RuntimeError
    assert pipe.get("a.txt")[0] == "1"
    with pytest.raises(UsageError, match="the folder of d/e"), pipe.transaction():
        pipe.put("1", "d/e")
        pipe.put("1", "d")
    assert pipe.scan_remote() == ["a.txt"]
    store.put("a.txt", b"tool")
    with pytest.raises(Conflict, match="nothing was published"), pipe.transaction():
        pipe.put("2", "a.txt", expected=seen)
        pipe.put("2", "b.txt")
    assert {o.key for o in store.list() if not o.key.startswith(".pipefs/c")} >= {"a.txt"}
    assert pipe.scan_remote(cached=False) == ["a.txt"]
    with pytest.raises(Refused, match="runs already"), pipe.transaction(), pipe.transaction():
        pass
    pipe.put("after", "c.txt")
    with pipe.transaction():
        pass


def test_expected_versions(pipe: Pipe) -> None:
    first = pipe.put("1", "a.txt", expected=pipefs.ABSENT)
    with pytest.raises(Conflict):
        pipe.put("2", "a.txt", expected=pipefs.ABSENT)
    second = pipe.put("2", "a.txt", expected=first)
    with pytest.raises(Conflict):
        pipe.put("3", "a.txt", expected=first)
    assert pipe.versions("a.txt")[0].version == second


def test_some_files_of_a_folder_fail(pipe: Pipe, ram_path: Path) -> None:
    pipe.put("x", "up/a/x")
    (ram_path / "in").mkdir()
    (ram_path / "in" / "a").write_text("a")  # where the pipe has a folder
    (ram_path / "in" / "b").write_text("b")
    with pytest.raises(PartlyDone, match="1 of 2 files failed: up/a"):
        pipe.put_file(ram_path / "in", "up")
    assert pipe.get("up/b")[0] == b"b"


# --- beside others ------------------------------------------------------------------------------


def test_links_are_followed_inside_the_pipe(pipe: Pipe, machine: Machine) -> None:
    pipe.put("1", "d/a.txt")
    machine.follow()
    machine.symlink("d/to", "../d/a.txt")
    machine.symlink("out", "/etc/passwd")
    machine.symlink("round", "round")
    machine.sync()
    assert pipe.get("d/to")[0] == "1"
    for path in ("out", "round"):
        with pytest.raises(NotFound):
            pipe.get(path)
    pipe.snapshot("raw")
    assert pipe.get("d/to", snapshot="raw")[0] == "1"


def test_what_another_tool_just_put_is_there(pipe: Pipe, store: LocalStore) -> None:
    pipe.scan_remote()
    store.put("tool.txt", b"1")
    assert pipe.get("tool.txt")[0] == "1"
    assert [e.path for e in pipe.ls()] == []  # names are looked for every five minutes


def test_on_a_store_without_versions(
    ram_path: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipefs.registry import Pipe as Registered

    opened = Registered.open_store
    monkeypatch.setattr(
        Registered, "open_store", lambda self, **how: UnversionedStore(opened(self, **how))
    )
    plain = Pipe("sales")
    first = plain.put("1", "a.txt")
    assert plain.put("2", "a.txt", expected=first) != first
    assert plain.get("a.txt")[0] == "2"
    with pytest.raises(Unsupported):
        plain.versions("a.txt")
    with pytest.raises((Refused, Unsupported)):
        plain.snapshot("raw")
    with plain.transaction():
        plain.put("3", "a.txt")
    assert plain.get("a.txt")[0] == "3"


def _read_elsewhere(pipe: Pipe, answers: Any) -> None:
    answers.put((pipe.get("a.json")[0], pipe.snapshot_name))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pipe_goes_to_other_processes(pipe: Pipe, method: str) -> None:
    pipe.put({"n": 1}, "a.json")
    raw = pipe.snapshot("raw")
    pipe.put({"n": 2}, "a.json")
    pinned = Pipe("sales@raw")
    assert pinned.get("a.json")[0] == {"n": 1}
    assert pickle.loads(pickle.dumps(pinned)).get("a.json")[0] == {"n": 1}
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=_read_elsewhere, args=(pinned, answers))
    child.start()
    assert answers.get(timeout=60) == ({"n": 1}, raw.id)
    child.join()


def test_threads_share_a_pipe(pipe: Pipe) -> None:
    def work(number: int) -> None:
        for n in range(5):
            pipe.put({"n": n}, f"{number}/{n}.json")
            assert pipe.get(f"{number}/{n}.json")[0] == {"n": n}

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pipe.scan_remote()) == 20


def test_long_tables_leave_the_middle_out(pipe: Pipe) -> None:
    with pipe.transaction():
        for n in range(100):
            pipe.put_bytes(b"", f"{n:03}")
    table = pipe.ls()
    assert len(table) == 100 and len(repr(table).splitlines()) == 62
    assert not any(line.startswith("050 ") for line in repr(table).splitlines())
    assert "<td" in table._repr_html_()
    assert table.to_df().shape[0] == 100 and type(table[:2]) is list


def test_tables_print_for_people(pipe: Pipe) -> None:
    pipe.put({"a": 1}, "d/x.json", meta={"who": "Ann"})
    (row,) = repr(pipe.ls("d")).splitlines()[1:]
    found = pipe.ls("d")[0]
    assert found.modified_at is not None
    moment = found.modified_at.strftime("%Y-%m-%d %H:%M:%SZ")
    for said in ("d/x.json", "8 B", moment, found.version[:12], "who=Ann"):
        assert said in row
    assert found.checksum.removeprefix("sha256:")[:12] in row and found.checksum not in row
    assert repr(pipe.ls("d")[:0] or pipe.search("nothingatall")) == "nothing"


def test_bytes_that_wait_for_their_key_are_nobodys_file(
    store: LocalStore, machine: Machine
) -> None:
    """A look asks for them while a file has them, and the answer comes when it has them no more."""
    store.put(f"{PARKED}0123", b"x")
    machine.follower.check_keys([f"{PARKED}0123"])
    assert not machine.tree()
