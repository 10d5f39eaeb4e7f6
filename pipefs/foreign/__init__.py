"""Other systems' snapshots: written from ours, and theirs read as past trees.

`dws`, `t4`, `quilt3` and `dvc` are one room a format, each with both directions; `found` knows all
of them. No data is copied: every format pins versions of the pipe's own objects. docs/FORMAT.md
has the bytes. No thread outlives a call, and nothing here needs the packages of those systems.
"""
