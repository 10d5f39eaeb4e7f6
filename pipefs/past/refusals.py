"""When no snapshot is taken: nothing would hold what it shows."""

from __future__ import annotations

from pipefs.errors import Refused
from pipefs.past.lifecycle import dangerous_rules
from pipefs.stores.base import Capabilities, Store


def check_may_take(
    name: str, can: Capabilities, store: Store, *, read_only: str = "", force: bool = False
) -> None:
    """
    Args:
        read_only: why the pipe cannot be written here; "": it can.
        force: also where a rule of the bucket destroys old versions.
    Raises:
        Refused: no snapshot of this pipe can be taken, or none that would last.
    """
    if read_only:
        raise Refused(f"not taken: {name} is read-only here ({read_only})")
    if not can.versioning:
        raise Refused(
            "not taken: the bucket keeps no versions, so nothing would hold what it shows",
            hint=f"Turn versioning on: pipefs doctor {name} --fix",
        )
    rules = [] if force else dangerous_rules(store)
    if rules:
        raise Refused(
            f"not taken: {rules[0]}",
            hint=f"See pipefs doctor {name} · take it all the same: --force",
        )
