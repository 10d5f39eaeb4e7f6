"""`pipefs completion SHELL`: the lines that teach a shell our commands and names."""

from __future__ import annotations

import os
from typing import ClassVar

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from pipefs.cli.app import App, Command, pass_app
from pipefs.errors import UsageError

VARIABLE = "_PIPEFS_COMPLETE"

_BASH = r"""%(complete_func)s() {
    # Bash splits words at @, = and : as well; ours go on. So the line is split at blanks here, and
    # of each answer bash gets the part behind its own last split.
    local IFS=$' \t\n' line="${COMP_LINE:0:COMP_POINT}" words word cut type value nospace=1
    read -r -a words <<< "$line"
    [[ "$line" == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    cut=""
    local part="${COMP_WORDS[COMP_CWORD]}"
    case "$part" in "@"|"="|":") part="" ;; esac
    [[ "$word" == *"$part" ]] && cut="${word%%"$part"}"
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case "$type" in
            dir) compopt -o dirnames 2>/dev/null ;;
            file) compopt -o default 2>/dev/null ;;
            plain) COMPREPLY+=("${value#"$cut"}"); [[ "$value" == *[=/@] ]] || nospace="" ;;
        esac
    done < <(COMP_WORDS="$line" COMP_CWORD=$((${#words[@]}-1)) \
        %(complete_var)s=bash_complete "$1")
    [[ -n "$nospace" ]] && compopt -o nospace 2>/dev/null
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Bash, with words that hold `@` and `=`."""

    source_template: ClassVar[str] = _BASH

    @staticmethod
    def _check_version() -> None:
        """Bash is asked nothing: 4.4 is of 2016, and a shell that starts should not wait."""


_SHELLS: dict[str, type[ShellComplete]] = {
    "bash": Bash,
    "zsh": ZshComplete,
    "fish": FishComplete,
}
_FILES = {
    "bash": "echo 'eval \"$(pipefs completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(pipefs completion zsh)\"' >> ~/.zshrc",
    "fish": "pipefs completion fish > ~/.config/fish/completions/pipefs.fish",
}


@click.command(
    cls=Command,
    short_help="Teach your shell the commands, pipes and snapshots.",
    example="""\
eval "$(pipefs completion bash)"                 in this shell; in ~/.bashrc for good
pipefs completion zsh > _pipefs                  a file for zsh's function path
pipefs completion fish > pipefs.fish             for ~/.config/fish/completions""",
)
@click.argument("shell", type=click.Choice(sorted(_SHELLS)), required=False)
@pass_app
def completion(app: App, shell: str | None) -> None:
    """Print a script for SHELL. With it, TAB completes commands, options, pipes, snapshots after
    NAME@, settings and their values, profiles, and paths in mounted pipes. It asks no network:
    snapshots are those that a command saw last."""
    if shell is None:
        here = os.path.basename(os.environ.get("SHELL", ""))
        told = _FILES.get(here, _FILES["bash"])
        raise UsageError("which shell: bash, zsh or fish?", hint=f"For good: {told}")
    root = click.get_current_context().find_root().command
    click.echo(_SHELLS[shell](root, {}, "pipefs", VARIABLE).source().rstrip())
