"""A folder that is watched beside a real S3 server, which goes away and comes back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import pipefs
from pipefs.folder.deciding import Folder
from pipefs.folder.rounds import Event, Wishes
from pipefs.folder.watching import Watch
from pipefs.home import resolve_home
from pipefs.registry import Registry
from pipefs.replica import Replica
from tests.mounted import eventually
from tests.seaweed import SeaweedServer
from tests.slowproxy import slow_proxy


def test_a_watch_outlives_its_store(
    tmp_path: Path, seaweed: SeaweedServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPEFS_HOME", str(tmp_path / "home"))
    work, events, ready = tmp_path / "work", list[Event](), threading.Event()
    with slow_proxy(seaweed.endpoint_url) as proxy, pipefs.create("sales", f"s3://{bucket}/s") as p:
        p.put_bytes(b"1", "a.csv")
        p.update_settings({"endpoint_url": proxy.endpoint_url})
        replica = Replica(resolve_home(), Registry(resolve_home()).get("sales"), patience_s=0.5)
        watch = Watch(replica, Folder.at(work), Wishes(follow_s=0.2), events.append)
        thread = threading.Thread(target=watch.run, args=[ready.set])
        thread.start()
        try:
            assert ready.wait(30)
            assert (work / "a.csv").read_bytes() == b"1"
            proxy.down()
            (work / "new.csv").write_bytes(b"while it is away")
            eventually(lambda: [e for e in events if e.what == "offline"], "it is noticed")
            proxy.up()
            eventually(lambda: [e for e in events if e.path == "new.csv"], "it goes up")
        finally:
            watch.stop()
            thread.join(60)
            replica.close()
        assert not thread.is_alive()
    assert [(e.what, e.path) for e in events] == [
        ("pulled", "a.csv"),
        ("offline", ""),
        ("pushed", "new.csv"),
        ("online", ""),
    ]
    found = seaweed.client().get_object(Bucket=bucket, Key="s/new.csv")
    assert found["Body"].read() == b"while it is away"
