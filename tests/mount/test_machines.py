"""Several machines on one bucket, and other tools beside them."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mounted import Home, eventually, tree_of
from tests.promises.promised import promise
from tests.seaweed import SeaweedServer


@dataclass
class Pair:
    """Machines `a` and `b`, the pipe `p` mounted on both."""

    a: Home
    b: Home
    seaweed: SeaweedServer
    bucket: str

    @property
    def on_a(self) -> Path:
        return self.a.path("p")

    @property
    def on_b(self) -> Path:
        return self.b.path("p")

    def put(self, key: str, body: bytes) -> None:
        self.seaweed.client().put_object(Bucket=self.bucket, Key=f"p/{key}", Body=body)

    def keys(self, prefix: str = "") -> list[str]:
        found = self.seaweed.client().list_objects_v2(Bucket=self.bucket, Prefix=f"p/{prefix}")
        return [item["Key"].removeprefix("p/") for item in found.get("Contents", [])]

    def agree(self, folder: str = "") -> bool:
        return tree_of(self.on_a / folder) == tree_of(self.on_b / folder)


def _pair(seaweed: SeaweedServer) -> Pair:
    bucket = seaweed.make_bucket()
    pair = Pair(Home(seaweed.environment()), Home(seaweed.environment()), seaweed, bucket)
    pair.a.create("p", f"s3://{bucket}/p")
    pair.a.mount("p")
    pair.b.run("create", f"s3://{bucket}/p")
    pair.b.mount("p")
    return pair


@pytest.fixture(scope="module")
def shared_pair(seaweed: SeaweedServer) -> Iterator[Pair]:
    pair = _pair(seaweed)
    try:
        yield pair
    finally:
        pair.a.close()
        pair.b.close()


@pytest.fixture
def pair(shared_pair: Pair) -> Iterator[Pair]:
    """Both machines, mounted, whatever the test before did."""
    for home in (shared_pair.a, shared_pair.b):
        if not home.mounts():
            home.mount("p")
    yield shared_pair


def _says(path: Path, content: bytes) -> bool:
    with suppress(FileNotFoundError):
        return path.read_bytes() == content
    return False


# --- seen by the other -----------------------------------------------------------------------


@promise(
    "seen-elsewhere",
    "A closed file appears on other machines by itself, and so do its changes and its removal.",
)
def test_a_closed_file_appears_on_the_other_machine_by_itself(pair: Pair) -> None:
    (pair.on_a / "appears").write_bytes(b"one")
    eventually(lambda: _says(pair.on_b / "appears", b"one"), "the file is seen")
    (pair.on_b / "appears").write_bytes(b"two, from b")
    eventually(lambda: _says(pair.on_a / "appears", b"two, from b"), "the change comes back")
    (pair.on_a / "appears").unlink()
    eventually(lambda: not (pair.on_b / "appears").exists(), "the removal is seen")


def test_a_tree_is_the_same_on_a_machine_that_comes_later(pair: Pair) -> None:
    source = Path(re.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, pair.on_a / "later", ignore=ignore)
    pair.a.flush("p")
    late = Home(pair.seaweed.environment())
    try:
        late.run("create", f"s3://{pair.bucket}/p")
        path = late.mount("p")
        done = subprocess.run(
            ["diff", "-r", pair.on_a / "later", path / "later"], capture_output=True, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, b"")
        listing = ["find", ".", "-printf", "%p %M %s %T@\n"]
        a, b = (
            subprocess.run(listing, cwd=root, capture_output=True, check=True).stdout.splitlines()
            for root in (pair.on_a / "later", path / "later")
        )
        assert sorted(a) == sorted(b)
    finally:
        late.close()


@promise(
    "attributes-elsewhere",
    "Links, modes and times go to other machines by commits, without a new version of any object.",
)
def test_links_modes_and_times_arrive(pair: Pair) -> None:
    folder = pair.on_a / "attributes"
    folder.mkdir(mode=0o750)
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "link").symlink_to("script")
    (folder / "dangling").symlink_to("/no/where")
    (folder / "sub").mkdir()
    pair.a.flush("p")
    # After the upload, so that they are no metadata of the object.
    (folder / "script").chmod(0o751)
    os.utime(folder / "script", ns=(10**18, 10**18 + 123_456_789))
    os.utime(folder / "sub", ns=(10**18, 10**18 + 5))
    pair.a.flush("p")
    other = pair.on_b / "attributes"

    def arrived() -> bool:
        with suppress(FileNotFoundError):
            script = (other / "script").stat()
            return (
                stat.S_IMODE(script.st_mode) == 0o751
                and script.st_mtime_ns == 10**18 + 123_456_789
                and (other / "sub").stat().st_mtime_ns == 10**18 + 5
                and os.readlink(other / "link") == "script"
                and os.readlink(other / "dangling") == "/no/where"
                and stat.S_IMODE(other.stat().st_mode) == 0o750
            )
        return False

    eventually(arrived, "all attributes are there")
    client = pair.seaweed.client()
    found = client.list_object_versions(Bucket=pair.bucket, Prefix="p/attributes/script")
    assert len(found["Versions"]) == 1


@promise(
    "rename-elsewhere",
    "A renamed directory appears elsewhere whole, before its objects have followed by copies "
    "inside the store.",
)
def test_a_renamed_directory_of_300_files_is_seen_whole_before_the_copies_are_done(
    pair: Pair,
) -> None:
    old = pair.on_a / "before"
    old.mkdir()
    for n in range(300):
        (old / f"f{n}").write_text(f"{n}")
    pair.a.flush("p")
    eventually(lambda: len(os.listdir(pair.on_b / "before")) == 300, "all files are seen")
    old.rename(pair.on_a / "after")

    def whole() -> bool:
        with suppress(FileNotFoundError):
            names = os.listdir(pair.on_b / "after")
            # Never in parts: the directory moved as one.
            assert len(names) in (0, 300)
            return len(names) == 300
        return False

    eventually(whole, "the directory has its new name")
    assert not (pair.on_b / "before").exists()
    assert (pair.on_b / "after" / "f123").read_text() == "123"
    pair.a.flush("p")
    assert pair.keys("before/f") == []
    assert sorted(pair.keys("after/f")) == sorted(f"after/f{n}" for n in range(300))
    for n in range(300):
        assert (pair.on_b / "after" / f"f{n}").read_text() == f"{n}"


@promise(
    "version-of-a-handle",
    "An open handle reads the version that was current when its name was looked up, to the "
    "end, whatever is written elsewhere.",
)
def test_an_open_handle_reads_its_version_to_the_end(pair: Pair) -> None:
    old, new = os.urandom(6 << 20), os.urandom(6 << 20)
    (pair.on_a / "held").write_bytes(old)
    pair.a.flush("p")
    eventually(lambda: (pair.on_b / "held").exists(), "b has the file")
    with open(pair.on_b / "held", "rb", buffering=0) as held:
        head = held.read(1 << 20)
        (pair.on_a / "held").write_bytes(new)
        pair.a.flush("p")
        eventually(lambda: _says(pair.on_b / "held", new), "a new open reads the new version")
        rest = b"".join(iter(lambda: held.read(1 << 20), b""))
        assert head + rest == old
        assert os.fstat(held.fileno()).st_size == len(old)


@promise(
    "removed-elsewhere",
    "A file that is removed elsewhere is read to the end by who has it open here, also what "
    "was not cached.",
)
def test_a_file_removed_elsewhere_is_read_to_the_end_by_who_has_it_open(pair: Pair) -> None:
    data = os.urandom(3 << 20)
    (pair.on_a / "going").write_bytes(data)
    pair.a.flush("p")
    eventually(lambda: (pair.on_b / "going").exists(), "b has the file")
    with open(pair.on_b / "going", "rb", buffering=0) as held:
        head = held.read(1000)
        (pair.on_a / "going").unlink()
        pair.a.flush("p")
        eventually(lambda: not (pair.on_b / "going").exists(), "it is gone on b")
        assert head + held.read() + held.read() == data


# --- conflicts -------------------------------------------------------------------------------


@promise(
    "two-writers",
    "When two machines change the same version both contents are kept, on both machines, and "
    "the user is told.",
)
def test_two_writers_from_the_same_base_lose_nothing_and_are_told(pair: Pair) -> None:
    (pair.on_a / "q3.csv").write_text("base")
    pair.a.flush("p")
    eventually(lambda: _says(pair.on_b / "q3.csv", b"base"), "b has the base")
    with open(pair.on_b / "q3.csv", "w") as late:
        late.write("from b")
        late.flush()
        (pair.on_a / "q3.csv").write_text("from a")
        pair.a.flush("p")
    pair.b.flush("p")
    status = pair.b.status("p")
    assert status["conflicts"] == 1
    (item,) = status["conflict_list"]
    assert item["path"] == "q3.csv"
    kept = item["kept_as"]
    assert re.fullmatch(r"q3\.conflict-[\w.-]+-\d{8}T\d{4,6}Z\.csv", kept)
    for root in (pair.on_b, pair.on_a):
        eventually(lambda root=root: _says(root / "q3.csv", b"from a"), "theirs has the name")
        eventually(lambda root=root: _says(root / kept, b"from b"), "ours is kept beside it")
    assert os.getxattr(pair.on_b / kept, "user.pipefs.state") == b"conflict"
    shown = pair.b.run("status", "p").stdout
    assert "1 conflict" in shown
    assert kept in shown
    assert sorted(k for k in pair.keys("q3")) == sorted(["q3.csv", kept])
    # Dealing with it by hand is enough.
    (pair.on_b / kept).unlink()
    pair.b.flush("p")
    assert pair.b.status("p")["conflicts"] == 0


def _in_conflict(pair: Pair, name: str) -> str:
    """Both wrote a new file of this name, a first; where b's is."""
    (pair.on_a / name).write_text("from a")
    (pair.on_b / name).write_text("from b")
    pair.a.flush("p")
    pair.b.flush("p")
    (item,) = (c for c in pair.b.status("p")["conflict_list"] if c["path"] == name)
    eventually(lambda: _says(pair.on_a / item["kept_as"], b"from b"), "a has the copy")
    assert _says(pair.on_b / name, b"from a")
    return str(item["kept_as"])


@promise(
    "resolve",
    "`pipefs resolve` ends a conflict on every machine; the content that goes stays in the history "
    "of its path.",
)
def test_d6_15_resolve_ends_a_conflict_on_both_machines(pair: Pair) -> None:
    copy = _in_conflict(pair, "mine.csv")
    with open(pair.on_b / "mine.csv") as held:
        said = pair.b.run("resolve", str(pair.on_b / copy), "--keep", "mine").stdout
        assert "yours has the name now" in said
        # The kernel of this machine knew the other file by the name, and has it open.
        assert (pair.on_b / "mine.csv").read_text() == "from b"
        assert not (pair.on_b / copy).exists()
        assert held.read() == "from a"
    assert os.getxattr(pair.on_b / "mine.csv", "user.pipefs.state") != b"conflict"
    other = _in_conflict(pair, "theirs.csv")
    pair.b.run("resolve", "p/theirs.csv", "--keep", "theirs")
    both = _in_conflict(pair, "both.csv")
    assert os.getxattr(pair.on_b / both, "user.pipefs.state") == b"conflict"
    pair.b.run("resolve", "p/both.csv", "--keep", "both")
    assert os.getxattr(pair.on_b / both, "user.pipefs.state") == b"clean"
    assert pair.b.status("p")["conflicts"] == 0
    pair.b.flush("p")
    eventually(lambda: _says(pair.on_a / "mine.csv", b"from b"), "a sees who won")
    eventually(lambda: not (pair.on_a / copy).exists(), "a sees that the copy went")
    eventually(lambda: not (pair.on_a / other).exists(), "and the other one")
    assert _says(pair.on_a / "theirs.csv", b"from a") and _says(pair.on_a / both, b"from b")
    for path in ("mine.csv", "theirs.csv", "both.csv"):
        pair.b.run("resolve", f"p/{path}", "--keep", "mine", code=3)
    was = {v.read_bytes() for v in (pair.on_a / ".versions/mine.csv").iterdir()}
    assert was == {b"from a", b"from b"}


@promise(
    "two-makers",
    "A name that is made on two machines at once is kept twice: `O_EXCL` and locks count on "
    "one machine.",
)
def test_a_file_made_on_both_machines_is_kept_twice(pair: Pair) -> None:
    (pair.on_a / "made.txt").write_text("a's")
    (pair.on_b / "made.txt").write_text("b's")
    pair.a.flush("p")
    pair.b.flush("p")
    eventually(lambda: pair.agree(), "both agree")
    found = {p.read_text() for p in pair.on_a.glob("made*.txt")}
    assert found == {"a's", "b's"}


@promise(
    "change-wins",
    "A change wins over a removal elsewhere.",
)
def test_a_change_wins_over_a_removal(pair: Pair) -> None:
    (pair.on_a / "wanted").write_text("base")
    pair.a.flush("p")
    eventually(lambda: _says(pair.on_b / "wanted", b"base"), "b has it")
    with open(pair.on_b / "wanted", "a") as file:
        file.write(" and more")
        file.flush()
        (pair.on_a / "wanted").unlink()
        pair.a.flush("p")
    pair.b.flush("p")
    eventually(lambda: _says(pair.on_a / "wanted", b"base and more"), "it is back on a")


# --- other tools -----------------------------------------------------------------------------


def test_what_another_tool_puts_and_deletes_is_seen_after_a_full_refresh(pair: Pair) -> None:
    pair.put("tool/new.csv", b"by boto3")
    assert "nothing changed" not in pair.a.run("refresh", "p", "--full").stdout
    assert _says(pair.on_a / "tool/new.csv", b"by boto3")
    # The other machine learns it from the first one's commit, without a listing of its own.
    eventually(lambda: _says(pair.on_b / "tool/new.csv", b"by boto3"), "b sees it too")
    pair.put("tool/new.csv", b"by boto3, again")
    pair.b.run("refresh", "p", "--full")
    assert _says(pair.on_b / "tool/new.csv", b"by boto3, again")
    pair.seaweed.client().delete_object(Bucket=pair.bucket, Key="p/tool/new.csv")
    pair.a.run("refresh", "p", "--full")
    assert not (pair.on_a / "tool/new.csv").exists()
    eventually(lambda: not (pair.on_b / "tool/new.csv").exists(), "b sees that it is gone")


def test_another_tools_write_meanwhile_is_a_conflict_and_not_overwritten(pair: Pair) -> None:
    (pair.on_a / "contested.txt").write_text("base")
    pair.a.flush("p")
    with open(pair.on_a / "contested.txt", "w") as file:
        file.write("ours")
        file.flush()
        pair.put("contested.txt", b"the tool's")
    pair.a.flush("p")
    assert _says(pair.on_a / "contested.txt", b"the tool's")
    (kept,) = pair.on_a.glob("contested.conflict-*.txt")
    assert kept.read_text() == "ours"
    assert "contested.txt" in [c["path"] for c in pair.a.status("p")["conflict_list"]]


@promise(
    "dot-pipefs",
    "Deleting `.pipefs/` in the bucket loses no content and no name that a machine knows.",
)
def test_deleting_the_folder_dot_pipefs_loses_nothing(pair: Pair) -> None:
    (pair.on_a / "survives").mkdir()
    for n in range(20):
        (pair.on_a / "survives" / f"{n}").write_text(f"{n}")
    pair.a.flush("p")
    eventually(lambda: pair.agree("survives"), "b has them")
    before = pair.a.status("p")["epoch"]
    client = pair.seaweed.client()
    described = client.get_object(Bucket=pair.bucket, Key="p/.pipefs/pipe.json")["Body"].read()
    for key in pair.keys(".pipefs/"):
        client.delete_object(Bucket=pair.bucket, Key=f"p/{key}")
    (pair.on_a / "survives" / "after").write_text("written after it went")
    (pair.on_b / "survives" / "after b").write_text("and on b")
    for home in (pair.a, pair.b, pair.a):
        home.run("refresh", "p", "--full")
        home.flush("p")
    eventually(lambda: pair.agree(), "both agree again")
    assert (pair.on_b / "survives" / "after").read_text() == "written after it went"
    assert (pair.on_a / "survives" / "7").read_text() == "7"
    epochs = {home.status("p")["epoch"] for home in (pair.a, pair.b)}
    assert len(epochs) == 1
    assert before not in epochs
    again = client.get_object(Bucket=pair.bucket, Key="p/.pipefs/pipe.json")["Body"].read()
    assert json.loads(again)["pipe_id"] == json.loads(described)["pipe_id"]
    assert ".pipefs/format.json" in pair.keys(".pipefs/")
    (pair.on_b / "survives" / "7").write_text("changed in the new epoch")
    eventually(
        lambda: _says(pair.on_a / "survives" / "7", b"changed in the new epoch"),
        "machines follow each other in the new epoch",
    )


def test_the_hidden_folder_is_not_shown_and_cannot_be_made(pair: Pair) -> None:
    assert ".pipefs" not in os.listdir(pair.on_a)
    assert not (pair.on_a / ".pipefs").exists()
    with pytest.raises(OSError):
        (pair.on_a / ".pipefs").mkdir()
