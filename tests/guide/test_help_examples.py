"""Every example in the help of a command runs as it stands, on what it speaks of.

`sales` has files, two years, and snapshots; `prices`, `hurdat` and others are beside it. The same
world stands on three desks: on embedded stores, made anew for each command; mounted, with the shell
inside the mount; and in buckets of a real S3 server.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from functools import partial

import click
import pytest

from pipefs.cli.main import SECTIONS, cli
from tests.guide.world import World, fresh, keep, make_bucket, remove_bucket
from tests.seaweed import SeaweedServer
from tests.typed import Desk, Starter, Typed

GLOBAL = {"yes", "quiet", "verbose", "json"}

MOUNTED = {"flush", "refresh", "warm", "pin", "unpin", "snapshot", "log", "du", "checkout"}
"""Commands whose examples need a mount, or speak of the folder they stand in."""
ON_S3 = {
    *("config", "create", "cred", "doctor", "export", "list", "policy", "profile", "project"),
    "snapshots",
}
"""Commands whose examples speak of a bucket."""

ANSWERS = {
    "pipefs remove sales": "y\n",
    "pipefs forget sales@v1 sales@v2": "y\n",
    "pipefs profile remove team": "y\n",
    "pipefs orphans sales --remove": "y\n",
    "pipefs resolve sales/q3.csv --keep theirs": "y\n",
    "pipefs orphans sales --direction remote --remove": "y\n",
    "pipefs cred set sales": "AKIAEXAMPLE\nsecret\n",
}
"""What is typed where a command asks."""

_PULLED = "pipefs -q pull sales && pipefs -q pull sales --dest ./work"
BEFORE = {
    "create": "pipefs -y -q remove sales && pipefs -y -q remove prices",
    "list": "pipefs -q profile create team -o root=s3://team-data/pipes",
    "profile dir": "pipefs -q profile create team",
    "profile set": "pipefs -q profile create team",
    "profile show": "pipefs -q profile create team",
    "profile remove": "pipefs -q profile create team",
    "mount": "pipefs -q lock sales",
    "unpin": "pipefs -q pin sales/2026",
    "umount": "pipefs -q mount sales && pipefs -q mount hurdat",
    "snapshot": "pipefs -q -y forget sales@v1",
    "cred remove": "pipefs -q cred set sales --from env",
    "cred rotate": "pipefs -q cred set sales --from env && pipefs -q cred encrypt",
    "is-synced": _PULLED,
    "orphans": f"{_PULLED} && echo 1 > ~/.local/share/pipefs/pipes/sales/new.csv",
    "watch": "mkdir work",
    **dict.fromkeys(
        ("project config", "project pull", "project push", "project status", "project verify"),
        "mkdir p && cd p && pipefs -q project init --batch --bucket my-bucket --path p/$RANDOM",
    ),
    "project init": "mkdir my-project",
}
"""What else has to be done first."""
EACH = {
    "push": f"{_PULLED} && echo $RANDOM"
    " | tee work/q3.csv > ~/.local/share/pipefs/pipes/sales/q3.csv",
    "resolve": "for there in ~/.local/share/pipefs/pipes/sales work; do"
    " pipefs -q -y pull sales --merge-mode overwrite --dest $there;"
    " echo mine $RANDOM > $there/q3.csv;"
    " done; echo $RANDOM > q3.csv && pipefs -q put q3.csv sales/",
}
"""What has to be done before each example of a command: a change or a conflict, in two folders."""
UNTIL_CTRL_C = {f"pipefs watch ./work sales{more}" for more in ("", " --delete", " --json")}

CODES: dict[str, tuple[int, str]] = {}
"""Examples about a refusal: exit code, and why."""

ELSEWHERE = {
    "pipefs demo": "tests/mount/test_demo.py runs it",
    "pipefs demo --keep": "tests/mount/test_demo.py runs it",
    "aws iam put-user-policy": "no program of ours; tests/s3/test_policy.py proves the policies",
}
"""Examples that are not run here, and why. It must not grow."""


def commands(
    group: click.Group = cli, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """(words, command) of every command; of a group its commands."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*above, name))
        else:
            yield (*above, name), found


COMMANDS = dict(commands())


def example(line: str) -> str:
    """The command of a line, without the explanation that stands two or more spaces behind it."""
    return re.split(r"\s{2,}", line.strip(), maxsplit=1)[0]


def examples(words: tuple[str, ...]) -> list[str]:
    return [example(line) for line in getattr(COMMANDS[words], "example", "").splitlines()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a site with settings."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "config.json").write_text(json.dumps({"region": "eu-west-1"}))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def embedded(starter: Starter) -> Iterator[World]:
    world = World(starter, "")
    keep(world)
    yield world
    world.desk.close()


@pytest.fixture(scope="module")
def mounted(starter: Starter) -> Iterator[World]:
    world = World(starter, "")
    world.do("pipefs mount sales && cd ~/pipes/sales")
    yield world
    world.desk.close()


@pytest.fixture(scope="module")
def buckets(starter: Starter, seaweed: SeaweedServer) -> Iterator[World]:
    for name in ("my-bucket", "team-data", "data", "my-data-projects"):
        make_bucket(seaweed.client(), name)
    # A worker that comes back to this file meets what it left there.
    remove_bucket(seaweed.client(), "new-bucket")
    world = World(starter, "s3://team-data/pipes/", seaweed.environment())
    world.made_up["http://127.0.0.1:8333"] = seaweed.endpoint_url
    keep(world)
    yield world
    world.desk.close()


def wrong(world: World, words: tuple[str, ...], site: str) -> list[tuple[str, Typed]]:
    """The examples of a command that did not do what they should."""
    if before := BEFORE.get(" ".join(words)):
        world.do(before)
    found = []
    for line in examples(words):
        if any(line.startswith(known) for known in ELSEWHERE):
            continue
        if each := EACH.get(" ".join(words)):
            world.do(each)
        typed = world.real(line, **{"https://data.example.org": site})
        if line in UNTIL_CTRL_C:
            typed = f"timeout --foreground --preserve-status --signal INT 2 {typed}"
        done = world.desk.type(typed, answers=ANSWERS.get(line, ""))
        code, _ = CODES.get(line, (0, ""))
        if done.code != code or "Traceback" in done.err:
            found.append((line, done))
    return found


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_examples_of(words: tuple[str, ...], site: str, request: pytest.FixtureRequest) -> None:
    assert examples(words), f"pipefs {' '.join(words)} --help has no example"
    place = "mounted" if words[0] in MOUNTED else "buckets" if words[0] in ON_S3 else "embedded"
    world: World = request.getfixturevalue(place)
    if place != "mounted":
        fresh(world)
    assert wrong(world, words, site) == []


def test_what_is_said_about_examples_is_about_examples() -> None:
    """Nothing stays in the tables above when its example goes."""
    lines = {line for words in COMMANDS for line in examples(words)}
    names = {" ".join(words) for words in COMMANDS}
    assert set(ANSWERS) | set(CODES) | UNTIL_CTRL_C <= lines
    assert set(BEFORE) | set(EACH) <= names
    assert {words[0] for words in COMMANDS} >= MOUNTED | ON_S3
    assert [e for e in ELSEWHERE if not any(line.startswith(e) for line in lines)] == []
    assert len(ELSEWHERE) == 3


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_says_what_it_does_and_what_its_options_do(words: tuple[str, ...]) -> None:
    command = COMMANDS[words]
    assert command.help, words
    assert command.short_help, words
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [o.opts for o in options if not o.help] == []
    # Every example of the help is one of this command, or a step beside it.
    text = getattr(command, "example", "")
    assert any(f" {words[-1]}" in line for line in text.splitlines()), text


def test_help_groups_the_commands_by_what_people_do(starter: Starter) -> None:
    with Desk(starter) as desk:
        text = desk.type("pipefs --help").out
    places = [text.index(f"\n{name} ({what}):\n") for name, what, _ in SECTIONS]
    assert places == sorted(places)
    for (_, _, table), start, end in zip(SECTIONS, places, [*places[1:], None], strict=True):
        section = text[start:end]
        assert [n for n in table if f"\n  {n} " not in section and n not in _hidden()] == []


def _hidden() -> set[str]:
    return {words[0] for words, command in COMMANDS.items() if command.hidden}


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("pipefs snapshto sales", 2, "Did you mean snapshot"),
        ("pipefs stauts", 2, "Did you mean status"),
        ("pipefs xyzzy", 2, "All commands: pipefs --help"),
        ("pipefs cred encrpyt", 2, "pipefs cred --help"),
        ("pipefs snapshot sales --mesage x", 2, "pipefs snapshot --help"),
        ("pipefs mount nosuch", 3, "pipefs"),
        ("pipefs list", 0, "pipefs create"),
        ("pipefs status", 0, "pipefs list"),
    ],
)
def test_a_mistake_is_told_what_to_type_next(
    starter: Starter, typed: str, code: int, said: str
) -> None:
    with Desk(starter) as desk:
        done = desk.type(typed)
    assert done.code == code, done
    assert said in done.out + done.err


def test_the_next_step_names_the_pipe_and_the_profile(embedded: World) -> None:
    fresh(embedded)
    desk = embedded.desk
    assert desk.type("pipefs ls sales@nosuch").err.endswith("All: pipefs snapshots sales\n")
    assert "Make one: pipefs snapshot hurdat\n" in desk.type("pipefs ls hurdat@latest").err
    embedded.do("pipefs profile create team && pipefs --profile team create x")
    assert (
        "pipefs --profile team snapshot x\n" in desk.type("pipefs --profile team ls x@latest").err
    )
    # Two pipes: which of them, only the message knows.
    assert "pipefs snapshots NAME" in desk.type("pipefs lock sales prices@nosuch").err


EXIT_CODES = {
    0: "pipefs ls sales",
    1: "pipefs cat sales/q3.csv > /dev/full",
    2: "pipefs ls",
    3: "pipefs ls sales@nosuch",
    4: "pipefs create sales",
    5: "pipefs create x s3://nosuch-bucket/x --endpoint-url http://127.0.0.1:1",
}
"""A command for each exit code of the contract; 6 and 124 have tests of their own."""


@pytest.mark.parametrize("code", EXIT_CODES)
def test_d6_75_exit_codes_mean_what_the_contract_says(embedded: World, code: int) -> None:
    fresh(embedded)
    done = embedded.desk.type(EXIT_CODES[code])
    assert done.code == code, done
    assert done.err.startswith("pipefs: ") if code else not done.err
