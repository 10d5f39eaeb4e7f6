"""Opens by names that another machine gave to something else, before the kernel heard of it.

The volume is changed behind the kernel's back, as by a commit that was followed a moment ago: the
notice is yet to come. The kernel is to look again and do what open(2) does with what is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipefs.stores.local import LocalStore
from pipefsd.filesystem import Filesystem
from pipefsd.ownership import Ownership
from tests.machines import Machine, machines, objects
from tests.mount.serving import served, served_by_libfuse, until

Mounted = tuple[Path, Machine]
TRANSPORTS = {"kernel": served, "libfuse": served_by_libfuse}
FLAGS = {
    "write": os.O_CREAT | os.O_WRONLY,
    "truncate": os.O_CREAT | os.O_WRONLY | os.O_TRUNC,
    "read": os.O_CREAT | os.O_RDONLY,
}


@pytest.fixture(params=TRANSPORTS)
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    serve: Callable[[Filesystem], AbstractContextManager[Path]] = TRANSPORTS[request.param]
    store = LocalStore(tmp_path / "store")
    with machines(tmp_path, store, "here") as (here,):
        owner = Ownership("stored", 0o022, uid=0, gid=0)
        with serve(Filesystem(here.volume, owner, read_only=lambda: "")) as path:
            yield path, here
    store.close()


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def _is_sound(here: Machine, files: dict[str, bytes]) -> bool:
    until(lambda: here.volume.outbox().open_files == 0)  # a release comes after its close
    here.sync()
    assert here.problems() == []
    assert here.volume.files.inos() == []
    return objects(here.store) == files


@pytest.mark.parametrize("how", ["write", "truncate"])
def test_a_directory_made_elsewhere_is_not_opened_for_writing(mounted: Mounted, how: str) -> None:
    path, here = mounted
    assert not (path / "b").exists()
    here.mkdir("b")
    with pytest.raises(IsADirectoryError):
        os.open(path / "b", FLAGS[how], 0o644)
    assert (path / "b").is_dir()
    assert _is_sound(here, {})


@pytest.mark.parametrize("how", FLAGS)
def test_a_link_made_elsewhere_leads_to_its_file(mounted: Mounted, how: str) -> None:
    path, here = mounted
    here.write("file", b"0123456789")
    here.sync()
    assert not (path / "b").exists()
    here.symlink("b", "file")
    with opened(path / "b", FLAGS[how]) as fd:
        if how == "read":
            assert os.read(fd, 100) == b"0123456789"
        else:
            os.write(fd, b"abc")
    expected = {"write": b"abc3456789", "truncate": b"abc", "read": b"0123456789"}[how]
    assert _is_sound(here, {"file": expected})


@pytest.mark.parametrize("mounted", ["libfuse"], indirect=True)
@pytest.mark.parametrize("kind", ["directory", "link"])
@pytest.mark.parametrize("how", ["write", "truncate", "read"])
def test_a_path_that_another_thing_has_now_is_not_taken_for_the_file(
    mounted: Mounted, kind: str, how: str
) -> None:
    """Only libfuse asks by path; by its node the kernel gets the file that it means."""
    path, here = mounted
    here.write("b", b"was here")
    here.write("file", b"0123456789")
    here.sync()
    assert (path / "b").stat().st_size == 8
    here.rm("b")
    if kind == "directory":
        here.mkdir("b")
        if how == "read":
            with opened(path / "b", os.O_RDONLY) as fd, pytest.raises(IsADirectoryError):
                os.read(fd, 100)
        else:
            with pytest.raises(IsADirectoryError):
                _change(path / "b", how)
        assert _is_sound(here, {"file": b"0123456789"})
        return
    here.symlink("b", "file")
    if how == "read":
        assert (path / "b").read_bytes() == b"0123456789"
    else:
        _change(path / "b", how)
    expected = {"write": b"abc3456789", "truncate": b"01234", "read": b"0123456789"}[how]
    assert _is_sound(here, {"file": expected})


def _change(path: Path, how: str) -> None:
    if how == "truncate":
        os.truncate(path, 5)
        return
    with opened(path, os.O_WRONLY) as fd:
        os.write(fd, b"abc")
