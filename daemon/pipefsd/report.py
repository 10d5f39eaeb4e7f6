"""What a pipe says of itself: the figures behind `pipefs status`. Reads, never changes."""

from __future__ import annotations

import os
from typing import Any

from pipefs.cache.cachestats import CacheStats
from pipefs.commits import Position
from pipefs.pending import Pending
from pipefs.protocol import MountStatus
from pipefs.settling import conflict_items
from pipefs.stores.base import Capabilities
from pipefs.units import utc_text
from pipefs.volume import Volume
from pipefsd.refusals import Refusal
from pipefsd.syncer import Health

UNKNOWN = Capabilities(
    versioning=True,
    conditional_put=True,
    conditional_multipart=True,
    conditional_delete=False,
    checksums=True,
    writable=True,
    versioning_state="unknown",
)
"""Until the store has been asked."""


def status(
    name: str,
    volume: Volume,
    outbox: Pending,
    *,
    sending: tuple[int, int],
    refused: dict[object, Refusal],
    cache: CacheStats,
    pinned: tuple[int, int, int],
    place: Position,
    health: Health,
    capabilities: Capabilities,
    read_only: bool,
    checked_out: str | None,
    warnings: list[str],
) -> MountStatus:
    """The mount object of `status --json`; path and transport are the worker frame's to fill."""
    conflicts = conflict_items(volume.conflicts())
    return MountStatus(
        *(name, "", os.getpid(), "kernel"),
        snapshot=checked_out,
        state="offline" if health.offline_since_ns else "read-only" if read_only else "live",
        dirty_files=outbox.files,
        dirty_bytes=outbox.bytes,
        uploading_files=sending[0],
        uploading_bytes=sending[1],
        conflicts=len(conflicts),
        **_cached(cache, pinned),
        last_error=health.last_error or next((r.reason for r in refused.values()), ""),
        read_only=read_only,
        capabilities=_flags(capabilities),
        epoch=place.epoch,
        commit=place.number,
        relocating_files=outbox.relocating,
        refused_files=len(refused),
        announcing=outbox.names,
        offline_since=utc_text(health.offline_since_ns) if health.offline_since_ns else None,
        conflict_list=conflicts,
        warnings=warnings,
    )


def _cached(cache: CacheStats, pinned: tuple[int, int, int]) -> dict[str, Any]:
    """Fields of a status."""
    return {
        "cache_bytes": cache.used_bytes,
        "cache_limit_bytes": cache.limit_bytes,
        "cache_hit_ratio": cache.hits / max(1, cache.hits + cache.misses),
        "pinned_files": pinned[0],
        "pinned_bytes": pinned[1],
        "pinned_behind": pinned[2],
    }


def _flags(can: Capabilities) -> dict[str, bool]:
    return {
        "versioning": can.versioning,
        "conditional_put": can.conditional_put,
        "conditional_multipart": can.conditional_multipart,
        "conditional_delete": can.conditional_delete,
        "checksums": can.checksums,
        "writable": can.writable,
    }


def warnings_of(can: Capabilities, name: str) -> list[str]:
    """What a mount says about a store that cannot do everything."""
    out = []
    if not can.writable:
        reason = (can.detail or {}).get("writable", "your credentials may not write")
        out.append(f"READ-ONLY: {reason}")
    if not can.versioning:
        out.append(
            "the bucket keeps no versions, so there will be no snapshots and no history; "
            f"turn versioning on: pipefs doctor {name} --fix"
        )
    if can.writable and not can.conditional_put:
        out.append("the store has no conditional puts: let one machine at a time write this pipe")
    return out
