"""Which opens are cached and which are passed through, and what the kernel may keep of pages."""

from __future__ import annotations

import pytest

from pipefsd.modes import UNTOLD, Modes
from pipefsd.nodes import node_id

NODE = node_id(700)


def _yes(joins: bool) -> int:
    return 9


def _no(joins: bool) -> int:
    return -1


def _never(joins: bool) -> int:
    raise AssertionError("asked for a file")


@pytest.fixture
def modes() -> Modes:
    made = Modes()
    made.on = True
    return made


def test_the_first_open_decides_until_the_last_release(modes: Modes) -> None:
    assert modes.enter(NODE, 1, _no) == (-1, True)
    assert modes.enter(NODE, 2, _never) == (-1, True)
    modes.leave(NODE, 1)
    assert modes.enter(NODE, 3, _never) == (-1, True)
    for handle in (2, 3):
        assert modes.leave(NODE, handle) is None
    assert modes.enter(NODE, 4, _yes)[0] == 9
    joined: list[bool] = []
    assert modes.enter(NODE, 5, lambda joins: joined.append(joins) or 8)[0] == 8
    assert joined == [True]
    assert modes.leave(NODE, 4) is not None
    with pytest.raises(OSError, match="cannot be found"):
        modes.enter(NODE, 6, _no)
    assert modes.leave(NODE, 5) is not None
    assert modes.enter(NODE, 7, _no)[0] == -1


def test_another_epoch_is_another_node(modes: Modes) -> None:
    assert modes.enter(NODE, 1, _yes)[0] == 9
    assert modes.enter(node_id(700, 1), 2, _no)[0] == -1


def test_the_first_cached_open_after_passthrough_drops_pages(modes: Modes) -> None:
    modes.enter(NODE, 1, _yes)
    modes.leave(NODE, 1)
    assert modes.enter(NODE, 2, _no) == (-1, False)
    assert modes.enter(NODE, 3, _no) == (-1, True)
    assert modes.enter(node_id(701), 4, _no) == (-1, True)


def test_a_file_the_kernel_refuses_is_cached(modes: Modes) -> None:
    modes.enter(NODE, 1, _yes)
    modes.refused(NODE)
    assert modes.enter(NODE, 2, _never)[0] == -1
    assert modes.leave(NODE, 1) is None


def test_after_a_restart_only_what_was_recorded_is_passed_through(modes: Modes) -> None:
    modes.take_over(1000, [(NODE, 1), (NODE, 2)])
    assert modes.has(NODE, 1)
    assert modes.enter(NODE, 3, _yes)[0] == 9
    other = node_id(701)
    assert modes.enter(other, 4, _never) == (-1, False), "its pages may be old"
    modes.leave(other, 4)
    assert modes.enter(other, 5, _never) == (-1, True)
    for handle in (1, 2, 3):
        assert modes.leave(NODE, handle) is not None
    assert modes.leave(NODE, 3) is None, "released twice"
    assert modes.enter(NODE, 6, _never)[0] == -1
    assert modes.enter(node_id(1000), 7, _yes)[0] == 9, "a file made afterwards"


def test_what_the_kernel_was_told_while_a_file_was_open_is_known_at_its_release(
    modes: Modes,
) -> None:
    modes.told(NODE, 5, 0o100644)  # not open: nothing to remember
    modes.enter(NODE, 1, _yes, made=True)
    first = modes.leave(NODE, 1)
    assert first is not None
    assert (first.told_ns, first.set_id) == (UNTOLD, False)
    modes.enter(NODE, 2, _yes)
    modes.told(NODE, 7, 0o104755)
    modes.told(NODE, 8, 0o100755)
    second = modes.leave(NODE, 2)
    assert second is not None
    assert (second.told_ns, second.set_id) == (8, True)


def test_turned_off_everything_is_cached(modes: Modes) -> None:
    modes.on = False
    assert modes.enter(NODE, 1, _never) == (-1, True)
    assert modes.leave(NODE, 1) is None
