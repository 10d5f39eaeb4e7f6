"""What the examples of the help speak of: a desk with pipes, files, snapshots and folders."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.typed import Desk, Starter, Typed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class World:
    """A desk with everything that the examples speak of, and what stands for their made-up ids."""

    def __init__(self, starter: Starter, url: str, env: dict[str, str] | None = None) -> None:
        self.desk = Desk(starter, env)
        self.url = url
        self.made_up: dict[str, str] = {}
        self._fill()

    def do(self, line: str) -> Typed:
        done = self.desk.type(line)
        assert done.code == 0, (line, done)
        return done

    def _fill(self) -> None:
        work = self.desk.cwd
        (work / "sales" / "2026").mkdir(parents=True)
        (work / "sales" / "2019").mkdir()
        files = ("q3.csv", "draft.csv", "storms.csv", "2026/q3.csv", "2026/q4.csv", "2019/q1.csv")
        for name in files:
            (work / "sales" / name).write_text("id,wind\n1,35\n2,110\n")
        _parquet(work / "sales" / "storms.parquet", rows=3)
        _parquet(work / "sales" / "clean.parquet", rows=2)
        (work / "sales" / "first-look.ipynb").write_text(_NOTEBOOK)
        names = ["sales", "prices"] + ([] if self.url else ["hurdat", "old-sales"])
        for name in names:
            self.do(f"pipefs create {name} {self.url and self.url + name}")
        self.do("pipefs put sales/ sales/")
        self.do("pipefs meta sales/clean.parquet author=maria")
        self.do("pipefs snapshot sales v1 -m 'as downloaded'")
        self.do("pipefs snapshot sales 2026Q3")
        self.do("pipefs put sales/q3.csv prices/")
        self.do("pipefs snapshot prices v3")
        second = int(time.time()) + 1
        time.sleep(max(0, second + 0.1 - time.time()))
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        shutil.copy(work / "sales" / "q3.csv", work / "q3.csv")
        with (work / "sales" / "q3.csv").open("a") as file:
            file.write("3,60\n")
        _parquet(work / "sales" / "storms.parquet", rows=4)
        shutil.copy(work / "q3.csv", work / "sales" / "2026" / "q3.csv")
        self.do("pipefs put sales/ sales/")
        self.do("pipefs snapshot sales v2")
        snapshots = json.loads(self.do("pipefs snapshots sales --json").out)["snapshots"]
        versions = json.loads(self.do("pipefs ls --versions --json sales/q3.csv").out)["versions"]
        self.made_up = {
            "4f2a91c": next(s["id"] for s in snapshots if s["tag"] == "v1")[:7],
            "18ec64e4": versions[-1]["version"],
            "@yesterday": f"@{moment}",
            "2026-11-01T12:00": moment,
            "/srv/": f"{self.desk.home}/srv/",
            # Not the machine's own units.
            "service install": f"service install --root {self.desk.home}/root",
            "service uninstall": f"service uninstall --root {self.desk.home}/root",
            "systemctl enable --now": f"systemctl --root={self.desk.home}/root enable",
            "systemctl --user enable --now pipefsd": f"systemd-analyze --user verify "
            f"{self.desk.home}/root{self.desk.home}/.config/systemd/user/pipefsd.service",
        }
        shutil.copy(work / "sales" / "storms.parquet", work / "clean.parquet")
        for folder in ("results", "scratch"):
            (work / folder).mkdir()
            (work / folder / "log.txt").write_text(folder)
        for folder in ("work/data", "srv/sales", "Downloads"):
            (self.desk.home / folder).mkdir(parents=True)
        (self.desk.home / "Downloads" / "may.csv").write_text("a\n1\n")
        (work / "report.py").write_text("")
        (self.desk.home / ".datakit/plugins/datakit-data").mkdir(parents=True)
        (self.desk.home / ".datakit/plugins/datakit-data/config.json").write_text("{}")
        (work / "secret.txt").write_text("secret\n")
        (work / "weather.yaml").write_text("name: weather\ninclude: '*.csv|*.parquet'\n")
        (work / "pipes.json").write_text(self.do("pipefs list --json").out)
        (self.desk.home / "d6tpipe").mkdir()
        database = self.desk.home / "d6tpipe" / ".filedb.json"
        tables = {"pipes": {"1": {"name": "weather", "protocol": "s3", "location": "data"}}}
        database.write_text(json.dumps(tables))
        profiles = {"default": {"filedb": str(database)}}
        (self.desk.home / "d6tpipe" / "cfg.json").write_text(json.dumps(profiles))
        (work / "settings.json").write_text('{"cache_limit": "50G"}')
        (work / "creds.json").write_text(
            json.dumps({"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "secret"})
        )

    def real(self, line: str, **more: str) -> str:
        """The line with what stands for its made-up ids and places."""
        for made_up, real in {**self.made_up, **more}.items():
            line = line.replace(made_up, real)
        return line


_NOTEBOOK = json.dumps(
    {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [{"cell_type": "markdown", "metadata": {}, "id": "a", "source": "# First look"}],
    }
)


def _parquet(path: Path, rows: int) -> None:
    import pandas as pd

    pd.DataFrame({"id": range(rows), "wind": range(35, 35 + rows)}).to_parquet(path)


def keep(world: World) -> None:
    """Remember it as it is now, for `fresh`."""
    subprocess.run(["cp", "-a", world.desk.home, world.desk.base / "as made"], check=True)


def fresh(world: World) -> None:
    """As it was made; what is in the buckets stays."""
    desk = world.desk
    desk.free()
    shutil.rmtree(desk.home)
    subprocess.run(["cp", "-a", desk.base / "as made", desk.home], check=True)
    desk.cwd = desk.home / "work"


def remove_bucket(client: S3Client, bucket: str) -> None:
    """A bucket with all its versions, if there is one."""
    if bucket not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
        return
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            client.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
    client.delete_bucket(Bucket=bucket)


def make_bucket(client: S3Client, bucket: str) -> None:
    remove_bucket(client, bucket)
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
