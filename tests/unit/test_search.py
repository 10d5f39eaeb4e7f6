"""Search: everything there is to find, brought forward by the log, and without the store."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from pipefs.cli.main import cli
from pipefs.commits import Change
from pipefs.errors import AccessDenied, StoreUnavailable, UsageError
from pipefs.outbox import wire_xattrs
from pipefs.replica import Replica
from pipefs.search.finding import Hits, search
from pipefs.search.index import Index
from pipefs.search.words import fts_query
from pipefs.stores.local import LocalStore
from tests.machines import Machine
from tests.pasts import open_past, put_files, take
from tests.promises.promised import promise
from tests.replicas import replica_of, requests


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def machine(tmp_path: Path, store: LocalStore) -> Iterator[Machine]:
    found = Machine(tmp_path / "machine", store, name="m")
    yield found
    found.close()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    found = replica_of(tmp_path / "home", tmp_path / "store")
    yield found
    found.close()


def find(replica: Replica, query: str, *, offline: bool = False) -> Hits:
    return search(replica, replica.home, query, offline=offline)


def paths(replica: Replica, query: str) -> list[str]:
    return [hit.path for hit in find(replica, query)]


def parquet(**columns: list[object]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


@pytest.fixture
def filled(machine: Machine, store: LocalStore) -> Machine:
    machine.mkdir("notes")
    machine.write("notes/risk.md", b"# Tail risk\nWhat the models leave out.\n")
    machine.write("notes/gr\u00fcn.txt", "Stra\u00dfe nach M\u00fcnchen".encode())
    machine.write("storms_2026.csv", b"name,max_wind\nAda,35\n")
    machine.write("track.parquet", parquet(storm_id=[1], pos=[{"lat": 1.0}]))
    machine.write("picture.png", b"\x89PNG storm")
    machine.write("LICENSE", b"Permission is hereby granted")
    machine.sync()
    return machine


def test_t4_16_names_text_and_columns_are_found(filled: Machine, replica: Replica) -> None:
    assert paths(replica, "storms") == ["storms_2026.csv"]
    assert paths(replica, "storm") == ["storms_2026.csv", "track.parquet"]  # the beginning of one
    assert paths(replica, "2026 ada") == ["storms_2026.csv"]
    assert paths(replica, "munchen strasse") == [] and paths(replica, "munchen nach") == [
        "notes/gr\u00fcn.txt"
    ]
    assert paths(replica, "lat") == ["track.parquet"]
    assert paths(replica, "column:max_wind") == ["storms_2026.csv"]
    assert paths(replica, "column:name -ada") == []
    assert paths(replica, '"models leave"') == ["notes/risk.md"]
    assert paths(replica, "hereby") == ["LICENSE"]
    assert sorted(paths(replica, "notes")) == ["notes", "notes/gr\u00fcn.txt", "notes/risk.md"]
    (hit,) = find(replica, "text:risk")
    assert (hit.where, hit.piece) == (("text",), "# Tail risk What the models leave out.")


def test_t4_16_metadata_are_found_as_they_are_on_the_file(
    filled: Machine, store: LocalStore, replica: Replica
) -> None:
    xattrs = wire_xattrs({b"user.author": "maria l\u00f3pez".encode()})
    with replica.opened() as now:
        now.commit([Change(op="attr", path="track.parquet", xattrs=xattrs)])
    store.put("theirs.bin", b"\0", metadata={"source": "NOAA HURDAT", "mtime": "1"})
    assert paths(replica, "author:maria") == ["track.parquet"]
    assert paths(replica, 'source:"noaa hurdat"') == []  # other tools' are listed now and then
    assert search(replica, replica.home, "hurdat", cached=False)[0].path == "theirs.bin"
    assert paths(replica, 'source:"noaa hurdat"') == ["theirs.bin"]
    assert find(replica, "hurdat")[0].metadata == {"source": "NOAA HURDAT"}
    assert paths(replica, "source:maria") == []


def test_t4_16_messages_of_snapshots_are_found(store: LocalStore, replica: Replica) -> None:
    past = open_past(store)
    entries = put_files(store, {"a.csv": b"1"})
    take(past, entries, tag="raw", message="as downloaded", metrics={"rmse": "0.5"})
    (hit,) = find(replica, "downloaded")
    assert (hit.kind, hit.where, hit.metadata and hit.metadata["tags"]) == (
        "snapshot",
        ("message",),
        "raw",
    )
    assert [h.kind for h in find(replica, "raw")] == ["snapshot"]
    assert [h.kind for h in find(replica, "rmse:0.5")] == ["snapshot"]


@promise(
    "search-current",
    "`pipefs search` finds what the pipe has when it is called, by names, metadata, names "
    "of columns, text and messages of snapshots, and what was deleted by where it was.",
)
def test_t4_16_what_is_gone_is_found_where_it_was(
    machine: Machine, store: LocalStore, replica: Replica
) -> None:
    store.put("before.csv", b"long ago")
    store.delete("before.csv")
    machine.write("draft.txt", b"an unlikely word: xylem")
    machine.sync()
    assert not find(replica, "xylem")[0].deleted
    machine.rm("draft.txt")
    machine.sync()
    found = {hit.path: hit for hit in [*find(replica, "xylem"), *find(replica, "before")]}
    assert found["draft.txt"].deleted and found["before.csv"].deleted
    assert found["before.csv"].version


def test_a_search_costs_what_changed(filled: Machine, replica: Replica) -> None:
    find(replica, "storms")
    before = requests(replica)
    find(replica, "storms")
    assert requests(replica) - before <= 2  # the log is asked whether it goes on
    filled.write("notes/new.md", b"fresh words")
    filled.mv("notes/risk.md", "notes/danger.md")
    filled.sync()
    before = requests(replica, "get")
    assert paths(replica, "fresh") == ["notes/new.md"]
    # Two commits at most, by replica and index, the end of the log, the bytes of two files.
    assert requests(replica, "get") - before <= 8
    assert paths(replica, "tail risk") == ["notes/danger.md", "notes/risk.md"]
    assert [h.deleted for h in find(replica, "tail risk")] == [False, True]


def test_a_renamed_folder_takes_what_is_in_it_along(filled: Machine, replica: Replica) -> None:
    assert paths(replica, "tail") == ["notes/risk.md"]
    filled.mv("notes", "essays")
    filled.sync()
    hits = find(replica, "tail")
    assert [(h.path, h.deleted) for h in hits] == [
        ("essays/risk.md", False),
        ("notes/risk.md", True),
    ]
    assert "notes" not in [h.path for h in find(replica, "notes")]


@promise(
    "search-offline",
    "Without the store `pipefs search` finds what is indexed on this machine, and says as of when.",
)
def test_without_the_store_what_is_indexed_is_found(
    filled: Machine, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreUnavailable):
        _cut_off(replica, monkeypatch)
        find(replica, "risk")
    monkeypatch.undo()
    assert not find(replica, "risk").offline
    _cut_off(replica, monkeypatch)
    hits = find(replica, "risk")
    assert [h.path for h in hits] == ["notes/risk.md"]
    assert hits.offline == "gone" and hits.since_ns > 0
    assert [h.path for h in find(replica, "risk", offline=True)] == ["notes/risk.md"]


def _cut_off(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone")

    for name in ("get", "head", "list", "list_versions"):
        monkeypatch.setattr(replica.store, name, away)


def test_a_file_that_cannot_be_read_is_found_by_its_name(
    filled: Machine, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.write("broken.parquet", b"PAR1 no footer PAR1")
    filled.sync()
    get = replica.store.get

    def denied(key: str, *rest: object) -> bytes:
        if key == "LICENSE":
            raise AccessDenied("not yours")
        return get(key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(replica.store, "get", denied)
    hits = find(replica, "license")
    assert [h.path for h in hits] == ["LICENSE"] and not hits.offline and not hits.waiting
    assert paths(replica, "broken") == ["broken.parquet"]
    assert paths(replica, "hereby") == []


def test_a_damaged_index_is_made_anew(filled: Machine, replica: Replica) -> None:
    assert paths(replica, "risk")
    (replica.folder / "search.sqlite").write_bytes(b"no database at all" * 1000)
    assert paths(replica, "risk") == ["notes/risk.md"]


def test_a_replaced_log_is_survived(filled: Machine, store: LocalStore, replica: Replica) -> None:
    assert paths(replica, "risk")
    for found in list(store.list(".pipefs/")):
        store.delete(found.key)
    store.delete("notes/risk.md")
    filled.write("notes/more.md", b"other risk")
    filled.sync()
    assert "notes/more.md" in paths(replica, "risk")


def test_what_is_asked_for() -> None:
    assert fts_query("a b") == '"a"* AND "b"*'
    assert fts_query('"a b" -c') == '("a b") NOT "c"*'
    assert fts_query('name:q3 x:"NOAA"') == '{name} : "q3"* AND {metadata} : "x NOAA"'
    assert fts_query("AND (") == '"AND"*'
    for nothing in ("", "-a", "()"):
        with pytest.raises(UsageError, match="asks for nothing"):
            fts_query(nothing)


def test_text_that_sqlite_cannot_hold_is_replaced(tmp_path: Path) -> None:
    index = Index(tmp_path / "x.sqlite")
    index.put_snapshots([("id", "", "a \udc80 b", 0, {})])
    assert len(index.find('"b"', 5, ("", ""))) == 1
    index.close()


# --- the command --------------------------------------------------------------------------------


def test_t4_16_search_in_the_terminal(tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (done.stdout, done.stderr)
        return done

    store = LocalStore(tmp_path / "sales")
    run("create", "sales", (tmp_path / "sales").as_uri())
    store.put("q3.csv", b"region,revenue\nEU,5\n")
    store.put("notes.md", b"revenue \x1b[2J is up")
    take(open_past(store), put_files(store, {"q2.csv": b"1"}), tag="q2", message="revenue of Q2")
    said = run("search", "sales", "revenue").stdout
    assert [line.split()[0] for line in said.splitlines()] == ["@q2", "q3.csv", "notes.md", "3"]
    assert "\x1b" not in said and "columns: region revenue" in said
    found = json.loads(run("search", "--json", "sales", "column:revenue").stdout)
    assert [(h["path"], h["where"]) for h in found["hits"]] == [("q3.csv", ["columns"])]
    assert found["indexed"] and found["offline"] is None
    assert "nothing in sales matches zebra" in run("search", "sales", "zebra", code=3).stderr
    assert run("search", "--offline", "sales", "revenue").stdout.endswith("Z\n")
