"""What the tests of the block cache share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipefs.blocks import BlockCache

MIB = 1 << 20
LIMIT = 64 * MIB
V1 = b"version-number-1"
V2 = b"version-number-2"
V3 = b"version-number-3"


def block(number: int, size: int = MIB) -> bytes:
    """Different bytes for each number."""
    return number.to_bytes(8, "little") * (size // 8) + b"x" * (size % 8)


def bytes_of(cache: BlockCache, version: bytes, block_no: int) -> bytes | None:
    lease = cache.read(version, block_no)
    if lease is None:
        return None
    with lease:
        return bytes(lease.data)


def disk_bytes(folder: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())


def run(script: str, *arguments: str) -> None:
    """Run Python source in a process of its own; its failure is ours."""
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, timeout=60)
