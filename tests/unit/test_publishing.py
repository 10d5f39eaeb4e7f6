"""Publishing without a mount: what lands, what other machines see, and what a crash leaves."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipefs.commits import Commit, CommitLog
from pipefs.errors import Busy, Conflict, NotFound, Refused, UsageError
from pipefs.publishing import ABSENT, Deletion, Outcome, Publication, Published, Publisher
from pipefs.registry import Pipe
from pipefs.replica import Replica
from pipefs.stores.base import Store
from pipefs.stores.local import LocalStore
from pipefs.stores.wrapper import WrapperStore
from pipefs.types import Credentials, ObjectVersion
from tests.machines import Machine, UnversionedStore, machines, objects
from tests.replicas import home_in, replica_of, requests


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


@pytest.fixture
def publisher(replica: Replica) -> Publisher:
    return Publisher(replica)


def version(replica: Replica, path: str) -> str:
    with replica.opened() as now:
        found = now.entry(path)
    return found.version if found is not None else ""


def outcomes(done: list[Published]) -> dict[str, Outcome]:
    return {p.path: p.outcome for p in done}


def settled(machine: Machine) -> dict[str, bytes | str | None]:
    machine.sync()
    machine.reconcile()
    assert machine.problems() == []
    return machine.tree()


def test_bodies_of_every_kind_land_in_one_commit(
    machine: Machine, publisher: Publisher, tmp_path: Path
) -> None:
    large = os.urandom(3 << 20)
    (tmp_path / "large").write_bytes(large)
    os.utime(tmp_path / "large", ns=(1, 1_700_000_000_123_456_789))
    (tmp_path / "large").chmod(0o640)
    (tmp_path / "small").write_bytes(b"small")
    with open(tmp_path / "small", "rb") as small:
        done = publisher.publish(
            [
                Publication("a/bytes", b"bytes", mtime_ns=5 * 10**18, mode=0o600),
                Publication("a/large", tmp_path / "large"),
                Publication("small", small),
                Publication("buffer", io.BytesIO(b"buffer")),
                Publication("pipe", _Unseekable(large)),
                Publication("empty", b""),
            ]
        )
    assert set(outcomes(done).values()) == {Outcome.SENT}
    assert [p.size for p in done] == [5, 3 << 20, 5, 6, 3 << 20, 0]
    machine.follow()
    assert machine.follower.position().number == 1
    assert settled(machine) == {
        "a": None,
        "a/bytes": b"bytes",
        "a/large": large,
        "small": b"small",
        "buffer": b"buffer",
        "pipe": large,
        "empty": b"",
    }
    assert (machine.inode("a/bytes").mtime_ns, machine.inode("a/bytes").mode) == (
        5 * 10**18,
        0o100600,
    )
    node = machine.inode("a/large")
    assert (node.mtime_ns, node.mode) == (1_700_000_000_123_456_789, 0o100640)
    assert node.content is not None and node.content.checksum.startswith("sha256:")
    assert machine.store.head("a/large").metadata["mode"] == str(0o100640)


class _Unseekable(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._inner.read(size)


def test_the_same_bytes_are_not_sent_again(publisher: Publisher, replica: Replica) -> None:
    first = publisher.publish([Publication("a", b"one"), Publication("b", b"two")])
    puts = requests(replica, "put")
    again = publisher.publish(
        [Publication("a", b"one", expected=ABSENT), Publication("b", b"two", mode=0o600)]
    )
    assert outcomes(again) == {"a": Outcome.SAME, "b": Outcome.SAME}
    assert [p.version for p in again] == [p.version for p in first]
    assert requests(replica, "put") == puts + 1  # the commit of a mode
    with replica.opened() as now:
        found = now.entry("b")
    assert found is not None and found.mode == 0o600


def test_metadata_stays_with_the_file(
    machine: Machine, publisher: Publisher, replica: Replica, store: LocalStore
) -> None:
    big = "x" * 5000
    publisher.publish(
        [Publication("a", b"1", metadata={"who": "Zoë", "Odd key": "v", "note": big})]
    )
    with replica.opened() as now:
        found = now.entry("a")
    assert found is not None
    assert found.metadata == {"who": "Zoë", "Odd key": "v", "note": big}
    assert store.head("a").metadata["who"] == "Zoë"
    assert "note" not in store.head("a").metadata
    machine.follow()
    assert (machine.inode("a").xattrs or {})[b"user.who"] == "Zoë".encode()
    publisher.publish([Publication("a", b"2")])
    with replica.opened() as now:
        found = now.entry("a")
    assert found is not None and found.metadata["who"] == "Zoë"
    publisher.publish([Publication("a", b"3", metadata={"who": "Max"})])
    with replica.opened() as now:
        found = now.entry("a")
    assert found is not None and found.metadata == {"who": "Max"}
    with pytest.raises(UsageError, match="64 KiB"):
        publisher.publish([Publication("a", b"3", metadata={"who": "x" * 70_000})])


def test_a_version_that_was_not_seen_is_a_conflict(
    machine: Machine, publisher: Publisher, replica: Replica, store: LocalStore
) -> None:
    publisher.publish([Publication("a", b"1"), Publication("b", b"1")])
    seen = version(replica, "a")
    machine.follow()
    machine.write("a", b"theirs")
    machine.sync()
    done = publisher.publish(
        [
            Publication("a", b"mine", expected=seen),
            Publication("b", b"2", expected=version(replica, "b")),
            Publication("c", b"3", expected=ABSENT),
        ]
    )
    assert outcomes(done) == {"a": Outcome.FAILED, "b": Outcome.SENT, "c": Outcome.SENT}
    assert isinstance(done[0].error, Conflict)
    assert settled(machine) == {"a": b"theirs", "b": b"2", "c": b"3"}


def test_what_another_tool_just_put_is_met_by_the_condition(
    machine: Machine, publisher: Publisher, replica: Replica, store: LocalStore
) -> None:
    publisher.publish([Publication("a", b"1")])
    seen = version(replica, "a")
    store.put("a", b"tool")
    store.put("b", b"tool")
    done = publisher.publish(
        [Publication("a", b"2", expected=seen), Publication("b", b"2", expected=ABSENT)]
    )
    assert [type(p.error) for p in done] == [Conflict, Conflict]
    assert settled(machine) == {"a": b"tool", "b": b"tool"}
    done = publisher.publish([Publication("a", b"2"), Publication("b", b"2")])
    assert outcomes(done) == {"a": Outcome.SENT, "b": Outcome.SENT}
    assert settled(machine) == {"a": b"2", "b": b"2"}


def test_files_links_and_empty_folders_are_deleted(
    machine: Machine, publisher: Publisher, store: LocalStore
) -> None:
    machine.mkdir("d")
    machine.mkdir("d/e")
    machine.write("d/a", b"a")
    machine.symlink("to", "d/a")
    machine.write("keep", b"k")
    machine.sync()
    done = publisher.publish([Deletion("d"), Deletion("none")])
    assert isinstance(done[0].error, Refused) and done[1].outcome is Outcome.ABSENT
    done = publisher.publish([Deletion("d"), Deletion("d/a"), Deletion("d/e"), Deletion("to")])
    assert set(outcomes(done).values()) == {Outcome.DELETED}
    assert settled(machine) == {"keep": b"k"}
    assert objects(store) == {"keep": b"k"}
    assert not [o.key for o in store.list("d")]


def test_a_hard_linked_file_lives_on(
    machine: Machine, publisher: Publisher, store: LocalStore
) -> None:
    machine.write("a", b"1")
    machine.link("a", "b")
    machine.link("a", "c")
    machine.sync()
    publisher.publish([Deletion("a")])
    assert settled(machine) == {"b": b"1", "c": b"1"}
    assert machine.linked() == {("b", "c")}
    assert objects(store) == {"b": b"1"}
    publisher.publish([Deletion("b"), Deletion("c")])
    assert settled(machine) == {}
    assert objects(store) == {}


def test_names_in_the_way(machine: Machine, publisher: Publisher, tmp_path: Path) -> None:
    machine.mkdir("d")
    machine.write("f", b"1")
    machine.sync()
    done = publisher.publish(
        [
            Publication("d", b""),
            Publication("f/x", b""),
            Publication("g", tmp_path / "none"),
            Publication("h", tmp_path),
        ]
    )
    assert [type(p.error) for p in done] == [Refused, Refused, NotFound, UsageError]
    for bad in ([Deletion("a"), Publication("a", b"")], [Publication("", b"")]):
        with pytest.raises(UsageError):
            publisher.publish(bad)
    assert settled(machine) == {"d": None, "f": b"1"}


def test_progress_counts_every_byte(replica: Replica, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(20 << 20))
    told: dict[str, int] = {}
    lock = threading.Lock()

    def progress(path: str, count: int) -> None:
        with lock:
            told[path] = told.get(path, 0) + count

    Publisher(replica, progress=progress).publish(
        [Publication("large", tmp_path / "large"), Publication("small", b"12345")]
    )
    assert told == {"large": 20 << 20, "small": 5}


# --- all or nothing -----------------------------------------------------------------------------


def test_an_atomic_publication_is_one_commit_and_ends_at_its_own_keys(
    machine: Machine, publisher: Publisher, store: LocalStore
) -> None:
    machine.write("old", b"old")
    machine.write("same", b"same")
    machine.sync()
    done = publisher.publish(
        [
            Publication("old", b"new", metadata={"k": "v"}),
            Publication("d/made", b"made"),
            Publication("same", b"same"),
            Deletion("same2"),
        ],
        atomic=True,
    )
    assert [p.outcome.value for p in done] == ["sent", "sent", "same", "absent"]
    assert settled(machine) == {"old": b"new", "same": b"same", "d": None, "d/made": b"made"}
    assert objects(store) == {"old": b"new", "same": b"same", "d/made": b"made"}
    assert list(store.list(".pipefs/moving/")) == []
    assert (machine.inode("old").xattrs or {})[b"user.k"] == b"v"
    assert store.head("old").metadata["k"] == "v"


def test_other_machines_see_all_or_nothing(
    machine: Machine, publisher: Publisher, store: LocalStore
) -> None:
    """New files, new versions and deletions, while the machine lists all the time."""
    names = [f"f{n}" for n in range(12)]

    def state(turn: int) -> dict[str, bytes]:
        return {**dict.fromkeys(names, b"%d" % turn), f"only{turn}": b""}

    publisher.publish([Publication(p, body) for p, body in state(0).items()])
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
        for turn in range(1, 6):
            items = [Publication(p, body) for p, body in state(turn).items()]
            publisher.publish([*items, Deletion(f"only{turn - 1}")], atomic=True)
    finally:
        stop.set()
        thread.join()
    states = [state(turn) for turn in range(6)]
    assert all(shown in states for shown in seen)
    assert settled(machine) == state(5)
    assert objects(store) == state(5)
    assert [c for c in _external(store) if c.changes] == []


def _external(store: LocalStore) -> list[Commit]:
    log, number, found = CommitLog(store, author="", writer=""), 1, []
    while (read := log.read(number)) is not None:
        found += [read.commit] if read.commit.external else []
        number += 1
    return found


class _Interrupted(WrapperStore):
    """Another machine is busy at the moment of the next HEAD."""

    meanwhile: Callable[[], object] | None = None

    def head(self, key: str, version_id: str | None = None) -> ObjectVersion:
        found = super().head(key, version_id)
        call, self.meanwhile = self.meanwhile, None
        if call is not None:
            call()
        return found


def test_what_a_listing_found_is_looked_at_again_after_another_commit(
    publisher: Publisher, store: LocalStore, tmp_path: Path
) -> None:
    """Else an old version would be told as news, beside the new ones of that commit."""
    slow = _Interrupted(store)
    with machines(tmp_path / "slow", slow, "slow") as (machine,):
        publisher.publish([Publication("a", b"1"), Publication("b", b"1")])
        machine.follow()
        made = store.put("a", b"tool")
        slow.meanwhile = lambda: publisher.publish(
            [Publication("a", b"2"), Publication("b", b"2")], atomic=True
        )
        machine.reconcile()
        assert machine.tree() == {"a": b"2", "b": b"2"}
        assert made.version_id in {v.version_id for v in store.list_versions("a")}


def test_a_failure_undoes_all_of_an_atomic_publication(
    machine: Machine, publisher: Publisher, replica: Replica, store: LocalStore, tmp_path: Path
) -> None:
    publisher.publish([Publication("a", b"1"), Publication("gone", b"1")])
    seen = version(replica, "a")
    store.put("a", b"tool")
    before = objects(store)
    items = [Publication("b", b"2"), Deletion("gone"), Publication("a", b"2", expected=seen)]
    with pytest.raises(Conflict, match="somebody else changed a"):
        publisher.publish(items, atomic=True)
    with pytest.raises(NotFound):
        publisher.publish([*items[:2], Publication("c", tmp_path / "none")], atomic=True)
    assert objects(store) == before
    assert list(store.list(".pipefs/moving/")) == []
    assert settled(machine) == {"a": b"tool", "gone": b"1"}


def test_an_atomic_deletion(machine: Machine, publisher: Publisher, store: LocalStore) -> None:
    machine.mkdir("d")
    machine.write("d/a", b"1")
    machine.write("b", b"1")
    machine.sync()
    publisher.publish([Deletion("d/a"), Deletion("d"), Publication("c", b"2")], atomic=True)
    assert settled(machine) == {"b": b"1", "c": b"2"}
    assert objects(store) == {"b": b"1", "c": b"2"}


class _PlainPipe(Pipe):
    def open_store(
        self, *, patience_s: float | None = None, credentials: Credentials | None = None
    ) -> Store:
        inner = super().open_store(patience_s=patience_s, credentials=credentials)
        return UnversionedStore(inner)


@pytest.mark.parametrize("atomic", [False, True])
def test_on_a_store_without_versions(tmp_path: Path, atomic: bool) -> None:
    inner = LocalStore(tmp_path / "store")
    store = UnversionedStore(inner)
    with machines(tmp_path / "m", store, "m") as (machine,):
        machine.write("a", b"1")
        machine.write("b", b"1")
        machine.sync()
        pipe = _PlainPipe("p", (tmp_path / "store").as_uri(), "pipe-1")
        replica = Replica(home_in(tmp_path / "home"), pipe)
        publisher = Publisher(replica)
        seen = version(replica, "a")
        items = [Publication("a", b"2", expected=seen), Publication("c", b"2"), Deletion("b")]
        publisher.publish(items, atomic=atomic)
        assert settled(machine) == {"a": b"2", "c": b"2"}
        assert objects(store) == {"a": b"2", "c": b"2"}
        if atomic:
            with pytest.raises(Conflict):
                publisher.publish([Publication("a", b"3", expected=seen)], atomic=True)
        else:
            assert publisher.publish([Publication("a", b"3", expected=seen)])[0].error
        machine.mv("a", "d")  # its object is still at "a"
        machine.follower.announce()
        done = publisher.publish([Publication("a", b"new")])
        assert isinstance(done[0].error, Busy)
        machine.sync()
        publisher.publish([Publication("a", b"new")])
        assert settled(machine) == {"a": b"new", "c": b"2", "d": b"2"}


# --- crashes ------------------------------------------------------------------------------------

_CHILD = """
import sys, os, signal
from pathlib import Path
from pipefs import publishing, finishing, replicated
from pipefs.publishing import Publisher, Publication, Deletion
from tests.replicas import replica_of

home, store, where = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
commit = replicated.Now.commit
if where == "before commit":
    replicated.Now.commit = die
elif where == "after commit":
    replicated.Now.commit = lambda self, changes: (commit(self, changes), die())
elif where == "before follow":
    finishing.Finisher.follow = die
elif where == "before second commit":
    finishing.Finisher._tell = die
items = [Publication("a", b"new", metadata={"k": "v"}), Publication("d/b", b"b"), Deletion("c")]
Publisher(replica_of(home, store)).publish(items, atomic=where.endswith("!") or len(sys.argv) > 4)
"""


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize(
    "where", ["before commit", "after commit", "before follow", "before second commit"]
)
def test_kill_9_loses_nothing_and_the_next_publication_finishes_it(
    machine: Machine,
    replica: Replica,
    publisher: Publisher,
    store: LocalStore,
    tmp_path: Path,
    where: str,
    atomic: bool,
) -> None:
    publisher.publish([Publication("a", b"old"), Publication("c", b"c")])
    words = [str(tmp_path / "home"), str(tmp_path / "store"), where]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *words, *(["atomic"] if atomic else [])], check=False
    )
    old, new = {"a": b"old", "c": b"c"}, {"a": b"new", "d/b": b"b"}
    if done.returncode == 0:
        assert where == "before second commit" and not atomic  # there is none
    else:
        assert done.returncode == -signal.SIGKILL
    if atomic and where == "before commit":
        assert objects(store) == old
    puts = requests(replica, "put")
    publisher.publish([Publication("a", b"new")] if not atomic else [Publication("e", b"e")])
    if not atomic:
        assert requests(replica, "put") - puts <= 1  # a commit: the bytes are not sent again
    expected = {**(old if atomic and where == "before commit" else new)}
    if atomic:
        expected["e"] = b"e"
    assert objects(store) == expected
    assert list(store.list(".pipefs/moving/")) == []
    assert list((replica.folder / "unfinished").iterdir()) == []
    shown = settled(machine)
    assert {p: x for p, x in shown.items() if x is not None} == expected
    if expected["a"] == b"new":
        assert (machine.inode("a").xattrs or {})[b"user.k"] == b"v"


def test_what_a_killed_publication_had_landed_is_found_without_it(
    machine: Machine, tmp_path: Path, store: LocalStore
) -> None:
    words = [str(tmp_path / "home"), str(tmp_path / "store"), "before commit"]
    subprocess.run([sys.executable, "-c", _CHILD, *words], check=False)
    other = replica_of(tmp_path / "elsewhere", tmp_path / "store")
    with other.opened() as now:
        assert [i.path for i in now.walk()] == ["a", "d", "d/b"]
    machine.follow()
    assert machine.tree() == {"a": b"new", "d": None, "d/b": b"b"}


_WRITER = """
import sys
from pathlib import Path
from pipefs.publishing import Publisher, Publication
from tests.replicas import replica_of

publisher = Publisher(replica_of(Path(sys.argv[1]), Path(sys.argv[2])))
for n in range(5):
    publisher.publish([Publication(f"{sys.argv[3]}/{n}/{m}", b"%d" % m) for m in range(4)])
    publisher.publish([Publication("shared", sys.argv[3].encode() + b"%d" % n)])
"""


def test_two_processes_publish_at_once(machine: Machine, tmp_path: Path, replica: Replica) -> None:
    words = [sys.executable, "-c", _WRITER, str(tmp_path / "home"), str(tmp_path / "store")]
    writers = [subprocess.Popen([*words, name]) for name in ("x", "y")]
    assert [w.wait(120) for w in writers] == [0, 0]
    shown = settled(machine)
    files = {p for p, content in shown.items() if content is not None}
    assert files == {f"{w}/{n}/{m}" for w in "xy" for n in range(5) for m in range(4)} | {"shared"}
    assert shown["shared"] in {b"x4", b"y4"}
    with replica.opened() as now:
        assert {i.path for i in now.walk() if i.is_file} == files
        assert now.position() == machine.follower.position()
