"""`pipefs policy`: what the bucket must allow."""

from __future__ import annotations

import click

from pipefs.cli.app import App, Command, pass_app
from pipefs.permissions import ROLES


@click.command(
    cls=Command,
    short_help="Print an IAM policy for a pipe: read, write or admin.",
    example="pipefs policy sales --role read > read.json\n"
    "aws iam put-user-policy --user-name anna --policy-name sales --policy-document file://read.json",
)
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="Who it is for.")
@pass_app
def policy(app: App, name: str, role: str) -> None:
    """Print the IAM policy that somebody needs for a pipe, for its prefix only. read: mount it,
    snapshots too. write: also change it and take snapshots; nothing is ever lost by that. admin:
    also delete old versions (prune), lock them (protect), and turn versioning on."""
    import msgspec

    from pipefs.permissions import policy_for

    pipe = app.registry().get(name)
    found = policy_for(pipe.url, role, region=pipe.settings.region, kms_key=pipe.settings.kms_key)
    # With --json too: it is JSON.
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
