"""Traces of the code are behaviours of the specification, and changed traces and seeded bugs are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pytest

from harness.conformance import exclusive, native_source, sensitivity
from harness.conformance.check import Judgement, TraceSpec, diagnose, judge
from harness.conformance.gather import (
    RAFT_EVENTS,
    SUBJECTS,
    Gathered,
    exclusive_records,
    exclusive_simulations,
    exclusive_traces,
)
from harness.conformance.process_source import record_cluster
from harness.conformance.raft_source import trace_raft
from harness.conformance.reasons import DOCUMENT, EVERY_SOURCE, NEVER, UNSEEN, never, unseen, written
from harness.conformance.sensitivity import HOWS, Sensitivity, measure
from harness.conformance.specs import EXCLUSIVE, RAFT
from harness.conformance.trace_mutants import Tried
from harness.conformance.tracelines import Trace, TraceError, read_files
from harness.conformance.traces import SOURCES, actions_of, lines_taken, looks_of, run, zeros
from harness.modelcheck.tools import Tools, find_tools
from harness.raftsim.mutants import MUTANTS
from harness.seeded_bugs.handoff import BUGS
from tests.core.native_parts import NAMESPACE

RUNS = {
    "ExclusiveHandoff": 20,
    "Leases": 10,
    "Membership": 10,
    "EventualDissemination": 20,
    "BarrierDissemination": 30,
    "RaftMembership": 40,
}
MUTANTS_FOUND_QUICKLY = (
    "grant_ignores_pending",
    "buried_without_wait",
    "answer_not_stamped",
    "release_while_serving",
    "farewell_while_serving",
)
ENGINE_MUTANTS = (
    "answers_leave_before_the_sync",
    "followers_cut_first",
    "everything_counts_as_majority",
    "success_is_reported_early",
)
ROUND_MUTANTS = ("rounds_are_restarted", "push_of_an_old_version", "timeout_cuts_everyone", "push_during_a_round")


@pytest.mark.parametrize("name", SUBJECTS)
def test_traces_are_accepted_and_changed_ones_are_not(name: str) -> None:
    subject = SUBJECTS[name]
    result = run(name, subject.walks(range(RUNS[name]), 3), find_tools(), sensitivity=3)
    assert [trace.label for trace, _ in result.stuck] == []
    assert result.zero == [], "actions that no trace has"
    assert result.dull == [], "actions whose lines may be changed unnoticed"


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_action_is_taken_from_a_trace_or_excused(name: str) -> None:
    subject = SUBJECTS[name]
    assert set(actions_of(subject)) - set(lines_taken(subject)) <= never(name, "walks").keys()


@pytest.mark.parametrize("name", SUBJECTS)
def test_reasons_are_about_what_there_is(name: str) -> None:
    names = {*actions_of(SUBJECTS[name]), *looks_of(SUBJECTS[name])}
    for source in (EVERY_SOURCE, *SOURCES):
        assert never(name, source).keys() <= names
    assert {action for action, _ in unseen(name)} <= names - never(name, "walks").keys()
    assert {how for _, how in unseen(name)} <= set(HOWS)
    assert NEVER.get(name, {}).keys() <= {EVERY_SOURCE, *SOURCES}
    assert NEVER.keys() | UNSEEN.keys() <= SUBJECTS.keys()


def test_the_document_repeats_the_reasons() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text) == text, "python -m harness.conformance.reasons writes them"
    assert written(text.replace("an answer may get lost", "?")) == text


def test_each_action_has_to_show_in_each_way_or_has_a_reason_that_holds() -> None:
    found = Sensitivity()
    for how in HOWS:
        found.tried["Act", how], found.rejected["Act", how] = 5, 1
    found.tried["Bare", "removed"] = found.tried["Bare", "moved"] = 5
    found.rejected["Bare", "removed"] = found.rejected["Bare", "moved"] = 5
    assert found.problems({}) == [], "a line without fields cannot be altered"
    for how in HOWS:
        one = deepcopy(found)
        one.rejected["Act", how] = 0
        assert one.problems({}) == [f"Act {how} is not noticed"]
        assert one.problems({("Act", how): "it is so"}) == []
        assert found.problems({("Act", how): "it is so"}) == [f"Act {how} is noticed, so this is wrong: it is so"]
    found.tried["Bare", "moved"] = found.rejected["Bare", "moved"] = 0
    assert found.problems({}) == ["Bare moved is not noticed"]


def test_actions_at_zero_need_a_reason_that_holds() -> None:
    seen = {"Act": 3}
    assert zeros(["Act", "Other"], seen, {}) == ["no trace has Other"]
    assert zeros(["Act", "Other"], seen, {"Other": "why"}) == []
    assert zeros(["Act"], seen, {"Act": "why"}) == ["Act is seen, so this is wrong: why"]
    assert zeros(["Act", "Other"], seen, {"Act": "why"}, same_each_time=False) == ["no trace has Other"]


def test_what_a_trace_specification_does_not_look_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a specification that would take a `Crash` anywhere, and be blind to all but few removals of `Join`."""
    subject = SUBJECTS["EventualDissemination"]
    traces = subject.walks(range(9), 1).traces
    removals: list[str] = []

    def blind(_spec: TraceSpec, changed: Sequence[Trace], _tools: Tools) -> Judgement:
        removals.extend(each.label for each in changed if "(Join) removed" in each.label)
        taken = {at for at, each in enumerate(changed) if "(Crash) moved" in each.label}
        taken |= {at for at, each in enumerate(changed) if each.label in removals[:20]}
        return Judgement(taken, 0.0, 0)

    monkeypatch.setattr(sensitivity, "judge", blind)
    found = measure(subject.spec, traces, find_tools(), per_action=5, unseen={})
    assert found.problems({}) == ["Crash moved is not noticed"]
    assert len(removals) > 20, "rare ones are looked for again"
    assert found.tried["Crash", "moved"] > found.tried["Crash", "altered"] == 5


def test_seeded_bugs_give_rejected_traces() -> None:
    traces: list[Trace] = []
    whose: list[str] = []
    for bug in BUGS:
        if bug.name in MUTANTS_FOUND_QUICKLY:
            with pytest.MonkeyPatch.context() as patch:
                bug.prepare(patch)
                found = Gathered()
                for seed in range(10):
                    records, _ = native_source.record_walk(seed, 300 if bug.stalls else 120, stalls=bug.stalls)
                    exclusive_traces(records, NAMESPACE, f"{bug.name} {seed}", 3, found)
            traces += found.traces
            whose += [bug.name] * len(found.traces)
    judgement = judge(EXCLUSIVE, traces, find_tools())
    rejected = Counter(name for at, name in enumerate(whose) if at not in judgement.accepted)
    assert sorted(rejected) == sorted(MUTANTS_FOUND_QUICKLY)


def test_seeded_bugs_of_rounds_give_rejected_traces() -> None:
    tried = Tried()
    for name in ROUND_MUTANTS:
        tried.add(name, 20, 1)
    tried.judge(find_tools())
    assert [name for name in ROUND_MUTANTS if not tried.caught(name)] == []


def test_a_broken_engine_gives_rejected_traces() -> None:
    traces: list[Trace] = []
    whose: list[str] = []
    for name in ENGINE_MUTANTS:
        with pytest.MonkeyPatch.context() as patch:
            for where, what, instead in MUTANTS[name].patches():
                patch.setattr(where, what, instead)
            found = [trace_raft(seed, RAFT_EVENTS, broken=True) for seed in range(12)]
        traces += [trace for trace in found if trace.lines]
        whose += [name for trace in found if trace.lines]
    judgement = judge(RAFT, traces, find_tools())
    rejected = Counter(name for at, name in enumerate(whose) if at not in judgement.accepted)
    assert sorted(rejected) == sorted(ENGINE_MUTANTS)


def test_a_rejected_trace_is_explained() -> None:
    records, _ = native_source.record_walk(1, 120)
    kind, slot = exclusive.projections(records, NAMESPACE)[0]
    trace = exclusive.project(records, NAMESPACE, kind, slot, "walk 1")
    at = next(at for at, line in enumerate(trace.lines) if line["name"] == "LeaseStarts")
    shorter = Trace("without its lease", trace.lines[:at] + trace.lines[at + 1 :], trace.constants)
    stuck = diagnose(EXCLUSIVE, shorter, find_tools())
    assert stuck.line["name"] == "Accept"
    assert stuck.number > at
    assert "FALSE" in stuck.before["lease"]


@pytest.mark.process
def test_the_trace_of_a_real_cluster_is_accepted(tmp_path: Path) -> None:
    records = read_files(record_cluster(tmp_path, freezing=False))
    gathered = exclusive_records(records, "cluster", 16)
    assert len(gathered.traces) == 16
    result = run("ExclusiveHandoff", gathered, find_tools(), whole=False)
    assert [trace.label for trace, _ in result.stuck] == []
    for action in (
        "Upsert",
        "Remove",
        "Accept",
        "LetGo",
        "ApplyConfirm",
        "WaitRunsOut",
        "Bury",
        "TakeOffice",
        "Effect",
    ):
        assert result.seen[action], action


def test_files_that_are_no_traces_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with pytest.raises(TraceError, match="cannot read trace file"):
        read_files([path])
    path.write_text('{"event": "Crash"}\n')
    with pytest.raises(TraceError, match=r"trace\.jsonl:1: not a trace event: at_ns, process or event is missing"):
        read_files([path])
    path.write_text('{"at_ns": 1, "process": "host h1", "event": "Truncated"}\n')
    with pytest.raises(TraceError, match=r"trace\.jsonl:1: the file reached its bound here"):
        read_files([path])
    path.write_text("no\n")
    with pytest.raises(TraceError, match=r"trace\.jsonl:1: not a line of JSON"):
        read_files([path])


def test_traces_of_simulated_clusters_are_accepted() -> None:
    result = run("ExclusiveHandoff", exclusive_simulations(range(20), 3), find_tools(), whole=False)
    assert [trace.label for trace, _ in result.stuck] == []
    assert len(result.accepted) >= 20
