"""The seeded bugs that traces have to catch: the list is of bugs that there are, and one that gets away is an error."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from harness.conformance import trace_mutants
from harness.conformance.check import Judgement, TraceSpec
from harness.conformance.trace_mutants import CAUGHT, SLOTS, WALKS, safety_mutants
from harness.conformance.tracelines import Trace
from harness.modelcheck.tools import Tools

REQUIRED = sorted(CAUGHT)[:2]


def test_those_that_have_to_be_caught_exist() -> None:
    assert set(safety_mutants()) >= CAUGHT
    assert len(CAUGHT) >= 20


def run(monkeypatch: pytest.MonkeyPatch, *options: str, accepted: str = "") -> tuple[int, dict[str, object], str]:
    """The command without walks or TLC: of each bug one trace, and all are rejected but for that of `accepted`."""

    def add(self: trace_mutants.Tried, mutant: str, _walks: int, _slots: int) -> None:
        self.traces["Membership"].append(Trace(mutant, (), {}))
        self.whose["Membership"].append(mutant)

    def judge(_spec: TraceSpec, traces: list[Trace], _tools: Tools) -> Judgement:
        return Judgement({at for at, each in enumerate(traces) if each.label == accepted}, 0.0, 0)

    monkeypatch.setattr(trace_mutants.Tried, "add", add)
    monkeypatch.setattr(trace_mutants, "judge", judge)
    result = CliRunner().invoke(trace_mutants.trace_mutants, [*options, "-o", "json"])
    shown = CliRunner().invoke(trace_mutants.trace_mutants, options)
    assert shown.exit_code == result.exit_code
    found = json.loads(result.output)
    assert isinstance(found, dict)
    return result.exit_code, found, shown.output


def test_a_bug_that_is_not_caught_any_more_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    code, found, _ = run(monkeypatch)
    assert (code, found["caught"], found["lost"]) == (0, len(safety_mutants()), [])
    for lost in REQUIRED:
        code, found, shown = run(monkeypatch, accepted=lost)
        assert (code, found["lost"]) == (1, [lost])
        assert f"{lost} was caught before and is not" in shown


def test_only_those_that_are_looked_for_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = REQUIRED
    assert run(monkeypatch, "--only", one, accepted=other)[0] == 0
    assert run(monkeypatch, "--only", one, accepted=one)[0] == 1


def test_a_bug_that_need_not_be_caught_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    missed = next(name for name in safety_mutants() if name not in CAUGHT)
    assert run(monkeypatch, accepted=missed)[0] == 0
    assert f"{missed} is caught, too" in run(monkeypatch)[2]


def test_fewer_walks_or_slots_require_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for few in (("--walks", str(WALKS - 1)), ("--slots", str(SLOTS - 1))):
        code, found, shown = run(monkeypatch, *few, accepted=REQUIRED[0])
        assert (code, found["lost"], found["required"]) == (0, [REQUIRED[0]], False)
        assert "this is no failure" in shown
