"""`pipefs create list show set remove`: the pipes of this user or machine."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.cli.listing import is_mounted, pipe_json, place_of
from pipefs.cli.output import printable
from pipefs.config import parse_assignments
from pipefs.errors import Refused
from pipefs.registry import Registry
from pipefs.units import show_count, show_size

if TYPE_CHECKING:
    from pipefs.creation import Created


@click.command(
    cls=Command,
    short_help="Make a pipe: a name for a folder of a bucket, or an embedded store.",
    example="""\
pipefs create hurdat                                   embedded store, no server needed
pipefs create sales s3://my-bucket/sales               an existing bucket
pipefs create orders s3://new-bucket/orders --create-bucket
pipefs create s3://team-data/pipes/prices              adopt a colleague's pipe
pipefs create t s3://data/t --endpoint-url http://127.0.0.1:8333
pipefs create -f weather.yaml                          from a description; see pipefs set""",
)
@click.argument("name", required=False)
@click.argument("url", required=False)
@click.option("--endpoint-url", metavar="U", help="S3 service other than AWS.")
@click.option("--aws-profile", metavar="P", help="Profile in ~/.aws.")
@click.option("--create-bucket", is_flag=True, help="Make the bucket, versioning on.")
@click.option("-o", "options", metavar="KEY=VALUE", multiple=True, help="A setting of the pipe.")
@click.option("-f", "--file", "file", metavar="FILE", help="A description of it, see set.")
@pass_app
def create(
    app: App,
    name: str | None,
    url: str | None,
    endpoint_url: str | None,
    aws_profile: str | None,
    create_bucket: bool,
    options: tuple[str, ...],
    file: str | None,
) -> None:
    """Make a pipe.

    URL is s3://bucket/prefix or file:///folder. Without one the pipe goes to the profile's root,
    or into an embedded store on this machine. What is in the bucket already stays as it is.
    """
    from pipefs.creation import create_pipe

    pairs = list(options)
    if endpoint_url:
        pairs.append(f"endpoint_url={endpoint_url}")
    if aws_profile:
        pairs.append(f"aws_profile={aws_profile}")
    registry = app.registry(new_profile=True)
    chosen = parse_assignments(pairs)
    if file is not None:
        made = _from_file(registry, file, name, url, chosen, create_bucket)
    else:
        made = create_pipe(registry, name, url, chosen, create_bucket=create_bucket)
    say_created(app, made, registry)


def _from_file(
    registry: Registry,
    file: str,
    name: str | None,
    url: str | None,
    options: dict[str, object],
    create_bucket: bool,
) -> Created:
    from pipefs.structured import read_structured
    from pipefs.upserting import description_of, upsert

    found = description_of(read_structured(Path(file)), name, file)
    if found.name in registry.names():
        raise registry.taken(found.name)
    wanted = replace(found, url=url or found.url, settings={**found.settings, **options})
    made = upsert(registry, wanted, create_bucket=create_bucket).created
    assert made is not None  # the name was free
    return made


def say_created(app: App, made: Created, registry: Registry) -> None:
    """What `create` tells."""
    app.say(f"{made.pipe.name}  {' · '.join(_created_facts(made, registry))}")
    _created_warnings(app, made)
    if not app.json:
        app.say(f"next: {app.command(f'mount {made.pipe.name}')}")
    app.emit(
        {
            **pipe_json(made.pipe),
            "adopted": made.adopted,
            "versioning": made.capabilities.versioning,
            "writable": made.capabilities.writable,
            "found_objects": made.found.objects,
            "found_bytes": made.found.bytes,
        }
    )


def _created_facts(made: Created, registry: Registry) -> list[str]:
    pipe, caps = made.pipe, made.capabilities
    facts = [place_of(pipe, registry.home)]
    if made.bucket_created:
        facts.append("bucket made")
    if made.adopted:
        by = f" by {printable(made.descriptor.created_by)}" if made.descriptor.created_by else ""
        facts.append(f"made {made.descriptor.created[:10]}{by}")
    if made.found.objects:
        newest = time.strftime("%Y-%m-%d", time.gmtime(made.found.newest_ns // 10**9))
        count = show_count(made.found.objects, "object")
        if made.found.more:
            facts.append(f"holds more than {count}, {show_size(made.found.bytes)} so far")
        else:
            facts.append(f"holds {count}, {show_size(made.found.bytes)}")
        facts.append(f"newest {newest}")
    facts.append("versions kept" if caps.versioning else "VERSIONS NOT KEPT")
    return facts


def _created_warnings(app: App, made: Created) -> None:
    from pipefs.creation import bucket_of

    name = made.pipe.name
    if not made.capabilities.versioning:
        bucket = bucket_of(made.pipe.url)
        app.warn(
            f'bucket "{bucket}" keeps no versions: mounting works, snapshots and the past do not',
            hint=f"Turn versioning on: {app.command(f'doctor {name} --fix')}",
        )
    if not made.capabilities.writable:
        app.warn(
            "READ-ONLY: your credentials may not write here",
            hint="Files can be read; writes will be refused at the mount",
        )
    elif not made.described:
        app.warn("your credentials may not write .pipefs/, so the pipe is known here only")
    for line in made.warnings:
        app.warn(line, hint=f"See {app.command(f'doctor {name}')}")
    for key, value in made.refused.items():
        app.warn(
            f"the bucket asks for {key}={printable(str(value))}, a place outside the pipe's own "
            "folder: ignored",
            hint=f"If you want that: {app.command(f'set {name} {key}=…')} counts on this machine",
        )


@click.command(
    cls=Command,
    short_help="Forget a pipe; with --purge delete its data too.",
    example="""\
pipefs remove sales                  the bucket keeps everything
pipefs -y remove old-sales --purge   delete all files and versions""",
)
@click.argument("name")
@click.option("--purge", is_flag=True, help="Also delete every file and version in the store.")
@pass_app
def remove(app: App, name: str, purge: bool) -> None:
    """Forget a pipe on this machine.

    The files stay in the store, and `pipefs create URL` brings the pipe back; --purge deletes
    them with all versions, for everybody.
    """
    from pipefs import knownnames
    from pipefs.cachework import CacheWork
    from pipefs.creation import purge_store
    from pipefs.waiting import waiting_changes

    home = app.home()
    registry = app.registry(home)
    pipe = registry.get(name)
    registry.refuse_parent(name)
    if is_mounted(app, name):
        raise Refused(f'"{name}" is mounted', hint=f"First: {app.command(f'umount {name}')}")
    waits = waiting_changes(home, name)
    if waits:
        raise Refused(
            f'"{name}" has {show_count(waits, "change")} that are not in the store yet',
            hint=f"They go up when it is mounted: {app.command(f'mount {name}')}, "
            f"then {app.command(f'flush {name}')}",
        )
    place = place_of(pipe, home)
    if purge:
        question = f"This deletes every file and version of {name} in {place}, for everybody."
    else:
        question = f"This forgets {name} on this machine; {place} stays."
    app.confirm(question, f"remove {name}{' --purge' if purge else ''}")
    count = purge_store(pipe, home) if purge else 0
    CacheWork(home, pipe).forget()
    knownnames.forget(home, name)
    registry.remove(name)
    shutil.rmtree(home.pipe_state(name), ignore_errors=True)
    app.emit({"name": name, "url": pipe.url, "deleted_versions": count})
    if purge:
        app.say(f"{name}  removed · {show_count(count, 'version')} deleted in {place}")
    else:
        app.say(
            f"{name}  forgotten · {place} stays · back: {app.command(f'create {name} {pipe.url}')}"
        )
