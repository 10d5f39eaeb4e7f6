"""`pipefs cred …`: access keys of single pipes, apart for reading and writing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipefs.cli.app import App, Group, pass_app
from pipefs.cli.output import table, tilde
from pipefs.errors import NotFound, UsageError
from pipefs.shellwords import SHELLS, assignments
from pipefs.structured import read_structured
from pipefs.units import show_count

if TYPE_CHECKING:
    from pipefs.registry import Registry
    from pipefs.types import AccessKey, Credentials


@click.group(cls=Group, short_help="Access keys of single pipes, for reading and for writing.")
def cred() -> None:
    """Most pipes need none of this: boto3 finds what `aws configure`, SSO or a machine's role give.
    Keys that were handed out for one data set are kept here, a pair for reading and a pair for
    writing. With a pair for reading alone the pipe is read-only. A child pipe (parent=…) uses its
    parent's.
    """


@cred.command(
    "set",
    short_help="Store a pair of keys.",
    example="""\
pipefs cred set sales                        asks for id and secret
pipefs cred set sales --read --id AKIAEXAMPLE < secret.txt
pipefs cred set sales --from creds.json      as d6tpipe or AWS write it; .yaml too
pipefs cred set sales --from env             what AWS_ACCESS_KEY_ID … say now""",
)
@click.argument("name")
@click.option("--read", "sides", flag_value="read", help="Only for reading.")
@click.option("--write", "sides", flag_value="write", help="Only for writing.")
@click.option("--id", "key_id", metavar="ID", help="Access key id; the secret is asked for.")
@click.option("--from", "source", metavar="FILE|env", help="Take them from there.")
@pass_app
def set_credentials(
    app: App, name: str, sides: str | None, key_id: str | None, source: str | None
) -> None:
    """Store keys of a pipe; it need not be there yet.

    The secret is asked for on a terminal, or read from standard input: words of a command line can
    be seen by every user of the machine. Without --read or --write the pair is for both.
    """
    from pipefs.types import Credentials

    vault = app.registry().vault
    given = _given(key_id, source)
    if sides is not None:
        before = vault.get(name) or Credentials()
        pair = getattr(given, sides) or given.read or given.write
        read, write = (pair, before.write) if sides == "read" else (before.read, pair)
        given = Credentials(read, write)
    vault.put(name, given)
    app.emit(_shown(app.registry(), name))
    app.say(f"{name}  {_facts(given)} · {_kept_as(app.registry(), name)}")
    if app.quiet or app.json:
        return
    if not vault.is_encrypted(name):
        app.say(f"encrypt what is stored: {app.command('cred encrypt')}")


def _given(key_id: str | None, source: str | None) -> Credentials:
    from pipefs.credentials import parse_credentials

    if source and key_id:
        raise UsageError("--id and --from exclude each other")
    if source == "env":
        names = {k: os.environ.get(k.upper(), "") for k in _VARIABLES}
        return parse_credentials(names, "the environment")
    if source:
        return parse_credentials(_read(Path(source)), source)
    asks = sys.stdin.isatty()
    if not key_id:
        if not asks:
            raise UsageError("which access key?", hint="pipefs cred set NAME --id ID < secret.txt")
        key_id = click.prompt("Access key id", err=True)
    if asks:
        secret = click.prompt("Secret access key", hide_input=True, err=True)
    else:
        secret = sys.stdin.read().strip()
    return parse_credentials({"access_key_id": key_id, "secret_access_key": secret})


_VARIABLES = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def _read(path: Path) -> dict[str, object]:
    """d6tpipe's files have the credentials below `credentials`."""
    found = read_structured(path)
    inner = found.get("credentials")
    return inner if isinstance(inner, dict) else found


def _facts(found: Credentials) -> str:
    sides = [
        f"{side} {_masked(key)}"
        for side, key in (("reads with", found.read), ("writes with", found.write))
        if key is not None
    ]
    if found.write is None:
        sides.append("READ-ONLY")
    return " · ".join(sides)


def _masked(key: AccessKey) -> str:
    """Enough to tell one key from another."""
    text = key.access_key_id
    return text if len(text) <= 8 else f"{text[:4]}…{text[-4:]}"


def _kept_as(registry: Registry, name: str) -> str:
    if registry.vault.is_encrypted(name):
        return f"encrypted, key in {tilde(registry.vault.keys.place())}"
    return "in a file only you can read, not encrypted"


def _shown(registry: Registry, name: str) -> dict[str, object]:
    found = registry.vault.get(name)
    return {
        "name": name,
        "read": _masked(found.read) if found and found.read else None,
        "write": _masked(found.write) if found and found.write else None,
        "encrypted": registry.vault.is_encrypted(name),
    }


@cred.command("show", short_help="Which pipes have keys of their own.", example="pipefs cred show")
@click.argument("name", required=False)
@pass_app
def show_credentials(app: App, name: str | None) -> None:
    """Which keys are stored; never the secrets."""
    registry = app.registry()
    names = [name] if name else registry.vault.names()
    if name and name not in registry.vault.names():
        raise _none(app, name)
    app.emit({"credentials": [_shown(registry, n) for n in names]})
    if not names:
        app.say("no pipe has keys of its own: boto3 finds them")
    rows = [
        [n, _facts(found), _kept_as(registry, n)]
        for n in names
        if (found := registry.vault.get(n)) is not None
    ]
    for line in table(rows):
        app.say(line)


def _none(app: App, name: str) -> NotFound:
    return NotFound(
        f'no keys are stored for "{name}"', hint=f"Store them: {app.command(f'cred set {name}')}"
    )


@cred.command(
    "remove", short_help="Forget the keys of a pipe.", example="pipefs -y cred remove sales"
)
@click.argument("name")
@pass_app
def remove_credentials(app: App, name: str) -> None:
    """Forget the keys of a pipe; boto3 finds others, or none."""
    vault = app.registry().vault
    if name not in vault.names():
        raise _none(app, name)
    app.confirm(f"This forgets the keys of {name} on this machine.", f"cred remove {name}")
    vault.remove(name)
    app.emit({"name": name})
    app.say(f"{name}  keys forgotten")


@cred.command(
    "env",
    short_help="A pipe's keys for the AWS command line.",
    example="""\
eval "$(pipefs cred env sales)"
pipefs cred env sales --write --shell powershell
pipefs --json cred env sales     as credential_process in ~/.aws/config wants it""",
)
@click.argument("name")
@click.option("--write", is_flag=True, help="The pair for writing.")
@click.option("--shell", type=click.Choice(SHELLS), default="bash", help="In whose words.")
@pass_app
def env(app: App, name: str, write: bool, shell: str) -> None:
    """Print the keys of a pipe as environment variables: those stored here, else those that boto3
    finds. With --json as AWS's credential_process wants them. They are shown in clear.
    """
    registry = app.registry()
    pipe = registry.get(name)
    stored = pipe.credentials()
    key = _side(app, name, stored, write) if stored else _found_by_boto(pipe.settings.aws_profile)
    if key is None:
        raise _none(app, name)
    values = {
        "AWS_ACCESS_KEY_ID": key.access_key_id,
        "AWS_SECRET_ACCESS_KEY": key.secret_access_key,
        "AWS_SESSION_TOKEN": key.session_token,
        "AWS_DEFAULT_REGION": pipe.settings.region,
        "AWS_ENDPOINT_URL_S3": pipe.settings.endpoint_url,
    }
    app.emit(
        {
            "Version": 1,
            "AccessKeyId": key.access_key_id,
            "SecretAccessKey": key.secret_access_key,
            **({"SessionToken": key.session_token} if key.session_token else {}),
        }
    )
    try:
        lines = assignments({k: v for k, v in values.items() if v}, shell)
    except ValueError as e:
        raise UsageError(str(e), hint="Use --shell powershell") from e
    for line in lines:
        app.say(line)
    if not (app.quiet or app.json):
        # Not among the lines that a shell evaluates.
        click.echo(f"try: aws s3 ls {pipe.url}/", err=True)


def _side(app: App, name: str, found: Credentials, write: bool) -> AccessKey | None:
    if not write:
        return found.read or found.write
    if found.write is None:
        hint = f"Store one: {app.command(f'cred set {name} --write')}"
        raise NotFound(f"{name} has no pair for writing", hint=hint)
    return found.write


def _found_by_boto(profile: str) -> AccessKey | None:
    from pipefs.stores.s3_settings import S3Settings, resolved_key

    return resolved_key(S3Settings(profile=profile))


@cred.command(
    "encrypt",
    short_help="Encrypt all stored keys.",
    example="pipefs cred encrypt\npipefs cred encrypt --key-in file      for a service",
)
@click.option(
    "--key-in",
    type=click.Choice(["keyring", "file"]),
    default="keyring",
    help="Where the key is kept; a file where there is no keyring.",
)
@pass_app
def encrypt(app: App, key_in: str) -> None:
    """Encrypt what is stored, and all that will be (AES-256-GCM).

    The key goes into the desktop's keyring, or where there is none into a file of its own that only
    you can read. A daemon that systemd starts sees no keyring: use --key-in file for it. Without
    the key nothing opens any more, and the keys of the pipes must be stored anew.
    """
    vault = app.registry().vault
    count = vault.encrypt(key_in_file=key_in == "file")
    place = vault.keys.place()
    app.emit({"encrypted": count, "key_in": place})
    app.say(f"{show_count(count, 'pipe')} encrypted · key in {tilde(place)}")


@cred.command("rotate", short_help="Encrypt with a new key.", example="pipefs cred rotate")
@pass_app
def rotate(app: App) -> None:
    """Make a new key, encrypt everything with it, and forget the old one."""
    vault = app.registry().vault
    count = vault.rotate()
    app.emit({"encrypted": count, "key_in": vault.keys.place()})
    app.say(f"{show_count(count, 'pipe')} encrypted anew · the old key opens nothing any more")
