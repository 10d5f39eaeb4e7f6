"""A worker process that serves a `MemFs`, to be killed and replaced by tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import msgspec

from pipefsd.transports.kernel.session import KernelSession, Negotiated
from tests.mount.memfs import MemFs


def main() -> None:
    """`memfs_worker.py FD RECORD GATE REPORT [die]`: serve one file, "data", as a worker would.

    RECORD holds what was negotiated, if an earlier worker got that far. While GATE exists, reads
    wait. REPORT gets the operations that were asked again. "die" ends the process after INIT was
    recorded and before it is answered.
    """
    fd, record, gate, report = int(sys.argv[1]), *map(Path, sys.argv[2:5])

    def keep(agreed: Negotiated) -> None:
        record.write_bytes(msgspec.json.encode(agreed))
        if "die" in sys.argv:
            os._exit(1)

    fs = MemFs()
    fs.put("data", bytes(range(256)) * 4096)
    fs.gate = lambda node: gate.exists()
    known = msgspec.json.decode(record.read_bytes(), type=Negotiated) if record.exists() else None
    session = KernelSession(fd, fs, negotiated=known, on_negotiated=keep)
    signal.signal(signal.SIGTERM, lambda *_: session.stop())
    reason = session.run()
    report.write_text(" ".join([reason, *fs.resent]))


if __name__ == "__main__":
    main()
