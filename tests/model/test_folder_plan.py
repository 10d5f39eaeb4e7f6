"""Plans of pull and push, for every state that two sides and a record can be in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from pipefs.folder.plan import MergeMode, Mode, Plan, Planner, Wanted
from pipefs.folder.states import Known, Local, Remote, in_step

PATHS = ("a", "b/c", "b/d", "e")
CONTENTS = ("1", "2", "3x")


@dataclass
class Model:
    """A folder and a pipe whose files are short texts."""

    here: dict[str, str] = field(default_factory=dict)
    there: dict[str, str] = field(default_factory=dict)
    known: dict[str, Known] = field(default_factory=dict)
    touched: int = 0
    """Clock of times, so that each write has its own."""
    times: dict[str, int] = field(default_factory=dict)
    there_times: dict[str, int] = field(default_factory=dict)

    def write(self, path: str, content: str) -> None:
        self.touched += 1
        self.here[path], self.times[path] = content, self.touched

    def publish(self, path: str, content: str) -> None:
        self.touched += 1
        self.there[path], self.there_times[path] = content, self.touched

    def local(self) -> dict[str, Local]:
        return {p: Local(len(c), self.times[p], ino=self.times[p]) for p, c in self.here.items()}

    def remote(self) -> dict[str, Remote]:
        return {
            p: Remote(len(c), self.there_times[p], p, f"v{self.there_times[p]}", f"e{c}")
            for p, c in self.there.items()
        }

    def is_unchanged(self, path: str) -> bool:
        return self.known[path].etag == f"e{self.here[path]}"

    def is_equal(self, path: str) -> bool:
        return self.here[path] == self.there[path]

    def planner(self) -> Planner:
        return Planner(self.local(), self.known, self.remote(), self)

    def note(self, path: str) -> None:
        self.known[path] = in_step(self.local()[path], self.remote()[path], 1)

    def pull(self, wanted: Wanted) -> Plan:
        plan = self.planner().pull(wanted)
        if plan.conflicts:
            return plan
        for step in plan.steps:
            self.write(step.path, self.there[step.path])
        self._learn(plan)
        return plan

    def push(self, wanted: Wanted) -> Plan:
        plan = self.planner().push(wanted)
        if plan.unpulled:
            return plan
        for step in plan.steps:
            self.publish(step.path, self.here[step.path])
        self._learn(plan)
        return plan

    def _learn(self, plan: Plan) -> None:
        for path in [*plan.in_step, *(s.path for s in plan.steps)]:
            self.note(path)
        for path in plan.kept:
            seen = self.remote()[path]
            self.known[path] = Known(-1, -1, -1, seen.version, seen.etag)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Any history: files in step at first, then changes on both sides."""
    model = Model()
    for path in PATHS:
        if draw(st.booleans()):
            content = draw(st.sampled_from(CONTENTS))
            model.write(path, content)
            model.publish(path, content)
            if draw(st.booleans()):
                model.note(path)
    for path, side in draw(
        st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(("here", "there"))), max_size=8)
    ):
        content = draw(st.none() | st.sampled_from(CONTENTS))
        if content is None:
            (model.here if side == "here" else model.there).pop(path, None)
        else:
            (model.write if side == "here" else model.publish)(path, content)
    return model


MODES = st.sampled_from(get_args(Mode))
MERGES = st.none() | st.sampled_from(get_args(MergeMode))
WANTED = st.builds(
    Wanted,
    mode=MODES,
    merge_mode=MERGES,
    nrecent=st.integers(-3, 3),
    files=st.none() | st.sets(st.sampled_from(PATHS), max_size=3),
)


def changed_here(model: Model, path: str) -> bool:
    """Bytes that only this folder has, as far as it knows."""
    if path not in model.here:
        return False
    known = model.known.get(path)
    if known is not None and known.etag == f"e{model.here[path]}":
        return False
    return model.there.get(path) != model.here[path]


@given(models(), WANTED)
def test_d6_15_a_pull_loses_no_change_of_ours_unless_told(model: Model, wanted: Wanted) -> None:
    before = dict(model.here)
    mine = {p for p in PATHS if changed_here(model, p)}
    both = {p for p in mine if p in model.there and p in model.known
            and model.known[p].etag != f"e{model.there[p]}"}  # fmt: skip
    plan = model.pull(wanted)
    lost = {p for p in mine if model.here.get(p) != before[p]}
    assert lost <= set(plan.lost)
    if not wanted.is_forced and wanted.merge_mode != "overwrite":
        assert not plan.lost
    if wanted.merge_mode is None:
        assert not both & lost
    if plan.conflicts:
        assert wanted.merge_mode is None
        assert model.here == before


@given(models(), WANTED)
def test_d6_18_what_is_planned_is_there_and_once(model: Model, wanted: Wanted) -> None:
    for plan in (model.planner().pull(wanted), model.planner().push(wanted)):
        paths = [s.path for s in plan.steps]
        assert paths == sorted(set(paths))
        assert not set(paths) & set(plan.conflicts + plan.kept + plan.gone)
        assert set(plan.missing) <= set(wanted.files or ())
    assert all(s.remote is not None for s in model.planner().pull(wanted).steps)
    assert all(s.local is not None for s in model.planner().push(wanted).steps)


@given(models(), MERGES)
def test_the_second_pull_and_the_second_push_have_nothing_to_do(
    model: Model, merge: MergeMode | None
) -> None:
    if model.pull(Wanted(merge_mode=merge)).conflicts:
        return
    again = model.planner().pull(Wanted())
    assert (again.steps, again.conflicts, again.kept) == ([], [], [])
    pushed = model.push(Wanted())
    assert not pushed.unpulled
    again = model.planner().push(Wanted())
    assert (again.steps, again.unpulled) == ([], [])
    assert not model.planner().pull(Wanted()).conflicts
    for path in PATHS:
        if path in model.here and path in model.there:
            assert model.here[path] == model.there[path]


@given(models())
def test_d6_10_new_and_changed_files_together_are_the_default(model: Model) -> None:
    def pulled(mode: Mode) -> set[str]:
        plan = model.planner().pull(Wanted(mode=mode, merge_mode="overwrite"))
        return {s.path for s in plan.steps}

    def pushed(mode: Mode) -> set[str]:
        return {s.path for s in model.planner().push(Wanted(mode=mode)).steps}

    for moved, other in ((pulled, model.here), (pushed, model.there)):
        assert moved("new") | moved("mod") == moved("default")
        assert not moved("new") & moved("mod")
        assert not moved("new") & set(other)
        assert moved("mod") <= set(other)
    assert pulled("all") == set(model.there)
    assert pushed("all") == set(model.here)


@given(models())
def test_d6_09_a_push_is_refused_while_something_was_not_pulled(model: Model) -> None:
    before, plan = dict(model.there), model.push(Wanted())
    new_there = {p for p in model.there if p not in model.here and p not in model.known}
    assert new_there <= set(plan.unpulled)
    if plan.unpulled:
        assert model.there == before
    forced = model.planner().push(Wanted(mode="all"))
    assert not forced.unpulled


@given(models(), st.sets(st.sampled_from(PATHS), min_size=1))
def test_d6_11_named_files_go_whatever_the_record_says(model: Model, names: set[str]) -> None:
    wanted = Wanted(files=names, merge_mode="overwrite")
    assert {s.path for s in model.planner().pull(wanted).steps} == names & set(model.there)
    plan = model.planner().push(wanted)
    assert {s.path for s in plan.steps} == names & set(model.here)
    assert set(plan.missing) == names - set(model.here)


@given(models(), st.integers(1, 3))
def test_d6_14_n_newest_and_n_oldest(model: Model, n: int) -> None:
    by_time = sorted(model.there, key=lambda p: model.there_times[p])
    for nrecent, wanted in ((n, by_time[-n:]), (-n, by_time[:n])):
        steps = model.planner().pull(Wanted("all", "overwrite", nrecent)).steps
        assert {s.path for s in steps} == set(wanted)
