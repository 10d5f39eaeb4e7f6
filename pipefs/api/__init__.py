"""pipefs in Python: one object a pipe, with or without a daemon, a mount or FUSE.

    import pipefs

    pipe = pipefs.Pipe("sales")
    pipe.put(frame, "clean/storms.parquet", meta={"source": "NOAA"})
    frame, meta = pipe.get("clean/storms.parquet", snapshot="raw")

From the top:

    Pipe                       all of it, in `import pipefs`
    moving                     pull, push, import, deleting
    contents  listing          objects and files; what is where
    history  moments           snapshots, differences, the log; what a path means then
    base  pipes                settings and folders; which pipes there are
    transactions  reading      several files at once; open files
    schemas  tables            how to read a file; answers in rows
"""

from __future__ import annotations

from pipefs.api.pipe import Pipe

__all__ = ["Pipe"]
