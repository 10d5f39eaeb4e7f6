"""The Python API on a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import pipefs
from pipefs import Pipe
from pipefs.errors import AccessDenied, Conflict
from pipefs.stores.opening import open_store
from tests.machines import machines
from tests.seaweed import READER_ACCESS_KEY, READER_SECRET_KEY, SeaweedServer


@pytest.fixture
def pipe(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    found = pipefs.create("sales", f"s3://{bucket}/a/sales")
    yield found
    found.close()


def test_objects_versions_and_snapshots_on_s3(pipe: Pipe, tmp_path: Path) -> None:
    frame = pd.DataFrame({"wind": [65, 80]})
    first = pipe.put(frame, "storms.parquet", meta={"source": "NOÁA", "rows": 2})
    pipe.snapshot("raw", "as it came")
    second = pipe.put(frame * 2, "storms.parquet")
    assert pipe.get("storms.parquet", version=first[:12])[0].equals(frame)
    found, meta = pipe.get("storms.parquet", snapshot="raw")
    assert found.equals(frame) and meta == {"source": "NOÁA", "rows": 2}
    assert [v.version for v in pipe.versions("storms.parquet")] == [second, first]
    assert [d.status for d in pipe.diff("raw")] == ["modified"]
    large = os.urandom(20 << 20)  # goes up in parts
    (tmp_path / "large.bin").write_bytes(large)
    assert pipe.put_file(tmp_path / "large.bin") == ["large.bin"]
    assert pipe.get_bytes("large.bin") == large
    with pipe.open("large.bin", "rb") as file:
        file.seek(19 << 20)
        assert file.read() == large[19 << 20 :]
    assert pipe.get_file("large.bin", tmp_path / "back")[0].read_bytes() == large


def test_a_transaction_on_s3_ends_at_its_own_keys(pipe: Pipe, bucket: str, tmp_path: Path) -> None:
    store = open_store(f"s3://{bucket}/a/sales")
    large = os.urandom(17 << 20)
    (tmp_path / "large.bin").write_bytes(large)
    seen = pipe.put_bytes(b"old", "a.bin")
    pipe.put_bytes(b"gone", "gone.bin")
    with machines(tmp_path / "m", store, "m") as (machine,):
        machine.reconcile()
        with pipe.transaction():
            pipe.put_bytes(b"new", "a.bin", expected=seen)
            pipe.put_file(tmp_path / "large.bin", "d/", meta={"k": "v"})
            pipe.delete("gone.bin")
        sizes = {o.key: o.size for o in store.list() if not o.key.startswith(".pipefs/")}
        assert sizes == {"a.bin": 3, "d/large.bin": 17 << 20}
        assert not list(store.list(".pipefs/moving/"))
        assert store.head("d/large.bin").metadata["k"] == "v"
        machine.reconcile()
        assert machine.read("a.bin") == b"new" and set(machine.tree()) == {*sizes, "d"}
        assert machine.inode("d/large.bin").size == 17 << 20
        assert pipe.get_bytes("d/large.bin") == large
        store.put("a.bin", b"tool")
        with pytest.raises(Conflict), pipe.transaction():
            pipe.put_bytes(b"mine", "a.bin", expected=pipe.versions("a.bin")[1].version)
        assert not list(store.list(".pipefs/moving/"))


def test_d6_64_keys_of_one_object(pipe: Pipe, seaweed: SeaweedServer) -> None:
    pipe.put("1", "a.txt")
    reader = Pipe("sales", credentials={"read": {"key": READER_ACCESS_KEY,
                                                 "secret": READER_SECRET_KEY}})  # fmt: skip
    assert reader.get("a.txt")[0] == "1"
    with pytest.raises(AccessDenied):
        reader.put("2", "a.txt")
    assert pipe.put("2", "a.txt")
