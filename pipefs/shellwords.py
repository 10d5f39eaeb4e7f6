"""Assignments of environment variables in the words of a shell. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

SHELLS = ("bash", "fish", "cmd", "powershell")


def assignments(values: Mapping[str, str], shell: str) -> list[str]:
    """One line a variable, for `shell` of `SHELLS`; bash's is also sh's and zsh's.

    Raises:
        ValueError: a value that cmd cannot hold.
    """
    if shell == "cmd" and any(c in v for v in values.values() for c in '"%\r\n'):
        raise ValueError("cmd cannot hold a value with a quote or a percent sign")
    return [_line(name, value, shell) for name, value in values.items()]


def _line(name: str, value: str, shell: str) -> str:
    if shell == "bash":
        return f"export {name}={shlex.quote(value)}"
    if shell == "fish":
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{quoted}'"
    if shell == "cmd":
        # The quotes stand around all of it: inside they would belong to the value.
        return f'SET "{name}={value}"'
    doubled = value.replace("'", "''")
    return f"$Env:{name} = '{doubled}'"
