"""`pipefs export` on a real S3 server, and what was exported, found again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipefs.buckets import open_place
from pipefs.cli.main import cli
from pipefs.errors import Refused
from pipefs.foreign import dvc, dws, t4
from pipefs.foreign.found import Foreign
from pipefs.foreign.places import Place
from pipefs.manifest import Entry
from pipefs.past.moment import MomentView
from pipefs.past.nodes import MemoryNodes
from pipefs.registry import Pipe
from pipefs.stores.local import LocalStore
from pipefs.stores.s3 import S3Store
from tests import pasts
from tests.foreign import content_of, put_below, source_of
from tests.machines import Machine
from tests.seaweed import SeaweedServer

Run = Callable[..., Result]

FILES = {f"d{n % 3}/{n:03}.csv": f"{n}\n".encode() * 50 for n in range(60)} | {
    "été 1+1.txt": b"summer",
    "empty": b"",
    "big": bytes(range(256)) * (80 << 10),
}


@pytest.fixture
def run(tmp_path: Path, seaweed: SeaweedServer) -> Run:
    """Run `pipefs` against the server, in a home of its own."""

    def go(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, words, env={"PIPEFS_HOME": str(tmp_path / "home")})
        assert done.exit_code == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return go


@pytest.fixture
def prefix() -> str:
    """Where in the bucket the pipe is."""
    return "team/sales"


@pytest.fixture
def url(run: Run, bucket: str, prefix: str) -> str:
    """A pipe `sales` with a snapshot v1, of which nothing is current any more."""
    url = f"s3://{bucket}/{prefix}".rstrip("/")
    run("create", "sales", url)
    with closing(S3Store(bucket, prefix)) as store:
        past = pasts.open_past(store)
        pasts.take(past, pasts.put_files(store, FILES), tag="v1", message="as it came")
        pasts.put_files(store, dict.fromkeys(FILES, b"overwritten"))
        store.delete("big")
    return url


@pytest.fixture
def place(url: str) -> Iterator[Place]:
    with open_place(Pipe("sales", url, "id")) as place:
        yield place


@pytest.mark.parametrize("prefix", ["", "team/sales"])
def test_every_format_holds_the_snapshot_and_no_copy(
    run: Run, place: Place, prefix: str, tmp_path: Path
) -> None:
    before = [o.key for o in place.root.list(place.prefix) if not o.key.startswith(".")]
    done = {}
    for name, more in (
        ("dws", ()),
        ("t4", ()),
        ("quilt3", ("--to", "team/sales")),
        ("dvc", ("--to", str(tmp_path / "repo"))),
    ):
        done[name] = json.loads(
            run("export", "sales", "v1", "--format", name, *more, "--json").stdout
        )
        assert (done[name]["files"], done[name]["bytes"]) == (
            len(FILES),
            sum(map(len, FILES.values())),
        )
    assert [o.key for o in place.root.list(place.prefix) if not o.key.startswith(".")] == before
    foreign = Foreign(place)
    labels = {s.format: s.label for s in foreign.refresh()}
    assert labels == {
        "dws": f"dws-{done['dws']['hash'][:7]}",
        "t4": f"t4-{done['t4']['hash'][:7]}",
        "quilt3": f"quilt-team-sales@{done['quilt3']['hash'][:7]}",
    }
    for label in labels.values():
        assert content_of(place, foreign.view(label)) == FILES
    found: dict[str, bytes] = {}
    for path in (tmp_path / "repo").iterdir():
        found |= content_of(place, dvc.view(place, path))
    assert found == FILES
    assert {foreign.described(s).message for s in foreign.snapshots()} == {"", "as it came"}


def test_a_part_is_exported_by_its_path(run: Run, place: Place, tmp_path: Path) -> None:
    out = run("export", "sales@v1/d1", "--format", "quilt3", "--to", "team/d1").stdout
    assert out.startswith("v1  quilt3 ")
    assert "20 files" in out
    assert "next: quilt3 install team/d1 --registry s3://" in out
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    part = {p: d for p, d in FILES.items() if p.startswith("d1/")}
    assert content_of(place, foreign.view(found.label)) == part
    single = run("export", "sales@v1/été 1+1.txt", "--format", "t4", "--json").stdout
    assert json.loads(single)["written"][0].endswith("été 1+1.txt")


def test_ls_cat_and_diff_take_labels_of_other_systems(run: Run, place: Place) -> None:
    run("export", "sales@v1", "--format", "t4")
    run("export", "sales@v1", "--format", "quilt3", "--to", "a/b")
    labels = [s.label for s in Foreign(place).refresh()]
    assert len(labels) == 2
    for label in labels:
        assert run("ls", f"sales@{label}/d0").stdout.split() == [
            p.removeprefix("d0/") for p in sorted(FILES) if p.startswith("d0/")
        ]
        assert run("cat", f"sales@{label}/d1/001.csv").stdout_bytes == FILES["d1/001.csv"]
    shown = run("snapshots", "sales", "--foreign").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["v1", *labels]
    assert all(line.endswith("as it came") for line in shown)
    assert run("snapshots", "sales").stdout.splitlines() == shown[:1]
    one, other = (f"sales@{label}/d1" for label in labels)
    assert "are the same" in run("diff", one, other).stdout
    assert "no snapshot 't4-0000000'" in run("ls", "sales@t4-0000000", code=3).stderr


def test_what_cannot_be_exported_says_why(run: Run, url: str, tmp_path: Path) -> None:
    for words, code, said in (
        (("sales", "v9", "--format", "dws"), 3, "no snapshot 'v9'"),
        (("nope", "v1", "--format", "dws"), 3, "no pipe"),
        (("sales", "--format", "dws"), 2, "name a snapshot"),
        (("sales", "live", "--format", "dws"), 2, "name a snapshot"),
        (("sales@v1", "v1", "--format", "dws"), 2, "two snapshots"),
        (("sales", "v1", "--format", "dws", "--to", "x"), 2, "--to says nothing"),
        (("sales", "v1", "--format", "t4", "--remote", "x"), 2, "for dvc only"),
        (("sales", "v1", "--format", "quilt3", "--to", "x"), 2, "cannot name a package"),
        (("sales", "v1", "--format", "dvc", "--remote", "a b"), 2, "cannot name a remote"),
        (("sales@v1/nope", "--format", "t4"), 3, "has no 'nope'"),
    ):
        assert said in run("export", *words, code=code).stderr
    run("create", "local")
    done = run("export", "local", "latest", "--format", "dws", code=4)
    assert "embedded store" in done.stderr


def test_the_registries_of_others_are_no_files_of_a_whole_bucket(
    bucket: str, tmp_path: Path
) -> None:
    """`.quilt/packages` and the like are hidden where they are; people's files beside them not."""
    keys = [
        ".quilt/packages/ab",
        ".quilt/named_packages/a/b/latest",
        ".quilt/snapshots/ab/",
        ".quilt/v2/tags/a@b/latest",
        ".quilt/workflows/config.yml",
        ".snapshots/ab.json.gz",
        "file",
    ]
    shown, past = {}, {}
    for prefix in ("", "p"):
        with closing(S3Store(bucket, prefix)) as store:
            for key in keys:
                store.put(key, b"x")
            machine = Machine(tmp_path / f"m{prefix}", store)
            try:
                machine.follower.reconcile()
                shown[prefix] = {p for p, data in machine.tree().items() if data is not None}
            finally:
                machine.close()
            now = MomentView(store, MemoryNodes(), time.time_ns() + 10**9, "@now")
            past[prefix] = {e.path for e in now.entries() if e.kind == "file"}
    of_people = {".quilt/workflows/config.yml", "file"}
    for found in (shown, past):
        assert {p for p in found[""] if not p.startswith("p/")} == of_people
        assert {".quilt/packages/ab", *of_people} <= found["p"]


@pytest.mark.parametrize("count", [3, 300])
def test_t4_11_a_snapshot_of_a_whole_bucket_is_kept_by_any_server(bucket: str, count: int) -> None:
    """Its key ends like a directory's, where this server keeps no bytes."""
    with closing(S3Store(bucket)) as root:
        place = Place(root, bucket)
        files = {f"{n:04}": b"%d" % n for n in range(count)}
        done = t4.write(source_of(place, put_below(root, "", files)))
        foreign = Foreign(place)
        (found,) = foreign.refresh()
        assert (found.hash, found.path) == (done.hash, "")
        assert foreign.described(found).message == "first"
        assert content_of(place, foreign.view(f"t4-{done.hash}")) == files


def test_an_embedded_pipe_has_no_bucket(tmp_path: Path) -> None:
    pipe = Pipe("local", (tmp_path / "store").as_uri(), "id")
    with pytest.raises(Refused, match="embedded"), open_place(pipe):
        pass
    with closing(LocalStore(str(tmp_path / "store"))) as root, pytest.raises(Refused):
        Place.of(root, pipe.url)


def test_a_bucket_without_versioning_is_read_as_it_is(seaweed: SeaweedServer) -> None:
    bucket = seaweed.make_bucket(versioning=False)
    with closing(S3Store(bucket)) as root:
        place = Place(root, bucket)
        entries = [
            Entry(path=e.path, version=None, etag=e.etag, size=e.size)
            for e in put_below(root, "", {"a": b"1", "b/c": b"22"})
        ]
        done = dws.write(source_of(place, entries))
        foreign = Foreign(place)
        foreign.refresh()
        view = foreign.view(f"dws-{done.hash}")
        assert content_of(place, view) == {"a": b"1", "b/c": b"22"}
