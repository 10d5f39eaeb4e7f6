"""StateDB against plain dicts: random updates, nested ones, failures, checkpoints and crashes.

The database lives in a server process, forked for each life of it, so that killing it is the real
thing: nothing of the old process is left but what the kernel has.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipefs.db import StateDB, Txn
from tests.ram import ram_folder

# A walk is a fixed number of steps; how long they take is the machine's matter.
pytestmark = pytest.mark.timeout(600)

TABLES = ("one", "two")
Model = dict[str, dict[bytes, bytes]]
# (table, key, value or None to delete) or a nested update: (its steps, whether it fails)
Put = tuple[str, bytes, bytes | None]
Steps = list["Put | tuple[Steps, bool]"]

keys = st.binary(min_size=1, max_size=3) | st.binary(min_size=509, max_size=511)
values = st.binary(max_size=40) | st.integers(1, 9000).map(bytes)
puts = st.tuples(st.sampled_from(TABLES), keys, st.none() | values)
steps: st.SearchStrategy[Steps] = st.lists(
    puts | st.tuples(st.lists(puts, max_size=4), st.booleans()), max_size=8
)


class _PurposeError(Exception):
    pass


def _run(db: StateDB, todo: Steps, fail: bool) -> None:
    with db.update() as txn:
        for step in todo:
            if len(step) == 2:
                with contextlib.suppress(_PurposeError):
                    _run(db, step[0], step[1])
            else:
                _one(txn, step)
        if fail:
            raise _PurposeError


def _one(txn: Txn, step: Put) -> None:
    table, key, value = step
    if value is None:
        txn.delete(table, key)
    else:
        txn.put(table, key, value)


def _apply(model: Model, todo: Steps) -> None:
    for step in todo:
        if len(step) == 2:
            if not step[1]:
                _apply(model, step[0])
        elif step[2] is None:
            model[step[0]].pop(step[1], None)
        else:
            model[step[0]][step[1]] = step[2]


def _serve(directory: Path, requests: Connection) -> None:
    db = StateDB(directory, TABLES, checkpoint_bytes=4000)
    requests.send("open")
    while True:
        command, *arguments = requests.recv()
        if command == "update":
            with contextlib.suppress(_PurposeError):
                _run(db, *arguments)
            requests.send(None)
        elif command == "dump":
            with db.view() as view:
                found = {t: list(view.scan(t)) for t in TABLES}
                assert found == {t: list(view.scan(t, reverse=True))[::-1] for t in TABLES}
                assert {t: view.count(t) for t in TABLES} == {t: len(found[t]) for t in TABLES}
            requests.send({t: dict(items) for t, items in found.items()})
        else:
            requests.send(getattr(db, command)())
        if command == "close":
            return


class StateDBMachine(RuleBasedStateMachine):
    @initialize()
    def make(self) -> None:
        self.directory = ram_folder("pipefs-model-")
        self.model: Model = {t: {} for t in TABLES}
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.directory, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert self.pipe.recv() == "open"

    def ask(self, *command: object) -> object:
        self.pipe.send(command)
        return self.pipe.recv()

    @rule(todo=steps)
    def update(self, todo: Steps) -> None:
        self.ask("update", todo, False)
        _apply(self.model, todo)

    @rule(todo=steps)
    def failing_update(self, todo: Steps) -> None:
        self.ask("update", todo, True)

    @rule(command=st.sampled_from(["checkpoint", "sync"]))
    def maintain(self, command: str) -> None:
        self.ask(command)

    @rule()
    def crash(self) -> None:
        self.process.kill()
        self.process.join()
        self.start()

    @rule()
    def reopen(self) -> None:
        self.ask("close")
        self.process.join()
        self.start()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if hasattr(self, "model"):
            assert self.ask("dump") == self.model

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.process.kill()
            self.process.join()
            self.pipe.close()
            shutil.rmtree(self.directory)


StateDBMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True
)
TestStateDBAgainstDicts = StateDBMachine.TestCase
