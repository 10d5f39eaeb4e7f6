"""Is the past whole? What is missing is named, and what was left half-made is completed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs import catalog as cat
from pipefs import manifest
from pipefs.cli.app import App
from pipefs.cli.main import cli
from pipefs.errors import StoreUnavailable
from pipefs.manifest import Entry
from pipefs.past import verifying
from pipefs.past.checking import Fault, catalogue
from pipefs.past.opened import Past
from pipefs.past.verifying import Progress, verify
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import FaultStore
from pipefs.sums import part_sizes
from tests.kept import Pipe
from tests.pasts import open_past
from tests.promises.promised import promise

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def pipe(tmp_path: Path, store: Store) -> Iterator[Pipe]:
    """With the snapshots v1 and v2, and one of a directory."""
    pipe = Pipe(tmp_path, store)
    pipe.machine.mkdir("d")
    for name in ("a", "d/b", "d/c"):
        pipe.write(name, b"1 " + name.encode())
    pipe.snapshot("v1")
    pipe.write("a", b"2")
    pipe.snapshot("v2")
    pipe.snapshot("dir", path="d")
    yield pipe
    pipe.close()


def faults(pipe: Pipe, **options: bool) -> list[tuple[str, bool]]:
    return [(f.kind, f.fixed) for f in catalogue(pipe.past(), **options)]


def of_files(pipe: Pipe, name: str, *, read_data: bool = False) -> list[Fault]:
    past = pipe.past()
    return list(verify(past, past.catalog.find(name), read_data=read_data))


def test_an_intact_past_has_no_faults(pipe: Pipe) -> None:
    assert faults(pipe) == []
    for name in ("v1", "v2", "dir"):
        assert of_files(pipe, name, read_data=True) == []
    pipe.amend("forget", "v1")
    pipe.prune()
    assert faults(pipe) == [], "what was pruned is not missed"
    assert of_files(pipe, "dir", read_data=True) == []


# --- the catalogue ------------------------------------------------------------------------------


@promise(
    "check-completes",
    "`check NAME` completes a snapshot that a dying machine left half-made.",
)
def test_a_snapshot_that_died_before_its_object_is_completed(pipe: Pipe, store: Store) -> None:
    pipe.write("a", b"3")
    dying = FaultStore(store)
    dying.fail("put", key=f"{cat.PREFIX}*")
    with pytest.raises(StoreUnavailable):
        pipe.taker(dying).take(_wanted("v3"))
    assert faults(pipe, dry_run=True) == [("object", False)]
    assert faults(pipe) == [("object", True)]
    assert faults(pipe) == []
    made = pipe.past().catalog.find("v3")
    data = store.get(cat.object_key(made.id), None, 0, 1 << 20)
    assert cat.id_of(data) == made.id


def _wanted(tag: str):  # type: ignore[no-untyped-def]  # a request
    from pipefs.past.taking import Wanted

    return Wanted(tag=tag)


def test_an_object_with_other_bytes_is_put_anew(pipe: Pipe, store: Store) -> None:
    made = pipe.past().catalog.find("v1")
    store.put(cat.object_key(made.id), b"{}")
    assert faults(pipe) == [("object", True)]
    assert cat.id_of(store.get(cat.object_key(made.id), None, 0, 1 << 20)) == made.id


def test_an_object_that_the_log_does_not_know_is_announced(pipe: Pipe, store: Store) -> None:
    for item in list(store.list(".pipefs/commits/")):
        store.delete(item.key)
    store.delete(cat.REFS_KEY)
    pipe.machine.follower.check_log()
    pipe.machine.sync()
    pipe.machine.reconcile()
    pipe.write("a", b"new log")
    store.delete(cat.REFS_KEY)  # which the machine wrote from what it knew
    assert all(s.number == 0 for s in pipe.past().catalog.snapshots.values())
    assert faults(pipe, dry_run=True).count(("entry", False)) == 3
    assert faults(pipe).count(("entry", True)) == 3
    assert faults(pipe) == []
    again = open_past(store)
    assert all(s.number for s in again.catalog.snapshots.values())
    assert {t for s in again.catalog.snapshots.values() for t in s.tags} == {"v1", "v2", "dir"}
    pipe.check()


@pytest.mark.parametrize("damage", ["missing", "broken", "wrong"])
def test_refs_that_are_not_what_the_log_says_are_written_anew(
    pipe: Pipe, store: Store, damage: str
) -> None:
    past = pipe.past()
    if damage == "missing":
        store.delete(cat.REFS_KEY)
    elif damage == "broken":
        store.put(cat.REFS_KEY, b"{")
    else:
        # A machine whose write came late: what it says is older, but its place in the log is not.
        fewer = cat.catalog_of(list(past.catalog.snapshots.values())[:1])
        text = cat.encode_refs(fewer, past.position.epoch, past.position.number)
        store.put(cat.REFS_KEY, text)
        assert faults(pipe) == [("entry", True), ("entry", True)]
        assert faults(pipe) == []
        pipe.check()
        return
    assert faults(pipe, dry_run=True) == [("catalogue", False)]
    assert faults(pipe) == [("catalogue", True)]
    assert faults(pipe) == []


def test_a_snapshot_that_another_program_deleted_comes_back_with_repair(
    pipe: Pipe, store: Store
) -> None:
    made = pipe.past().catalog.find("v1")
    store.delete(cat.object_key(made.id))
    assert faults(pipe) == [("object", True)], "the log has it: it is as good as half-made"
    # Log and catalogue gone too: only the hidden objects know.
    for item in [*store.list(".pipefs/commits/"), *store.list(cat.PREFIX)]:
        store.delete(item.key)
    store.delete(cat.REFS_KEY)
    assert faults(pipe) == [("hidden", False)] * 3
    assert faults(pipe, repair=True).count(("hidden", True)) == 3
    assert {t for s in pipe.past().catalog.kept() for t in s.tags} == {"v1", "v2", "dir"}
    pipe.check()


def test_parts_that_another_program_deleted_come_back_with_repair(pipe: Pipe, store: Store) -> None:
    made = pipe.past().catalog.find("v1")
    for item in list(store.list(manifest.PREFIX)):
        store.delete(item.key)
    found = faults(pipe)
    assert found[0] == ("root", False)
    assert not any(fixed for _, fixed in found)
    assert all(fixed for _, fixed in faults(pipe, repair=True))
    assert faults(pipe) == []
    assert store.head(manifest.key_of_object(made.body.root)).size > 0
    pipe.check()


def test_parts_that_are_gone_for_good_come_back_from_what_is_kept_here(
    pipe: Pipe, store: Store, tmp_path: Path
) -> None:
    def past() -> Past:
        return open_past(store, tmp_path / "manifests")

    first = past()
    for snapshot in first.catalog.kept():
        list(first.view(snapshot.id).entries())
    for version in list(store.list_versions(manifest.PREFIX)):
        store.delete_version(version.key, version.version_id or "")
    assert {f.kind for f in catalogue(past())} == {"root", "part"}
    assert all(f.fixed for f in catalogue(past(), repair=True))
    assert faults(pipe) == []
    pipe.check()


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(params=["by looks", "by a listing"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by a listing":
        monkeypatch.setattr(verifying, "LISTED_FROM", 0)


@pytest.mark.usefixtures("_either_way")
def test_a_version_that_is_gone_is_named(pipe: Pipe, store: Store) -> None:
    entry = next(e for e in pipe.past().view("v1").entries() if e.path == "a")
    store.delete_version("a", entry.version or "")
    (found,) = of_files(pipe, "v1")
    assert (found.kind, found.where) == ("version", "a")
    assert "is gone" in found.detail
    assert of_files(pipe, "v2") == []


@pytest.mark.usefixtures("_either_way")
def test_a_version_that_is_not_what_the_manifest_says_is_named(pipe: Pipe, store: Store) -> None:
    past = pipe.past()
    entries = list(past.view("v2").entries())
    for entry in entries:
        if entry.path == "a":
            entry.size = 7
        if entry.path == "d/b":
            entry.etag = "0" * 32
    from tests import pasts

    made = pasts.take(past, entries, tag="bad")
    found = list(verify(past, made))
    assert [(f.kind, f.where) for f in found] == [("size", "a"), ("content", "d/b")]


@promise(
    "check-files",
    "`check NAME@SNAP` finds each file whose version is gone or has another size or ETag, "
    "and with `--read-data` each whose bytes are not those of its checksum.",
)
def test_bytes_that_changed_on_the_disk_are_found_when_they_are_read(
    pipe: Pipe, store: LocalStore, tmp_path: Path
) -> None:
    entry = next(e for e in pipe.past().view("v1").entries() if e.path == "d/b")
    name = (entry.version or "")[-16:]
    path = tmp_path / "store" / ".pipefs-store" / "versions" / name[:2] / name
    path.write_bytes(b"1 d/X")
    assert of_files(pipe, "v1") == []
    (found,) = of_files(pipe, "v1", read_data=True)
    assert (found.kind, found.where) == ("content", "d/b")
    path.write_bytes(b"1")
    (found,) = of_files(pipe, "v1", read_data=True)
    assert found.where == "d/b"


def test_a_sha256_counts_more_than_an_etag(pipe: Pipe, store: Store) -> None:
    past = pipe.past()
    from tests import pasts

    def take(checksum: str, tag: str) -> list[Fault]:
        made = store.put("x", b"bytes " + tag.encode())
        line = Entry(path="x", version=made.version_id, size=made.size, etag=made.etag,
                     checksum=checksum)  # fmt: skip
        return list(verify(past, pasts.take(past, [line], tag=tag), read_data=True))

    right = "sha256:" + hashlib.sha256(b"bytes s1").hexdigest()
    assert take(right, "s1") == []
    (found,) = take("sha256:" + "0" * 64, "s2")
    assert "SHA-256" in found.detail


def test_what_is_checked_is_counted(pipe: Pipe) -> None:
    done, past = Progress(), pipe.past()
    assert list(verify(past, past.catalog.find("v2"), read_data=True, progress=done)) == []
    assert (done.files, done.bytes, done.read, done.unverified) == (3, 11, 11, 0)


@pytest.mark.parametrize(
    ("size", "count", "one"),
    [(17 * MIB, 3, 8 * MIB), (12 * MIB, 2, 8 * MIB), (50 * MIB, 10, 5 * MIB), (3, 3, 1),
     (100 * MIB + 1, 2, 100 * MIB), (10 * MIB, 1, 10 * MIB)],
)  # fmt: skip
def test_part_sizes_are_those_that_fit(size: int, count: int, one: int) -> None:
    found = part_sizes(size, count)
    assert one in found
    assert all(-(-size // s) == count for s in found)
    assert part_sizes(size, 0) == []


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def run(pipe: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    app = App()
    app.home().make()
    app.registry().add("sales", (tmp_path / "store").as_uri(), "id", {})

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        return done

    return go


def test_check_says_what_is_whole(run: Callable[..., Result]) -> None:
    assert run("check", "sales").stdout == "sales  3 snapshots: the catalogue is whole\n"
    said = run("check", "sales@v2").stdout
    assert said == "sales@v2  3 files, 11 B: every version is there\n"
    said = run("check", "sales@v2", "--read-data").stdout
    assert said == "sales@v2  3 files, 11 B: every byte is as it was\n"
    found = json.loads(run("check", "sales@latest", "--json").stdout)
    assert (found["whole"], found["faults"]) == (True, [])
    run("check", "sales@v9", code=3)
    run("check", "sales", "--read-data", code=2)


def test_check_ends_with_1_when_something_is_gone(
    run: Callable[..., Result], pipe: Pipe, store: Store
) -> None:
    entry = next(e for e in pipe.past().view("v1").entries() if e.path == "a")
    store.delete_version("a", entry.version or "")
    done = run("check", "sales@v1", code=1)
    assert done.stdout.startswith("BAD    a  version ")
    assert "sales: 1 fault" in done.stderr
    assert not json.loads(run("check", "sales@v1", "--json", code=1).stdout)["whole"]


def test_check_completes_and_says_so(run: Callable[..., Result], pipe: Pipe, store: Store) -> None:
    store.delete(cat.REFS_KEY)
    run("check", "sales", "-n", code=1)
    assert run("check", "sales").stdout.startswith("fixed  .pipefs/refs.json")
    for item in list(store.list(manifest.PREFIX)):
        store.delete(item.key)
    assert "--repair" in run("check", "sales", code=1).stderr
    run("check", "sales", "--repair")
    pipe.check()
