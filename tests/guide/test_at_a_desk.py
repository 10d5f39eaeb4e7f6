"""What somebody meets at a terminal that no other room shows: bars, and what is remembered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.typed import Desk, Starter, Typed


@pytest.fixture
def desk(starter: Starter) -> Iterator[Desk]:
    with Desk(starter) as found:
        for n in range(3):
            (found.cwd / "w").mkdir(exist_ok=True)
            (found.cwd / "w" / f"{n}.bin").write_bytes(bytes([n]) * 1_000_000)
        assert found.type("pipefs create sales && pipefs put w/ sales/").code == 0
        yield found


def good(done: Typed) -> str:
    assert done.code == 0, done
    return done.out


def test_d6_02_s3_and_folders_and_no_other_protocol(desk: Desk) -> None:
    for url in ("ftp://host/x", "sftp://host/x", "http://host/x"):
        done = desk.type(f"pipefs create x {url}")
        assert done.code == 2
        assert "s3://bucket/prefix, or file:///" in done.err
    good(desk.type("pipefs create folder file://$PWD/folder && pipefs put w/0.bin folder/"))
    assert "no pipe" in desk.type("pipefs show x").err


def test_d6_71_a_bar_says_how_far_it_is_and_goes_away(desk: Desk) -> None:
    shown = desk.type("pipefs pull sales --dest here", answers=" ")
    assert "pulling" in good(shown)
    assert "of 3 files" in shown.out
    assert "of 3 MB" in shown.out
    assert (
        shown.out.rstrip().splitlines()[-1].endswith("sales  pulled 3 files, 3 MB to ~/work/here")
    )
    # Where nobody looks, there is none.
    for quiet in ("", " -q", " --json"):
        assert "pulling" not in good(desk.type(f"pipefs pull sales --dest there{quiet}"))


def test_d6_72_what_was_in_step_is_remembered_and_found_anew(desk: Desk) -> None:
    good(desk.type("pipefs pull sales --dest here"))
    (desk.cwd / "here" / "0.bin").write_bytes(b"changed")
    (desk.cwd / "here" / "1.bin").unlink()
    # The one that changed goes, and the one that is gone is not taken for a deletion.
    assert "1 file" in good(desk.type("pipefs push sales --dest here -n"))
    (record,) = (desk.home / ".local" / "state" / "pipefs" / "folders").glob("*.sqlite")
    record.unlink()
    # Without the memory the files are compared, and no one is taken for the other's.
    done = desk.type("pipefs pull sales --dest here -n")
    assert done.code == 4
    assert "0.bin" in done.err
    assert "2.bin" not in done.err
