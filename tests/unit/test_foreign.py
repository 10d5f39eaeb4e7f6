"""Formats of other systems: exact bytes, both directions, and what has no place in them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from pipefs.errors import AlreadyExists, Conflict, Corrupt, NotFound, Refused, UsageError
from pipefs.foreign import dvc, dws, hashing, quilt3, quiltmanifest, t4
from pipefs.foreign.exports import File, Source
from pipefs.foreign.found import Foreign
from pipefs.foreign.pins import common_prefix
from pipefs.foreign.places import Place
from pipefs.manifest import Entry
from pipefs.records import Content
from pipefs.stores.local import LocalStore
from pipefs.stores.wrap import CountingStore
from tests.foreign import content_of, put_below, source_of

FILES = {"a.csv": b"1", "a/x": b"22", "d/e/f": b"", "été.txt": b"summer", "big": bytes(9 << 20)}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(str(tmp_path / "bucket"))
    yield store
    store.close()


@pytest.fixture(params=["", "team/sales/"])
def place(request: pytest.FixtureRequest, root: LocalStore) -> Place:
    """A pipe that is the whole bucket, and one below a prefix."""
    return Place(root, "bucket", request.param)


def _source(place: Place) -> Source:
    return source_of(place, put_below(place.root, place.prefix, FILES))


def _overwrite(place: Place) -> None:
    put_below(place.root, place.prefix, dict.fromkeys(FILES, b"overwritten"))
    place.root.delete(place.full("a.csv"))


# --- where a pipe lies ------------------------------------------------------------------------


def test_a_place_knows_its_keys(root: LocalStore) -> None:
    place = Place.of(root, "s3://bucket/team/sales")
    assert place.full("a") == "team/sales/a"
    assert place.inside("team/sales/a") == "a"
    assert place.inside("team/salesmen/a") is None
    assert place.inside("team/sales/") is None
    assert Place.of(root, "s3://bucket").full("a") == "a"
    with pytest.raises(Refused, match="embedded"):
        Place.of(root, "file:///srv/data")


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        (["a"], ""),
        (["a/b", "c"], ""),
        (["a/b/c", "a/b/d"], "a/b/"),
        (["a/b", "a/bc"], "a/"),
        (["a/b"], "a/"),
        (["a/b", "a/b/c"], "a/"),
    ],
)
def test_the_listing_is_of_what_all_keys_are_below(keys: list[str], prefix: str) -> None:
    assert common_prefix(keys) == prefix


# --- dws --------------------------------------------------------------------------------------


def test_dws_24_the_id_is_gits_hash_of_the_json() -> None:
    data = dws.encode({"b": "2", "a/é": "1"})
    assert data == b'{\n  "a/\\u00e9": "1",\n  "b": "2"\n}'
    # What `printf hello | git hash-object --stdin` says.
    assert dws.hash_of(b"hello") == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"


def test_dws_holds_keys_of_the_bucket_and_is_read_back(place: Place) -> None:
    done = dws.write(_source(place))
    _overwrite(place)
    packed = place.root.get(f".snapshots/{done.hash}.json.gz", None, 0, 1 << 20)
    versions = json.loads(gzip.decompress(packed))
    assert sorted(versions) == sorted(place.prefix + p for p in FILES)
    assert dws.hash_of(gzip.decompress(packed)) == done.hash
    assert bool(done.warnings) == bool(place.prefix)
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    assert found.label == f"dws-{done.hash[:7]}"
    assert content_of(place, foreign.view(found.label)) == FILES


def test_an_export_twice_is_one_object(place: Place) -> None:
    source = _source(place)
    first, second = dws.write(source), dws.write(source)
    assert first.written == second.written
    assert len(list(place.root.list_versions(".snapshots/"))) == 1


def test_a_key_of_two_versions_keeps_the_file_whose_own_it_is(root: LocalStore) -> None:
    place = Place(root, "bucket")
    old = put_below(root, "", {"a": b"renamed to b"})[0]
    new = put_below(root, "", {"a": b"another"})[0]
    renamed = msgspec.structs.replace(old, path="0", key="a")
    for entries in ([renamed, new], [new, renamed]):
        done = dws.write(source_of(place, entries))
        (pin,) = dws.read(place, done.hash)
        assert (pin.full, pin.version) == ("a", new.version)
        assert any(w.startswith("0 left out") for w in done.warnings)


def test_bytes_that_are_no_snapshot_of_dws_are_refused() -> None:
    for data in (b"", b"x", gzip.compress(b"[]"), gzip.compress(b'{"a": 1}')):
        with pytest.raises(Corrupt, match="Data Workspaces"):
            dws.decode(data, "x")


# --- t4 ---------------------------------------------------------------------------------------


def test_t4_10_a_snapshot_is_the_bytes_that_t4_would_write(place: Place) -> None:
    source = _source(place)
    done = t4.write(source)
    prefix = place.prefix.rstrip("/")
    data = place.root.get(f".quilt/snapshots/{done.hash}/{prefix}", None, 0, 1 << 20)
    # T4's algorithm, from a listing as it sees it.
    contents = {
        v.key: {"Key": v.key, "ETag": f'"{v.etag}"', "VersionId": v.version_id}
        for v in sorted(place.root.list_versions(place.prefix), key=lambda v: v.key.encode())
        if v.is_latest and not v.key.startswith(".quilt/snapshots")
    }
    whole = {"contents": contents, "message": "first", "path": f"bucket/{prefix}"}
    assert data == json.dumps(whole, default=str).encode()
    assert done.hash == hashlib.sha256(data).hexdigest()


def test_t4_11_a_directory_and_a_single_file_can_be_one(place: Place) -> None:
    entries = put_below(place.root, place.prefix, FILES)
    folder = t4.write(source_of(place, entries, path="d"))
    single = t4.write(source_of(place, entries, path="a.csv"))
    foreign = Foreign(place)
    found = {s.path: s for s in foreign.refresh()}
    assert set(found) == {"d", "a.csv"}
    assert found["d"].key == f".quilt/snapshots/{folder.hash}/{place.prefix}d"
    assert found["a.csv"].key == f".quilt/snapshots/{single.hash}/{place.prefix}a.csv"
    assert content_of(place, foreign.view(found["d"].label)) == {"d/e/f": b""}
    assert content_of(place, foreign.view(found["a.csv"].label)) == {"a.csv": b"1"}


def test_t4_12_snapshots_are_listed_newest_first_with_their_messages(place: Place) -> None:
    entries = put_below(place.root, place.prefix, FILES)
    for message in ("one", 'two "}, "message": "x", "path": "y"}', "", "long " * 2000):
        t4.write(source_of(place, entries, message=message))
    foreign = Foreign(place)
    found = [foreign.described(s) for s in foreign.refresh()]
    # Without a message the tag says what it is.
    said = ["long " * 2000, "v1", 'two "}, "message": "x", "path": "y"}', "one"]
    assert [s.message for s in found] == said
    assert [s.time_ns for s in found] == sorted((s.time_ns for s in found), reverse=True)


def test_snapshots_of_t4_that_cannot_hold_the_pipe_are_not_shown(root: LocalStore) -> None:
    sales = Place(root, "bucket", "team/sales/")
    entries = put_below(root, sales.prefix, FILES)
    t4.write(source_of(sales, entries, path="d"))
    assert [s.path for s in Foreign(sales).refresh()] == ["d"]
    assert Foreign(Place(root, "bucket", "team/prices/")).refresh() == []
    assert [s.path for s in Foreign(Place(root, "bucket")).refresh()] == ["team/sales/d"]
    # One of all that begins with `team/s` holds it too.
    root.put(t4.key_of("1" * 64, "team/s"), b"{}")
    assert len(Foreign(sales).refresh()) == 2


def test_t4_14_a_hash_may_be_cut_and_must_be_clear(root: LocalStore) -> None:
    place = Place(root, "bucket")
    entries = put_below(root, "", FILES)
    done = t4.write(source_of(place, entries))
    foreign = Foreign(place)
    foreign.refresh()
    for digits in (6, 7, 12, 64):
        assert foreign.find(f"t4-{done.hash[:digits]}").hash == done.hash
    for name in (f"t4-{done.hash[:5]}", "t4-", "dws-" + done.hash[:7], "v1"):
        with pytest.raises(NotFound):
            foreign.find(name)
    twin = f".quilt/snapshots/{done.hash[:10]}{'0' * 54}/"
    root.put(twin, b"{}")
    foreign.refresh()
    with pytest.raises(Conflict, match="2 snapshots"):
        foreign.find(f"t4-{done.hash[:10]}")
    assert foreign.find(f"t4-{done.hash[:12]}").hash == done.hash


def test_t4_15_snapshots_of_different_paths_overlap(place: Place) -> None:
    entries = put_below(place.root, place.prefix, FILES)
    whole = t4.write(source_of(place, entries))
    part = t4.write(source_of(place, entries, path="d"))
    foreign = Foreign(place)
    foreign.refresh()
    one = list(foreign.view(f"t4-{part.hash}").entries([b"d"]))
    all_ = list(foreign.view(f"t4-{whole.hash}").entries([b"d"]))
    assert [e.path for e in one] == ["d", "d/e", "d/e/f"]
    # Only the time of directories that no object stands for differs: it is the snapshot's.
    assert [e for e in one if e.kind == "file"] == [e for e in all_ if e.kind == "file"]


def test_bytes_that_are_no_snapshot_of_t4_are_refused() -> None:
    for data in (b"", b"[]", b'{"contents": []}', b'{"contents": {"a": {}}}'):
        with pytest.raises(Corrupt, match="T4"):
            t4.decode(data, "x")


# --- quilt3 -----------------------------------------------------------------------------------


def test_t4_22_a_package_says_where_each_version_is(place: Place) -> None:
    entries = put_below(place.root, place.prefix, FILES)
    done = quilt3.write(source_of(place, entries), "team/sales")
    data = place.root.get(f".quilt/packages/{done.hash}", None, 0, 1 << 20)
    first, *lines = (json.loads(line) for line in data.decode().splitlines())
    assert first["version"] == "v0"
    assert first["message"] == "first"
    assert [x["logical_key"] for x in lines] == ["a/x", "a.csv", "big", "d/e/f", "été.txt"]
    versions = {e.path: e.version for e in entries}
    quoted = {"été.txt": "%C3%A9t%C3%A9.txt"}
    for line in lines:
        path = line["logical_key"]
        shown = quoted.get(path, path)
        url = f"s3://bucket/{place.prefix}{shown}?versionId={versions[path]}"
        assert line["physical_keys"] == [url]
        assert line["hash"] == {
            "type": "sha2-256-chunked",
            "value": _chunked(FILES[path]),
        }
    for pointer in place.root.list(".quilt/named_packages/team/sales/"):
        assert place.root.get(pointer.key, None, 0, 99).decode() == done.hash


def _chunked(data: bytes) -> str:
    step = 8 << 20
    parts = [data[n : n + step] for n in range(0, len(data), step)]
    digests = b"".join(hashlib.sha256(p).digest() for p in parts)
    return base64.b64encode(hashlib.sha256(digests).digest()).decode()


def test_a_package_is_read_back_after_everything_changed(place: Place) -> None:
    done = quilt3.write(_source(place), "team/sales")
    _overwrite(place)
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    assert found.label == f"quilt-team-sales@{done.hash[:7]}"
    assert found.message == "first"
    assert content_of(place, foreign.view(found.label)) == FILES


def test_a_package_of_a_directory_has_keys_below_it(place: Place) -> None:
    entries = put_below(place.root, place.prefix, FILES)
    done = quilt3.write(source_of(place, entries, path="d"), "team/d")
    single = quilt3.write(source_of(place, entries, path="d/e/f"), "team/f")
    foreign = Foreign(place)
    foreign.refresh()
    assert content_of(place, foreign.view(f"quilt-team-d@{done.hash}")) == {"d/e/f": b""}
    assert content_of(place, foreign.view(f"quilt-team-f@{single.hash}")) == {"d/e/f": b""}
    data = place.root.get(f".quilt/packages/{done.hash}", None, 0, 1 << 20)
    assert json.loads(data.splitlines()[1])["logical_key"] == "e/f"


def test_nothing_is_read_where_hashes_are_known(root: LocalStore) -> None:
    place = Place(CountingStore(root), "bucket")
    entries = [
        msgspec.structs.replace(e, checksum=f"sha256:{hashlib.sha256(FILES[e.path]).hexdigest()}")
        for e in put_below(root, "", FILES)
    ]
    read: list[int] = []
    done = quilt3.write(source_of(place, entries), "a/b", progress=read.append)
    assert read == []
    lines = root.get(f".quilt/packages/{done.hash}", None, 0, 1 << 20).decode().splitlines()[1:]
    hashes = {x["logical_key"]: x["hash"] for x in map(json.loads, lines)}
    plain = hashlib.sha256(FILES["big"]).hexdigest()
    assert hashes.pop("big") == {"type": "SHA256", "value": plain}
    assert {p: h["value"] for p, h in hashes.items()} == {
        p: _chunked(d) for p, d in FILES.items() if p != "big"
    }
    # A plain SHA-256 is what our own manifests call a checksum.
    foreign = Foreign(place)
    foreign.refresh()
    (big,) = foreign.view(f"quilt-a-b@{done.hash}").entries([b"big"])
    assert big.checksum == f"sha256:{plain}"


def test_latest_moves_only_where_pipefs_or_nobody_put_it(root: LocalStore) -> None:
    place = Place(root, "bucket")
    source = _source(place)
    pointer = ".quilt/named_packages/a/b/latest"
    theirs = quiltmanifest.encode({"version": "v0", "message": None}, [])
    top = hashlib.sha256(theirs).hexdigest()
    root.put(f".quilt/packages/{top}", theirs)
    root.put(pointer, top.encode())
    with pytest.raises(Conflict, match="not written by pipefs"):
        quilt3.write(source, "a/b")
    done = quilt3.write(source, "a/b", force=True)
    assert root.get(pointer, None, 0, 99).decode() == done.hash
    put_below(root, "", {"a.csv": b"changed"})
    again = quilt3.write(source_of(place, put_below(root, "", {"z": b"z"})), "a/b")
    assert root.get(pointer, None, 0, 99).decode() == again.hash
    revisions = [k.key for k in root.list(".quilt/named_packages/a/b/")]
    assert len(revisions) == 3


def test_a_latest_that_moves_meanwhile_is_not_taken_back(root: LocalStore) -> None:
    place = Place(root, "bucket")
    source = _source(place)
    quilt3.write(source, "a/b")
    changed = source_of(place, put_below(root, "", {"big": bytes(10 << 20)}))
    pointer = ".quilt/named_packages/a/b/latest"

    def meanwhile(_count: int) -> None:
        root.put(pointer, b"f" * 64)

    with pytest.raises(Conflict, match="meanwhile"):
        quilt3.write(changed, "a/b", progress=meanwhile)
    assert root.get(pointer, None, 0, 99) == b"f" * 64


@pytest.mark.parametrize("name", ["sales", "a/b/c", "a/b c", "", "a/"])
def test_names_that_quilt3_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="package"):
        quilt3.package_name(name)


def test_the_default_package_is_called_like_the_pipe() -> None:
    assert quilt3.package_name(quilt3.default_name("sales.2026")) == "pipefs/sales-2026"


def test_packages_of_other_places_are_not_ours(root: LocalStore) -> None:
    sales = Place(root, "bucket", "sales/")
    quilt3.write(source_of(sales, put_below(root, "sales/", FILES)), "a/sales")
    other = Foreign(Place(root, "bucket", "other/"))
    assert other.refresh() == []
    assert [s.name for s in Foreign(Place(root, "bucket")).refresh()] == ["a/sales"]
    assert Foreign(Place(root, "another")).refresh() == []


def test_what_was_read_of_revisions_is_not_read_again(root: LocalStore) -> None:
    counted = CountingStore(root)
    quilt3.write(_source(Place(root, "bucket")), "a/b")
    foreign = Foreign(Place(counted, "bucket"))
    first = foreign.refresh()
    assert len(first) == 1
    reads = counted.counts()["get"].requests
    assert reads == 2
    assert foreign.refresh() == first
    assert counted.counts()["get"].requests == reads


def test_a_package_with_two_versions_of_a_key_shows_logical_keys(root: LocalStore) -> None:
    place = Place(root, "bucket")
    one, two = (put_below(root, "", {"k": data})[0] for data in (b"one", b"two"))
    first = {"version": "v0", "message": "m"}
    lines = [
        quiltmanifest.line(
            name, quiltmanifest.url_of("bucket", "k", e.version), 3, {"type": "x", "value": "y"}
        )
        for name, e in (("new/k", two), ("old/k", one))
    ]
    top = quiltmanifest.top_hash(first, lines)
    root.put(f".quilt/packages/{top}", quiltmanifest.encode(first, lines))
    root.put(".quilt/named_packages/a/b/1700000000", top.encode())
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    assert content_of(place, foreign.view(found.label)) == {"new/k": b"two", "old/k": b"one"}


def test_the_second_layout_of_registries_is_read(root: LocalStore) -> None:
    place = Place(root, "bucket")
    done = quilt3.write(_source(place), "a/b")
    data = root.get(f".quilt/packages/{done.hash}", None, 0, 1 << 20)
    for item in list(root.list(".quilt/")):
        root.delete(item.key)
    root.put(f".quilt/v2/manifests/a@b/{done.hash}/manifest.jsonl", data)
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    assert (found.name, found.hash) == ("a/b", done.hash)
    assert content_of(place, foreign.view(found.label)) == FILES


# --- dvc --------------------------------------------------------------------------------------


def test_dvc_files_name_versions_and_are_read_back(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    done = dvc.write(_source(place), folder, remote="s3")
    _overwrite(place)
    at_root = {"a.csv.dvc", "a.dvc", "big.dvc", "d.dvc", "été.txt.dvc"}
    assert {p.name for p in folder.iterdir()} == ({"sales.dvc"} if place.prefix else at_root)
    seen: dict[str, bytes] = {}
    for path in folder.iterdir():
        seen |= content_of(place, dvc.view(place, path))
    assert seen == FILES
    assert done.next[-1] == "dvc pull"
    for path in folder.iterdir():
        (out,) = yaml.safe_load(path.read_text("utf-8"))["outs"]
        files = out.get("files") or [out]
        for item in files:
            at = out["path"] + (f"/{item['relpath']}" if "relpath" in item else "")
            data = FILES[at.removeprefix("sales/")]
            assert item["md5"] == hashlib.md5(data).hexdigest()
            assert item["size"] == len(data)


def test_dvc_finds_keys_only_from_the_right_folder(root: LocalStore, tmp_path: Path) -> None:
    place = Place(root, "bucket", "team/sales/")
    source = _source(place)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = s3\n")
    with pytest.raises(UsageError, match="would not find"):
        dvc.write(source, tmp_path / "data", remote="s3")
    deeper = dvc.write(source, tmp_path / "team", remote="s3")
    assert deeper.next[0] == "dvc remote add --force s3 s3://bucket"
    top = dvc.write(source, tmp_path, remote="s3", endpoint_url="http://127.0.0.1:1")
    assert top.next == [
        "dvc remote add --force s3 s3://bucket/team",
        "dvc remote modify s3 version_aware true",
        "dvc remote modify s3 endpointurl http://127.0.0.1:1",
        "dvc pull",
    ]
    text = "['remote \"s3\"']\n    url = s3://bucket/team/\n    version_aware = true\n"
    (tmp_path / ".dvc" / "config").write_text(text)
    assert dvc.write(source, tmp_path, remote="s3").next == ["dvc pull"]
    assert content_of(place, dvc.view(place, tmp_path / "sales.dvc")) == FILES


def test_dvc_files_of_others_are_not_overwritten(root: LocalStore, tmp_path: Path) -> None:
    place = Place(root, "bucket", "sales/")
    source = _source(place)
    (tmp_path / "sales.dvc").write_text("outs:\n- path: sales\n")
    with pytest.raises(AlreadyExists, match="pipefs did not write it"):
        dvc.write(source, tmp_path, remote="s3")
    assert "cloud" not in (tmp_path / "sales.dvc").read_text()
    dvc.write(source, tmp_path, remote="s3", force=True)
    dvc.write(source, tmp_path, remote="s3")
    assert "cloud" in (tmp_path / "sales.dvc").read_text()


def test_names_of_any_kind_survive_yaml(root: LocalStore, tmp_path: Path) -> None:
    place = Place(root, "bucket", "p/")
    files = dict.fromkeys(("'q", '"q"', "a: b", "- x", "😀", "\u2028", "\x85", "1e5"), b"x")
    dvc.write(source_of(place, put_below(root, "p/", files)), tmp_path, remote="s3")
    assert content_of(place, dvc.view(place, tmp_path / "p.dvc")) == files


def test_a_dvc_file_without_versions_says_what_is_missing(root: LocalStore, tmp_path: Path) -> None:
    place = Place(root, "bucket")
    path = tmp_path / "x.dvc"
    path.write_text("outs:\n- md5: 0123\n  size: 1\n  path: x\n")
    with pytest.raises(UsageError, match="version of each file"):
        dvc.view(place, path)
    path.write_text("[")
    with pytest.raises(Corrupt, match="YAML"):
        dvc.view(place, path)
    path.write_text("outs: 3")
    with pytest.raises(Corrupt, match=r"no \.dvc file"):
        dvc.view(place, path)
    with pytest.raises(NotFound):
        dvc.view(place, tmp_path / "nope.dvc")


def test_what_is_not_at_its_own_key_is_left_out_and_said(root: LocalStore, tmp_path: Path) -> None:
    place = Place(root, "bucket", "p/")
    entries = put_below(root, "p/", {"a": b"1", "b": b"2"})
    entries[1] = msgspec.structs.replace(entries[1], path="c", key="b")
    done = dvc.write(source_of(place, entries), tmp_path, remote="s3")
    assert done.files == 1
    assert any(w.startswith("c left out: its bytes are at the key b") for w in done.warnings)
    only = source_of(place, entries[1:])
    with pytest.raises(Refused, match="no file that DVC could track"):
        dvc.write(only, tmp_path, remote="s3")


def test_an_etag_that_is_no_md5_is_not_taken_for_one(root: LocalStore) -> None:
    place = Place(CountingStore(root), "bucket")
    made = {"small": b"s", "large": bytes(100_000), "other": bytes(100_001)}
    files = [
        File(e.path, Content(e.path, e.version, e.etag, e.size)) for e in put_below(root, "", made)
    ]
    expected = [hashlib.md5(d).hexdigest() for d in made.values()]
    read: list[int] = []
    assert hashing.Reader(place, read.append).md5s(files) == expected
    assert sum(read) == 1  # the store is known to have MD5 for ETags
    lying = [msgspec.structs.replace(f.content, etag="0" * 32) for f in files]
    read.clear()
    wrong = [File(f.path, c) for f, c in zip(files, lying, strict=True)]
    assert hashing.Reader(place, read.append).md5s(wrong) == expected
    multipart = [
        File(f.path, msgspec.structs.replace(f.content, etag=f"{f.content.etag}-3")) for f in files
    ]
    assert hashing.Reader(place).md5s(multipart) == expected


# --- what all share ---------------------------------------------------------------------------


def test_what_has_no_place_in_a_format_is_counted(root: LocalStore) -> None:
    place = Place(root, "bucket")
    entries = put_below(root, "", {"a": b"1", "d/b": b"2"})
    entries[0].links = 1
    entries += [
        Entry(path="s", kind="symlink", target="a"),
        Entry(path="p", kind="fifo"),
        Entry(path="l", kind="link", link="a"),
        Entry(path="d/l", kind="link", link="a"),
        Entry(path="gone", size=3),
    ]
    found = source_of(place, entries).read()
    assert sorted(f.path for f in found.files) == ["a", "d/b", "d/l", "l"]
    assert sorted(found.warnings) == [
        "1 file without a version in the store left out",
        "1 special file left out",
        "1 symbolic link left out",
    ]
    # A link to a file outside of the exported directory is that file too.
    below = source_of(place, entries, path="d").read()
    assert {f.path: f.content.key for f in below.files} == {"d/b": "d/b", "d/l": "a"}
    with pytest.raises(NotFound, match="no 'x'"):
        source_of(place, entries, path="x").read()


def test_versions_that_are_gone_are_missing_and_named(root: LocalStore) -> None:
    place = Place(root, "bucket")
    entries = put_below(root, "", FILES)
    done = dws.write(source_of(place, entries))
    put_below(root, "", {"a.csv": b"new"})
    version = next(e.version for e in entries if e.path == "a.csv")
    assert version is not None
    root.delete_version("a.csv", version)
    foreign = Foreign(place)
    foreign.refresh()
    view = foreign.view(f"dws-{done.hash}")
    assert view.missing == ["a.csv"]
    assert set(content_of(place, view)) == set(FILES) - {"a.csv"}
    with pytest.raises(NotFound, match="is gone from the store"):
        quilt3.write(source_of(place, entries), "a/b")


def test_keys_of_ours_in_a_snapshot_of_the_bucket_are_not_files(root: LocalStore) -> None:
    place = Place(root, "bucket")
    files = {"a": b"1", ".pipefs/pipe.json": b"{}", "b/": b"", ".quilt/packages/ab": b""}
    entries = put_below(root, "", files)
    data = dws.encode({e.path: e.version or "null" for e in entries})
    root.put(dws.key_of(dws.hash_of(data)), gzip.compress(data))
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    assert content_of(place, foreign.view(found.label)) == {"a": b"1"}


@pytest.mark.parametrize(
    ("size", "chunk"), [(0, 8), (1, 8), (80_000 << 20, 8), ((80_000 << 20) + 1, 16)]
)
def test_chunks_grow_so_that_no_file_has_more_than_10_000(size: int, chunk: int) -> None:
    assert hashing.chunk_bytes(size) == chunk << 20
