"""The real DVC pulls the versions of our `.dvc` files, and we read its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipefs.foreign import dvc
from pipefs.foreign.exports import Source
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
    """DVC in an empty repository, which is its `home`."""
    found = other("dvc", seaweed.environment(), tmp_path / "repo")
    found.program("dvc", "init", "--quiet", "--no-scm")
    return found


def _pull(their: Other, commands: list[str]) -> None:
    for command in commands:
        their.program(*command.split())


def _pulled(folder: Path) -> dict[str, bytes]:
    """Files in the repository that are data."""
    return {
        path: data
        for path, data in tree_of(folder).items()
        if data is not None and not path.startswith((".dvc", "cache/", "data/", "nothing"))
        if not path.endswith(".dvc")
    }


@pytest.mark.parametrize("prefix", ["", "team/sales"])
def test_dvc_pull_fetches_exactly_the_versions_of_a_snapshot(
    source: Source, place: Place, their: Other, seaweed: SeaweedServer
) -> None:
    done = dvc.write(source, their.home, remote="pipe", endpoint_url=seaweed.endpoint_url)
    overwrite(place)
    assert done.warnings == []
    texts = {p: Path(p).read_bytes() for p in done.written}
    _pull(their, done.next)
    below = "sales/" if place.prefix else ""
    assert _pulled(their.home) == {below + p: d for p, d in FILES.items()}
    assert "up to date" in their.program("dvc", "status")
    # Nothing of it was rewritten, and the second export knows the remote.
    assert {p: Path(p).read_bytes() for p in done.written} == texts
    assert dvc.write(source, their.home, remote="pipe").next == ["dvc pull"]


def test_what_dvc_pushed_is_read_by_version(
    place: Place, their: Other, seaweed: SeaweedServer
) -> None:
    long = "a name that is so long that DVC's YAML breaks it " * 3 + "end.txt"
    files = {"data/a.csv": b"a", f"data/sub/{long}": b"long", "single.bin": bytes(9 << 20)}
    for path, data in files.items():
        (their.home / path).parent.mkdir(parents=True, exist_ok=True)
        (their.home / path).write_bytes(data)
    url = f"s3://{place.bucket}/{place.prefix}"
    for words in (
        f"remote add -d up {url}",
        "remote modify up version_aware true",
        f"remote modify up endpointurl {seaweed.endpoint_url}",
        "add -q data single.bin",
        "push -q",
    ):
        their.program("dvc", *words.split())
    place.root.put(place.full("data/a.csv"), b"overwritten")
    place.root.delete(place.full("single.bin"))
    found = {}
    for name in ("data.dvc", "single.bin.dvc"):
        found |= content_of(place, dvc.view(place, their.home / name))
    assert found == files
    outside = Place(place.root, place.bucket, "elsewhere/")
    assert content_of(outside, dvc.view(outside, their.home / "data.dvc")) == {}
