"""What the checkers say of a history: the suite of all checkers, if there is one, else those that can be called as they
are."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from attrs import evolve

from harness.faults.checkers import activations, effects, linearizability, models, tables
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.history import History, Note, Operation

SEARCH_LIMIT_S = 120.0


def judge(history: History) -> list[CheckResult]:
    """All verdicts."""
    if find_spec("harness.faults.checkers.suite") is None:
        return _basic(history)
    suite = import_module("harness.faults.checkers.suite")
    return list(suite.check(history))


def _basic(history: History) -> list[CheckResult]:
    results = [
        activations.check_turn_based(history),
        linearizability.check(_keys(history, "member/"), models.MemberRegister(), time_limit_s=SEARCH_LIMIT_S),
        _acknowledged(history),
        *(tables.check_tables(_of_namespace(history, name)) for name in _namespaces(history)),
    ]
    if history.settings["policy"] == "exclusive":
        results += [
            linearizability.check(_keys(history, "counter/"), models.Counter(), time_limit_s=SEARCH_LIMIT_S),
            linearizability.check(_keys(history, "list/"), models.AppendList(), time_limit_s=SEARCH_LIMIT_S),
            activations.check_single_activation(history),
            activations.check_stale_turns(history),
            effects.check_fences(history),
        ]
    return [result for result in results if any(result.figures.values()) or result.verdict is Verdict.INVALID]


def _keys(history: History, prefix: str) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in history.operations:
        if operation.key.startswith(prefix):
            found.setdefault(operation.key, []).append(operation)
    return found


def _acknowledged(history: History) -> CheckResult:
    final = {note.fields["key"]: note.fields["value"] for note in history.notes_of("final")}
    appended = {key: found for key, found in history.by_key(["append"]).items() if key in final}
    return effects.check_acknowledged_once(appended, final)


def _namespaces(history: History) -> list[str]:
    return sorted({note.fields["namespace"] for note in history.notes_of(tables.TABLE)})


def _of_namespace(history: History, name: str) -> History:
    def belongs(note: Note) -> bool:
        return note.kind not in {tables.TABLE, tables.COMMITTED} or note.fields["namespace"] == name

    return evolve(history, notes=tuple(filter(belongs, history.notes)))
