"""`mount.pipefs`: what mount(8) calls for `mount -t pipefs NAME DIR`, for /etc/fstab and systemd.

Returns when the mount answers, with the exit codes of mount(8). Root mounts the machine's pipes,
everybody else their own. The mount belongs to the daemon, never to this process or to the unit it
runs in: a daemon that is there is joined, else systemd is asked to start its service, and only
without one it is started from here. The daemon also mounts, except on an automount point, where
the kernel lets only us.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from pipefs.cli.app import message_text
from pipefs.errors import AccessDenied, PipefsError, Refused, UsageError
from pipefs.home import Home, resolve_home
from pipefs.protocol import Mount, Mounted

if TYPE_CHECKING:
    from pipefs.client import SupervisorClient

USAGE, SYSTEM, INTERNAL, INTERRUPTED, FAILED = 1, 2, 4, 8, 32
"""Exit codes of mount(8)."""

IGNORED: Final = frozenset(
    (
        *("_netdev", "auto", "noauto", "nofail", "defaults", "rw", "user", "nouser", "users"),
        *("nousers", "owner", "noowner", "group", "nogroup", "async", "atime", "noatime"),
        *("relatime", "norelatime", "strictatime", "nostrictatime", "diratime", "nodiratime"),
        *("lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand", "silent", "loud"),
    )
)
"""Nothing to do: for mount(8) or systemd, true of every mount of ours, or without effect on it."""

REFUSED: Final = {
    "remount": "unmount it and mount it again",
    "bind": "bind the mounted directory with mount --bind",
    "move": "unmount it and mount it elsewhere",
}


@dataclass(slots=True)
class Order:
    """A call of mount(8), understood."""

    source: str = ""
    directory: str = ""
    read_only: bool = False
    fake: bool = False
    profile: str = ""
    config_file: str = ""
    transport: str = "auto"
    settings: list[str] = field(default_factory=list)


def parse(words: Sequence[str]) -> Order:
    """`SOURCE DIR [-sfnvrw] [-t TYPE] [-N NS] [-o OPTIONS]`, as mount(8) calls its helpers.

    Raises:
        UsageError: not of that form, or an option that cannot be honoured.
    """
    order, places, sloppy = Order(), [], False
    options: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-o", "-t", "-N") and not rest:
            raise UsageError(f"{word} has no value")
        if word == "-o":
            options += rest.pop(0).split(",")
        elif word in ("-t", "-N"):
            if rest.pop(0) and word == "-N":
                raise UsageError("a pipe cannot be mounted in another namespace")
        elif word.startswith("-") and set(word[1:]) <= set("sfnvrw") and len(word) > 1:
            order.fake |= "f" in word
            order.read_only |= "r" in word
            sloppy |= "s" in word
        elif word.startswith("-"):
            raise UsageError(f"mount.pipefs does not know {word}")
        else:
            places.append(word)
    if len(places) != 2:
        raise UsageError("mount.pipefs needs NAME and DIR", hint="mount -t pipefs sales /srv/sales")
    # "pipefs#sales" is how old fstab lines name a FUSE file system.
    order.source = places[0].removeprefix("pipefs#")
    order.directory = os.path.normpath(os.path.abspath(places[1]))
    for option in options:
        _take(order, option, sloppy)
    return order


def _take(order: Order, option: str, sloppy: bool) -> None:
    from pipefs.cli.mounting import BARE_OPTIONS
    from pipefs.config import SPECS

    key, equals, value = option.partition("=")
    name = key.replace("-", "_")
    not_ours = key in ("user", "comment") or key.startswith(("x-", "X-"))
    if not option or option in IGNORED or not_ours:
        return
    if option == "ro":
        order.read_only = True
    elif option in REFUSED:
        raise UsageError(f"the option {option} cannot be honoured", hint=REFUSED[option])
    elif key in ("profile", "transport") and equals:
        setattr(order, key, value)
    elif key == "config" and equals:
        order.config_file = value
    elif option in BARE_OPTIONS:
        order.settings.append(option)
    elif name in SPECS:
        order.settings.append(f"{name}={value}" if equals else name)
    elif not sloppy:
        raise UsageError(
            f"there is no mount option {key!r}", hint="Settings: " + " ".join(sorted(SPECS))
        )


def run(order: Order) -> None:
    """Mount; returns when it answers. Raises `PipefsError`."""
    from pipefs.cli.mounting import mount_options
    from pipefs.client import connect_or_start
    from pipefs.target import split_snapshot

    if order.fake:
        return
    system = os.geteuid() == 0
    home = resolve_home(
        system=system, profile=order.profile or None, config_file=order.config_file or None
    )
    name, snapshot = split_snapshot(order.source)
    options = mount_options(tuple(order.settings))
    request = Mount(
        name=name,
        directory=order.directory,
        snapshot=snapshot,
        read_only=order.read_only or options.get("read_only") == "yes",
        transport=order.transport,
        options=options,
    )
    client = connect_or_start(home, system=system, config_file=order.config_file or None)
    mounted = _mount_here(home, client, request) or client.mount(request)
    for warning in mounted.warnings:
        print(f"mount.pipefs: {warning}", file=sys.stderr)


def _mount_here(home: Home, client: SupervisorClient, request: Mount) -> Mounted | None:
    """Mount on an automount point and give the mount to the daemon; None when it is none."""
    from pipefsd import mountpoint
    from pipefsd.givenmount import offered
    from pipefsd.pipes import Pipes

    if not mountpoint.is_automount(request.directory):
        return None
    plan = Pipes(home).resolve(request).plan
    if plan.transport != "kernel":
        raise Refused(
            f"{request.directory} is an automount point, where only the kernel transport mounts",
            hint="Leave out transport=, or x-systemd.automount",
        )
    answer, descriptor = mountpoint.mount_pipe(plan)
    assert descriptor is not None
    try:
        with offered(descriptor, home.socket_path(f"mount-{os.getpid()}.sock")) as path:
            given = msgspec.structs.replace(request, directory=answer.path, given=path)
            mounted = client.mount(given)
    except BaseException:
        mountpoint.abandon_mount(answer.path, answer.connection, remove=False)
        raise
    finally:
        os.close(descriptor)
    mountpoint.probe_mount(answer.path)
    return mounted


def main() -> int:
    """Entry point of `mount.pipefs`: the exit code of mount(8)."""
    try:
        run(parse(sys.argv[1:]))
    except PipefsError as error:
        print(message_text(error.message, error.hint), file=sys.stderr)
        return USAGE if isinstance(error, UsageError | AccessDenied) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        print(message_text(str(error)), file=sys.stderr)
        return SYSTEM
    except Exception as error:  # The process's top: mount(8) knows codes, not tracebacks.
        print(message_text(f"internal error: {type(error).__name__}: {error}"), file=sys.stderr)
        return INTERNAL
    return 0


if __name__ == "__main__":
    sys.exit(main())
