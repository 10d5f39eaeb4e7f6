"""A proxy from the environment: every request of both engines goes by it."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from pipefs.errors import StoreError
from pipefs.stores.opening import open_store
from pipefs.stores.retrying import RetryPolicy
from tests.seaweed import SeaweedServer

ENDPOINT = "http://s3.proxied.invalid"
"""No such host: only through the proxy there is a server."""


class _Forward(http.server.BaseHTTPRequestHandler):
    """Passes each request on to the S3 server, whatever host it names; the name stays in the
    header, for it is signed."""

    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        server = self.server
        assert isinstance(server, _Proxy)
        url = urlsplit(self.path)
        server.seen.append((self.command, url.netloc))
        server.agents.add((self.command, "Boto3" in self.headers.get("User-Agent", "")))
        path = f"{url.path}?{url.query}" if url.query else url.path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        onward = http.client.HTTPConnection(server.behind, timeout=30)
        onward.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("proxy-connection", "connection", "expect"):
                onward.putheader(name, value)
        onward.endheaders(body)
        answer = onward.getresponse()
        data = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        if answer.status != 204:
            self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(data)
        onward.close()

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        pass


class _Proxy(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.behind = behind
        self.seen: list[tuple[str, str]] = []
        self.agents: set[tuple[str, bool]] = set()
        """Methods, and whether it was boto3 that used them."""


@pytest.fixture
def proxy(seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Proxy]:
    """A proxy in front of the S3 server, named by the environment."""
    with _Proxy(urlsplit(seaweed.endpoint_url).netloc) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("engine", ["boto3", "obstore"])
def test_d6_44_a_proxy_of_the_environment_is_used(proxy: _Proxy, bucket: str, engine: str) -> None:
    store = open_store(f"s3://{bucket}/p", endpoint_url=ENDPOINT, addressing="path", engine=engine)
    made = store.put("a b.csv", b"1234", metadata={"who": "ann"}, if_none_match=True)
    assert store.get("a b.csv", made.version_id, 1, 2) == b"23"
    assert store.head("a b.csv").etag == made.etag
    assert [o.key for o in store.list()] == ["a b.csv"]
    store.delete("a b.csv")
    assert [v.is_delete_marker for v in store.list_versions()] == [True, False]
    store.close()
    assert {host for _, host in proxy.seen} == {urlsplit(ENDPOINT).netloc}
    assert {method for method, _ in proxy.seen} >= {"PUT", "GET", "HEAD", "DELETE"}
    assert ("PUT", engine == "boto3") in proxy.agents


@pytest.mark.parametrize("engine", ["boto3", "obstore"])
def test_d6_44_no_proxy_is_honoured(
    proxy: _Proxy, bucket: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", ".invalid")
    store = open_store(
        f"s3://{bucket}/p",
        endpoint_url=ENDPOINT,
        addressing="path",
        engine=engine,
        policy=RetryPolicy(deadline_s=0.1),
    )
    with pytest.raises(StoreError):
        store.get("a", None, 0, 1)
    store.close()
    assert proxy.seen == []
