"""Traces of the code are behaviours of the specification, and changed traces and seeded bugs are not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from harness.conformance import exclusive, native_source
from harness.conformance.check import diagnose, judge
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
from harness.conformance.specs import EXCLUSIVE, RAFT
from harness.conformance.trace_mutants import Tried
from harness.conformance.tracelines import Trace, TraceError, read_files
from harness.conformance.traces import actions_of, lines_taken, run
from harness.modelcheck.tools import find_tools
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
    assert [
        each for each in actions_of(subject) if each not in lines_taken(subject) and each not in subject.never
    ] == []


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
