"""What every command shares: global options, the home, the one error boundary.

Commands raise `PipefsError` and never print a traceback or call `sys.exit`; `Program.main` turns
what they raise into a message with its next step and the exit code of the contract.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import click

from pipefs.errors import NotFound, PipefsError, Refused, UsageError
from pipefs.home import Home, resolve_home

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from pipefs.registry import Registry

EXIT_INTERRUPTED = 130

_ABOUT_A_PIPE = re.compile(r"\bpipefs (snapshots|snapshot|check|doctor|policy|set|cred set) NAME\b")
"""Next steps for the pipe that failed; others, such as `create NAME`, are about a new name."""


@dataclass
class App:
    """The global options of one run."""

    profile: str = ""
    system: bool = False
    config_file: str | None = None
    yes: bool = False
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    asked: set[str] = field(default_factory=set)
    """Pipes that the command looked up by name."""

    def home(self) -> Home:
        return resolve_home(
            system=self.system, profile=self.profile or None, config_file=self.config_file
        )

    def registry(self, home: Home | None = None, *, new_profile: bool = False) -> Registry:
        """Raises `NotFound` for a profile that was never made, unless `new_profile`: then it is
        made."""
        from pipefs.config import load_config
        from pipefs.registry import Registry, read_profile, write_profile

        home = home or self.home()
        if home.profile:
            try:
                read_profile(home.config)
            except NotFound:
                if not new_profile:
                    raise
                write_profile(home, home.profile, {}, create=True)
        defaults = load_config(home.config_file, must_exist=bool(self.config_file))
        return Registry(home, defaults, on_get=self.asked.add)

    def command(self, rest: str) -> str:
        """`rest` as the user would type it, with the global options that choose the registry."""
        words = ["pipefs"]
        if self.profile:
            words += ["--profile", self.profile]
        if self.system:
            words.append("--system")
        if self.config_file:
            words += ["--config", self.config_file]
        return " ".join([*words, rest])

    def step(self, hint: str) -> str:
        """The next step of an error, with the pipe where the library could only say NAME."""
        if len(self.asked) != 1:
            return hint
        (name,) = self.asked
        return _ABOUT_A_PIPE.sub(lambda found: self.command(f"{found[1]} {name}"), hint)

    def say(self, text: str = "") -> None:
        """A line of result for people; silent with -q and with --json."""
        if not (self.quiet or self.json):
            click.echo(text)

    def warn(self, text: str, hint: str = "") -> None:
        """A line on stderr that does not end the command."""
        click.echo(message_text(text, hint), err=True)

    def emit(self, value: object) -> None:
        """The result for programs, with --json."""
        import msgspec

        if not self.json:
            return
        try:
            text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
        except UnicodeEncodeError:  # a name that is no UTF-8: its bytes as surrogates
            import json

            text = json.dumps(msgspec.to_builtins(value), indent=2)
        click.echo(text)

    def confirm(self, question: str, done_by: str) -> None:
        """Ask before something is destroyed; without a terminal only -y is an answer.

        Raises:
            Refused: no, or nobody to ask.
        """
        if self.yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise Refused(
                f"{question} Not done: there is no terminal to ask on",
                hint=f"If you mean it: {self.command('-y ' + done_by)}",
            )
        if not click.confirm(f"{question} Go on?", default=False, err=True):
            raise Refused("not done")


pass_app = click.make_pass_decorator(App, ensure=True)


def message_text(message: str, hint: str = "") -> str:
    """`pipefs: MESSAGE` with the hint indented below it."""
    lines = [f"pipefs: {message}"]
    lines += [f"        {line}" for line in hint.splitlines()]
    return "\n".join(lines)


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        # Only what was given: `pipefs --json status` must survive `status` without it.
        if value:
            setattr(ctx.ensure_object(App), name, value)
        if value and name == "verbose":
            import logging

            # Retries and waits, as they happen.
            logging.basicConfig(level=logging.INFO, format="pipefs: %(message)s")

    return callback


def _shared_options() -> list[click.Option]:
    """-y -q -v --json: before the command and after it."""

    def flag(names: list[str], attribute: str, text: str) -> click.Option:
        return click.Option(
            names, is_flag=True, expose_value=False, callback=_set(attribute), help=text
        )

    return [
        flag(["-y", "--yes"], "yes", "Do not ask."),
        flag(["-q", "--quiet"], "quiet", "Only errors."),
        flag(["-v", "--verbose"], "verbose", "More, and tracebacks."),
        flag(["--json"], "json", "Result as JSON."),
    ]


class Command(click.Command):
    """A command with an example block and the options that may stand anywhere."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        for option in _shared_options():
            option.hidden = option.name != "json"
            self.params.append(option)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_example(formatter, self.example)


def write_example(formatter: click.HelpFormatter, example: str) -> None:
    """Examples as they are typed, never rewrapped."""
    if example:
        with formatter.section("Example" if "\n" not in example else "Examples"):
            for line in example.splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Group(click.Group):
    """A noun with verbs, such as `profile`."""

    command_class = Command


class Program(click.Group):
    """The `pipefs` command: sections in its help, commands loaded when used, one boundary."""

    command_class = Command

    def __init__(
        self, *args: Any, sections: Sequence[tuple[str, str, dict[str, str]]], **kwargs: Any
    ) -> None:
        """`sections`: name, what people do there, and command → "module:attribute"."""
        super().__init__(*args, **kwargs)
        self.sections = sections
        self._where = {name: place for _, _, table in sections for name, place in table.items()}
        self.params.extend(_shared_options())
        for param in self.params:
            _let_complete(param)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        import importlib

        place = self._where.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        _suggest(found)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in self._where and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self._where, n=3, cutoff=0.5)
            guess = f"Did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(
                f"there is no command {args[0]!r}", hint=f"{guess}All commands: pipefs --help"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for name, what, table in self.sections:
            rows = []
            for command in table:
                found = self.get_command(ctx, command)
                if found is not None and not found.hidden:
                    rows.append((command, found.get_short_help_str(90)))
            with formatter.section(f"{name} ({what})"):
                formatter.write_dl(rows)

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any
    ) -> NoReturn:
        """Run and end the process with the exit code of the contract."""
        app = App()
        name = prog_name or "pipefs"

        def body() -> object:
            if "_PIPEFS_COMPLETE" in os.environ:
                return super(Program, self).main(args, name, obj=app)
            # Not click's own main: it turns a closed pipe into exit code 1.
            words = list(sys.argv[1:] if args is None else args)
            with self.make_context(name, words, obj=app) as ctx:
                return self.invoke(ctx)

        try:
            code = run(body, app)
        except BrokenPipeError:
            # `pipefs list | head -1`: the reader has what it wanted.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 0
        sys.exit(code)


def _suggest(command: click.Command) -> None:
    """Let the shell complete its words, and those of the commands in a group."""
    for param in command.params:
        _let_complete(param)
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _suggest(below)


def _let_complete(param: click.Parameter) -> None:
    # Click asks the parameter; one rule for all is one place to read.
    param.shell_complete = functools.partial(_completed, param)  # type: ignore[method-assign]


def _completed(param: click.Parameter, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    from pipefs.cli.completing import complete

    return complete(param, ctx, incomplete)


def run(body: Callable[[], object], app: App) -> int:
    """Exit code of `body`; every error becomes a message on stderr."""
    try:
        result = body()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("pipefs: interrupted", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as e:
        hint = ""
        if isinstance(e, click.UsageError) and e.ctx is not None:
            hint = f"{e.ctx.get_usage()}\nSee {e.ctx.command_path} --help"
        click.echo(message_text(_lower_first(e.format_message()), hint), err=True)
        return e.exit_code
    except PipefsError as e:
        if app.verbose:
            traceback.print_exc()
        click.echo(message_text(e.message, app.step(e.hint)), err=True)
        return e.exit_code
    except BrokenPipeError:
        raise
    except OSError as e:
        if app.verbose:
            traceback.print_exc()
        where = f"{e.filename}: " if e.filename else ""
        click.echo(message_text(f"{where}{e.strerror or e}"), err=True)
        return 1
    except Exception as e:
        return _unexpected(e, app)


def _lower_first(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")


def _unexpected(error: Exception, app: App) -> int:
    """A bug: a short message, and the traceback where it can be found."""
    name = type(error).__name__
    if app.verbose:
        traceback.print_exc()
        hint = "This is a bug in pipefs; please report it with the traceback above"
    else:
        hint = f"This is a bug in pipefs. Traceback: {_save_traceback(app)}"
    click.echo(message_text(f"internal error: {name}: {error}", hint), err=True)
    return 1


def _save_traceback(app: App) -> str:
    try:
        home = app.home()
        home.make()
        file = home.logs / "pipefs.log"
        with open(file, "a", encoding="utf-8") as f:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            f.write(f"{stamp} {' '.join(sys.argv)}\n{traceback.format_exc()}\n")
        return str(file)
    except (OSError, PipefsError):
        return "run again with -v"
