"""Read a snapshot of a pipe without pipefs: `read_snapshot.py BUCKET PREFIX TAG-OR-ID [PATH]`.

Lists paths with their VersionIds, or writes the bytes of PATH. See FORMAT.md.
"""

import gzip
import json
import sys

import boto3

bucket, prefix, name, *path = sys.argv[1:]
prefix = prefix.rstrip("/") + "/" if prefix else ""
s3 = boto3.client("s3")


def get(key, **version):
    return s3.get_object(Bucket=bucket, Key=prefix + key, **version)["Body"].read()


def lines(manifest):
    data = gzip.decompress(get(f".pipefs/manifests/{manifest}.jsonl.gz"))
    return [json.loads(line) for line in data.splitlines()]


known = json.loads(get(".pipefs/refs.json"))["snapshots"]
found = next(s for s in known if name in s.get("tags", []) or s["id"].startswith(name))
for part in lines(found["body"]["root"])[1:]:
    for entry in lines(part["part"]):
        if not path:
            print(entry["path"], entry.get("kind", "file"), entry.get("version", ""))
        elif entry["path"] == path[0]:
            key = entry.get("key", entry["path"])
            sys.stdout.buffer.write(get(key, VersionId=entry["version"]))
