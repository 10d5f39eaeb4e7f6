"""What a name after the `@` means: a tree of the past."""

from __future__ import annotations

import time

from pipefs.errors import NotFound, UsageError
from pipefs.moments import is_moment, parse_moment, show_moment
from pipefs.past.moment import MomentView
from pipefs.past.nodes import NodeTable
from pipefs.past.opened import Past
from pipefs.past.views import PastView
from pipefs.stores.base import Store


def open_view(past: Past, name: str, table: NodeTable) -> PastView:
    """The tree of a snapshot by tag, id or `latest` (call `Past.refresh` before), or the pipe as
    it was at `@TIME`.

    Args:
        table: where the numbers of a moment's inodes are kept.

    Raises:
        NotFound: no such snapshot, or a moment that is still to come. Conflict: several ids begin
        so. UsageError: an @TIME that is no time.
    """
    if is_moment(name):
        return view_at(past.store, name, table)
    try:
        return past.view(name)
    except NotFound as e:
        try:
            parse_moment(name, time.time_ns())
        except UsageError:
            raise e from None
        raise NotFound(e.message, hint=f"A time is written with an @ of its own: @{name}") from e


def view_at(store: Store, text: str, table: NodeTable) -> MomentView:
    """The pipe as it was at `@TIME`; its label says which moment that is.

    Raises:
        NotFound: it is still to come. UsageError: it is no time.
    """
    now_ns = time.time_ns()
    moment_ns = parse_moment(text, now_ns)
    label = show_moment(moment_ns)
    if moment_ns > now_ns:
        hint = f"Now it is {show_moment(now_ns // 10**9 * 10**9)}"
        raise NotFound(f"{text} is still to come: {label}", hint=hint)
    return MomentView(store, table, moment_ns, label)
