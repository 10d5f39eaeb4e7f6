"""The real quilt3 reads our packages, and we read its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipefs.foreign import quilt3
from pipefs.foreign.exports import Source
from pipefs.foreign.found import Foreign
from pipefs.foreign.places import Place
from tests.compat.conftest import FILES, overwrite
from tests.compat.others import Other, other
from tests.foreign import content_of
from tests.mounted import tree_of
from tests.seaweed import SeaweedServer

# The first test also installs the package.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def their(seaweed: SeaweedServer, tmp_path: Path) -> Other:
    return other("quilt3", seaweed.environment(), tmp_path / "quilt")


BROWSE = """
import json, sys
import quilt3
package = quilt3.Package.browse(sys.argv[1], registry=sys.argv[2])
print(json.dumps({
    "top_hash": package.top_hash,
    "meta": package.meta,
    "message": package._meta["message"],
    "keys": [key for key, _ in package.walk()],
    "sizes": [entry.size for _, entry in package.walk()],
    "bytes": package["2026/q1.csv"].get_bytes().decode(),
}))
"""

INSTALL = """
import sys
import quilt3
name, registry, top_hash, dest = sys.argv[1:]
quilt3.Package.install(name, registry=registry, top_hash=top_hash, dest=dest)
assert quilt3.Package.browse(name).verify(dest)
"""


def test_t4_22_quilt3_installs_exactly_the_versions_of_a_snapshot(
    source: Source, place: Place, their: Other, tmp_path: Path
) -> None:
    done = quilt3.write(source, "team/sales")
    overwrite(place)
    registry = f"s3://{place.bucket}"
    seen = json.loads(their.python(BROWSE, "team/sales", registry))
    # quilt3 computes its top hash from the lines that it read.
    assert seen["top_hash"] == done.hash
    assert dict(zip(seen["keys"], seen["sizes"], strict=True)) == {
        p: len(d) for p, d in FILES.items()
    }
    assert seen["bytes"].encode() == FILES["2026/q1.csv"]
    assert seen["message"] == "as it came"
    assert seen["meta"]["pipefs"]["snapshot"] == source.snapshot.id
    # By a short hash, with the bytes of every file checked against the manifest by quilt3.
    dest = tmp_path / "installed"
    their.python(INSTALL, "team/sales", registry, done.hash[:7], f"{dest}/")
    found = {p: d for p, d in tree_of(dest).items() if d is not None}
    assert found == FILES


def test_hashes_that_are_known_pass_quilt3s_check_too(
    source: Source, place: Place, their: Other, tmp_path: Path
) -> None:
    for entry in source.view.entries():  # the decoded parts are shared, so the export sees it
        if entry.kind == "file":
            entry.checksum = f"sha256:{hashlib.sha256(FILES[entry.path]).hexdigest()}"
    read: list[int] = []
    done = quilt3.write(source, "team/sales", progress=read.append)
    assert read == []
    dest = tmp_path / "installed"
    their.python(INSTALL, "team/sales", f"s3://{place.bucket}", done.hash, f"{dest}/")
    assert (dest / "big.bin").read_bytes() == FILES["big.bin"]


PUSH = """
import sys, time
import quilt3
registry, folder, more = sys.argv[1:]
package = quilt3.Package()
package.set_dir("/", folder)
package.push("maria/model", registry=registry, message="from quilt3")
time.sleep(1.1)  # a revision is named by its second
package.set("more.txt", more, meta={"a": 1})
pushed = package.push("maria/model", registry=registry, message="second", force=True)
print(pushed.top_hash)
"""

IN_PLACE = """
import sys
import quilt3
registry, prefix = sys.argv[1:]
package = quilt3.Package()
package.set_dir("renamed", f"{registry}/{prefix}")
package.build("maria/in-place", registry=registry, message="in place")
"""


@pytest.mark.parametrize("prefix", ["", "maria/model"])
def test_packages_that_quilt3_pushed_are_read_by_version(
    place: Place, their: Other, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    files = {"a.txt": b"a", "sub/b c.bin": bytes(9 << 20)}
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    more = tmp_path / "more"
    more.write_bytes(b"more")
    top = their.python(PUSH, f"s3://{place.bucket}", f"{folder}/", str(more)).split()[-1]
    below = "" if place.prefix else "maria/model/"
    place.root.put("maria/model/a.txt", b"overwritten")
    foreign = Foreign(place)
    second, first = foreign.refresh()
    assert (first.message, second.message) == ("from quilt3", "second")
    assert second.hash == top
    assert content_of(place, foreign.view(first.label)) == {below + p: d for p, d in files.items()}
    now = content_of(place, foreign.view(second.label))
    assert now == {below + p: d for p, d in {**files, "more.txt": b"more"}.items()}


def test_a_package_over_the_pipes_own_files_shows_them_where_they_are(
    source: Source, place: Place, their: Other
) -> None:
    their.python(IN_PLACE, f"s3://{place.bucket}", place.prefix)
    overwrite(place)
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    assert found.label.startswith("quilt-maria-in-place@")
    view = foreign.view(found.label)
    shown = {p: d for p, d in content_of(place, view).items() if not p.startswith(".pipefs/")}
    assert shown == FILES
