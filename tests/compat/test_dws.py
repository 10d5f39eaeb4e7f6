"""The real Data Workspaces restores our snapshots, and we read its own.

Its command line cannot be given a hash that is not in a workspace's history, so restoring runs
what `dws restore` runs: the resource's `restore_precheck` and `restore`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipefs.foreign import dws
from pipefs.foreign.exports import Source
from pipefs.foreign.found import Foreign
from pipefs.foreign.places import Place
from pipefs.past.opened import Past
from tests.compat.conftest import FILES, overwrite
from tests.compat.others import Other, other
from tests.foreign import content_of, put_below, source_of
from tests.seaweed import SeaweedServer

RESTORE = """
import hashlib, json, sys
from dataworkspaces.workspace import find_and_load_workspace

bucket, hashval = sys.argv[1:]
resource = find_and_load_workspace(batch=True, verbose=False).get_resource("data")
resource.restore_precheck(hashval)
resource.restore(hashval)
found = {}

def walk(path):
    for name in resource.ls(path):
        if resource.snapshot_fs.isfile(name):
            with resource.open(name, "rb") as f:
                found[name] = hashlib.sha256(f.read()).hexdigest()
        else:
            walk(name)

walk("")
print(json.dumps(found))
"""

# The first test also installs the package.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def prefix() -> str:
    """dws knows whole buckets only."""
    return ""


@pytest.fixture
def their(seaweed: SeaweedServer, place: Place, tmp_path: Path) -> Other:
    """A workspace with the bucket as a resource; it is the `home`."""
    found = other("dws", seaweed.environment(), tmp_path / "workspace")
    for words in ("init -q", "config --global user.name t", "config --global user.email t@t"):
        found.program("git", *words.split())
    found.program("dws", "--batch", "init", "--hostname", "here", "work")
    add = ("add", "s3", "--role", "source-data", "--name", "data", place.bucket)
    found.program("dws", "--batch", *add)
    return found


def _hashes(files: dict[str, bytes]) -> dict[str, str]:

    return {p: hashlib.sha256(d).hexdigest() for p, d in files.items()}


def test_dws_restores_a_snapshot_of_ours(source: Source, place: Place, their: Other) -> None:
    done = dws.write(source)
    overwrite(place)
    assert done.warnings == []
    restored = json.loads(their.python(RESTORE, place.bucket, done.hash).splitlines()[-1])
    assert restored == _hashes(FILES)


def test_dws_24_the_hash_is_the_one_that_dws_computes_of_the_same_objects(
    place: Place, their: Other
) -> None:
    entries = put_below(place.root, "", FILES)
    place.root.put("d/", b"")  # a marker, which dws does not list
    their.program("dws", "--batch", "snapshot", "v1")
    (theirs,) = Foreign(place).refresh()
    assert dws.write(source_of(place, entries)).hash == theirs.hash
    # It is there already, so nothing was written over it.
    assert len(list(place.root.list_versions(theirs.key))) == 1


def test_snapshots_that_dws_took_are_read_by_version(
    past: Past, place: Place, their: Other
) -> None:
    their.program("dws", "--batch", "snapshot", "v1")
    overwrite(place)
    foreign = Foreign(place)
    (found,) = foreign.refresh()
    assert found.label == f"dws-{found.hash[:7]}"
    # dws took `.pipefs/` too, which is no file of the pipe.
    assert content_of(place, foreign.view(found.label)) == FILES
    below = Place(place.root, place.bucket, "2026/")
    part = Foreign(below)
    part.refresh()
    assert set(content_of(below, part.view(found.label))) == {"q1.csv", "q2.csv"}
