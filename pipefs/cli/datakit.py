"""`datakit data init|push|pull|status` by pipefs: commands of datakit, found by its entry points.

Only datakit imports this: `cliff` is its framework and nothing of ours. Where datakit-data itself
is installed beside pipefs its commands stay what they are.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from typing import Any

try:
    from cliff.command import Command
except ModuleNotFoundError:
    Command = object  # without datakit nobody makes one of these

__all__ = ["Init", "Pull", "Push", "Status"]


class _Words(argparse.ArgumentParser):
    """Leaves all words to pipefs: they are its own, and so is their help."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]  # of its overloads
        return argparse.Namespace(words=list(args or ()))


class _Data(Command):  # type: ignore[misc]  # cliff has no types
    """`pipefs project VERB`."""

    verb = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        return _Words(prog=prog_name, description=self.get_description(), add_help=False)

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        from pipefs.cli.main import cli

        try:
            cli.main(["project", self.verb, *parsed_args.words], "pipefs")
        except SystemExit as e:
            return e.code if isinstance(e.code, int) else 1


class Init(_Data):
    "Initialize a directory for use with an S3 data store (by pipefs)"

    verb = "init"


class Push(_Data):
    "Push local data to S3 (by pipefs)"

    verb = "push"


class Pull(_Data):
    "Pull data from S3 (by pipefs)"

    verb = "pull"


class Status(_Data):
    "Show sync status of local data files (by pipefs)"

    verb = "status"


if importlib.util.find_spec("datakit_data") is not None:
    # Two packages with one command each: it is not told which of them datakit takes.
    from datakit_data import Init, Pull, Push, Status  # type: ignore[no-redef]  # instead of ours
