"""What all checkers say of a history. Which of them apply is decided by the workloads and the policy of the run."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import evolve

from harness.faults.bounds import duplicate_window_ms, stalled_ms
from harness.faults.checkers import (
    activations,
    availability,
    convergence,
    effects,
    failover,
    linearizability,
    models,
    replicas,
    rights,
    rounds,
    tables,
)
from harness.faults.checkers.verdict import CheckResult, Verdict
from harness.faults.figures import span_ns
from harness.faults.history import History, Note, Operation

SEARCH_LIMIT_S = 120.0
ACTORS = "actors"
SIDECARS = "sidecars"


def judge(history: History) -> list[CheckResult]:
    """All verdicts. A checker that applies and has nothing to look at says unknown."""
    return [*_of_all(history), *_of_actors(history), *_of_members(history), *_of_tables(history)]


def _of_all(history: History) -> Iterator[CheckResult]:
    yield replicas.check_replicas(history)
    yield replicas.check_logs(history)
    yield replicas.check_processes(history)
    if _workloads(history) & {"members", "lookups"}:
        yield replicas.check_positions(history)
    if "lookups" in _workloads(history):
        yield failover.check_failover(history)


def _of_actors(history: History) -> Iterator[CheckResult]:
    if ACTORS not in _workloads(history):
        return
    yield activations.check_turn_based(history)
    yield _acknowledged(history)
    for note in history.notes_of("settled"):
        yield activations.check_exactly_one(history, settled_ns=note.at_ns, actors=note.fields["actors"])
    if history.settings["policy"] == "exclusive":
        yield _search(history, "counter", models.Counter())
        yield _search(history, "list", models.AppendList())
        yield activations.check_single_activation(history)
        yield activations.check_stale_turns(history)
        yield effects.check_fences(history)
        yield rights.check_grants(history)
        yield rights.check_gate(history)
        yield rights.check_renewals(history)
        return
    for healed in history.notes_of("healed"):
        bound_ms = duplicate_window_ms(history.settings, ACTORS) + _stalled_after(history, healed)
        yield activations.check_duplicate_window(history, bound_ms=bound_ms, healed_ns=healed.at_ns)


def _of_members(history: History) -> Iterator[CheckResult]:
    if "members" in _workloads(history):
        yield _search(history, "member", models.MemberRegister())
        yield linearizability.check_by_index(_keys(history, "member"), models.MemberRegister())
        yield availability.check_availability(history)


def _of_tables(history: History) -> Iterator[CheckResult]:
    names = namespaces(history)
    for name in names:
        yield evolve(tables.check_tables(_of_namespace(history, name)), checker=f"tables_{name}")
    for healed in history.notes_of("healed"):
        for name in names:
            yield convergence.check_arrivals(history, name)
        if SIDECARS in _workloads(history):
            yield rounds.check_rounds(
                history,
                bound_ms=duplicate_window_ms(history.settings, SIDECARS) + _stalled_after(history, healed),
                healed_ns=healed.at_ns,
            )
    if SIDECARS in _workloads(history):
        yield replicas.check_wire(history)


def _workloads(history: History) -> set[str]:
    return set(history.settings.get("workloads", ()))


def _stalled_after(history: History, healed: Note) -> int:
    return stalled_ms(history, healed.at_ns, span_ns(history)[1])


def _keys(history: History, kind: str) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = {}
    for operation in history.operations:
        if operation.key.startswith(f"{kind}/"):
            found.setdefault(operation.key, []).append(operation)
    return found


def _search(history: History, kind: str, model: models.Model) -> CheckResult:
    checker = f"linearizability_{kind}"
    result = linearizability.check(_keys(history, kind), model, time_limit_s=SEARCH_LIMIT_S, checker=checker)
    if result.figures["operations"]:
        return result
    return CheckResult(checker, Verdict.UNKNOWN, ("there is no operation to order",), result.figures)


def _acknowledged(history: History) -> CheckResult:
    final = {note.fields["key"]: note.fields["value"] for note in history.notes_of("final")}
    appended = {key: found for key, found in history.by_key(["append"]).items() if key in final}
    return effects.check_acknowledged_once(appended, final)


def namespaces(history: History) -> list[str]:
    """Those in which anybody installed a table."""
    return sorted({note.fields["namespace"] for note in history.notes_of(tables.TABLE)})


def _of_namespace(history: History, name: str) -> History:
    def belongs(note: Note) -> bool:
        return note.kind not in {tables.TABLE, tables.COMMITTED} or note.fields["namespace"] == name

    return evolve(history, notes=tuple(filter(belongs, history.notes)))
