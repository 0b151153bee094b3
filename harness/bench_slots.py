"""`python -m harness.bench_slots`: what one join and one leave cost, in bytes and processor time; beside full tables.

For namespaces of 10 to 1,000 hosts with 1 to 50 actor types the same change is made twice in this process, by the code
that servers and hosts run: as a version of slot tables (apply, delta, encoding; decoding, patch and digest on the side
of the host), and as tables of the barrier protocol (apply, encoding; decoding on the side of the sidecar). Every host
has every type.

Slot tables are measured as they are if all hosts always had all types ("shared": one table for all types), and if no
two types have equal tables because they came one after the other ("separate"). Times are the processor time of this
process, the median of several repetitions. Slots: the next power of two from 32 for each host on, at least the default.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from typing import TypeVar

import attrs
from attrs import define, frozen
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from callboard.core.commands import (
    Command,
    CommitBatch,
    CommitNativeBatch,
    CreateNamespace,
    CreateNativeNamespace,
    RaiseFeatureLevel,
    Removal,
    Request,
    TakeOffice,
)
from callboard.core.membership import KNOWN_FEATURE_LEVEL, apply
from callboard.core.records import HostRecord, ReplicatedState
from callboard.core.slot_records import (
    SLOT_BITS_DEFAULT,
    HandoffSettings,
    NativeHostRecord,
    NativeNamespace,
)
from callboard.core.table_delta import TableView, diff, patch, view_of
from callboard.core.versions import Policy
from callboard.protos import convert
from callboard.protos.generated import host_pb2, placement_pb2
from callboard.server.sidecar_tables import bare_order, update_order

NAMESPACE = "bench"
HOSTS = (10, 100, 1_000)
TYPES = (1, 10, 50)
SLOTS_PER_HOST = 32
REPLICATION_FACTOR = 100
REPEATED = 3

AIM_HOSTS, AIM_TYPES, AIM_BYTES = 1_000, 10, 2_000
"""At so many hosts and types a join sends each host less than so many bytes."""

SHARED = "shared"
SEPARATE = "separate"
FULL = "full"

Result = TypeVar("Result")


@frozen
class Change:
    """One join or one leave. `apply_ms`: each replica's; `leader_ms`: what the leader adds to it, once for all hosts;
    `host_ms`: each host's. `bytes_each`: sent to each host that is there. `moved`: slots of one type."""

    what: str
    hosts: int
    types: int
    tables: str
    slots: int
    moved: int
    bytes_each: int
    newcomer_bytes: int
    apply_ms: float
    leader_ms: float
    host_ms: float


@define
class Clock:
    """Repeats what it measures. Only for what has no effect but its result."""

    repeated: int

    def median_ms(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """Result and median processor time."""
        taken = []
        for _ in range(self.repeated):
            begun = time.process_time()
            result = work()
            taken.append((time.process_time() - begun) * 1000)
        return result, median(taken)


def applied(state: ReplicatedState, command: Command) -> ReplicatedState:
    """The state after a command. Raises RuntimeError if it is refused."""
    state, answer = apply(state, state.applied_index + 1, Request(command))
    if not answer.succeeded:
        raise RuntimeError(f"the benchmark's {type(command).__name__} was refused: {answer}")
    return state


def in_office() -> ReplicatedState:
    """A cluster without namespaces, at the newest feature level."""
    state = applied(ReplicatedState(), TakeOffice("bench", "0"))
    return applied(state, RaiseFeatureLevel(state.epoch, KNOWN_FEATURE_LEVEL))


def type_names(types: int) -> tuple[str, ...]:
    """As applications call them."""
    return tuple(f"ActorType{number:02}" for number in range(types))


# -- slot tables -----------------------------------------------------------------------------------------


def slot_bits(hosts: int) -> int:
    """Enough slots for one host more."""
    return max(SLOT_BITS_DEFAULT, (SLOTS_PER_HOST * (hosts + 1) - 1).bit_length())


def native_host(number: int, kinds: Sequence[str]) -> NativeHostRecord:
    """One host's word of itself."""
    return NativeHostRecord(f"host-{number}", f"10.1.{number // 250}.{number % 250 + 1}:7301", tuple(kinds), "process")


def native_batch(state: ReplicatedState, *hosts: NativeHostRecord, leaves: Sequence[int] = ()) -> CommitNativeBatch:
    """Joins, and leaves of hosts by their numbers."""
    members = state.native[NAMESPACE].members
    removals = tuple(Removal(f"host-{number}", members[f"host-{number}"].incarnation) for number in leaves)
    return CommitNativeBatch(state.epoch, NAMESPACE, hosts, removals)


def native_state(hosts: int, types: int, *, shared: bool) -> ReplicatedState:
    """A namespace in which every host has every type."""
    create = CreateNativeNamespace(NAMESPACE, Policy.EXCLUSIVE, slot_bits(hosts), HandoffSettings())
    state, kinds = applied(in_office(), create), type_names(types)
    if shared:
        return applied(state, native_batch(state, *(native_host(number, kinds) for number in range(hosts))))
    known: dict[int, list[str]] = {number: [] for number in range(hosts)}
    for position, kind in enumerate(kinds):
        # Each type begins at other hosts, and the others follow: no two tables are alike.
        first = sorted(Random(position).sample(range(hosts), hosts // 2))
        for batch in (first, [number for number in range(hosts) if number not in set(first)]):
            for number in batch:
                known[number].append(kind)
            records = (native_host(number, sorted(known[number])) for number in batch)
            state = applied(state, native_batch(state, *records))
    return state


def measure_native(state: ReplicatedState, what: str, command: Command, tables: str, clock: Clock) -> Change:
    """One change of a native namespace."""
    before = state.native[NAMESPACE]
    after_state, apply_ms = clock.median_ms(lambda: applied(state, command))
    after = after_state.native[NAMESPACE]
    earlier = view_of(before)

    def lead() -> tuple[TableView, bytes]:
        view = view_of(after)
        return view, encoded(convert.delta_message(diff(earlier, view)))

    (view, payload), leader_ms = clock.median_ms(lead)

    def follow() -> TableView:
        return patch(earlier, convert.delta_record(host_pb2.ServerMessage.FromString(payload).table))

    result, host_ms = clock.median_ms(follow)
    if result != view:
        raise RuntimeError(f"{what}: the host's table is not the leader's")
    snapshot = encoded(convert.delta_message(diff(None, view)))
    kind = next(iter(after.tables))
    moved = sum(old != new for old, new in zip(before.tables[kind].owners, after.tables[kind].owners, strict=True))
    return Change(
        what=what,
        hosts=len(before.members),
        types=len(after.tables),
        tables=tables,
        slots=after.slots,
        moved=moved,
        bytes_each=len(payload),
        newcomer_bytes=len(snapshot),
        apply_ms=apply_ms,
        leader_ms=leader_ms,
        host_ms=host_ms,
    )


def encoded(delta: host_pb2.TableDelta) -> bytes:
    """As it is sent."""
    return host_pb2.ServerMessage(table=delta).SerializeToString()


def native_changes(hosts: int, types: int, *, shared: bool, clock: Clock) -> list[Change]:
    """A join and a leave."""
    state, tables = native_state(hosts, types, shared=shared), SHARED if shared else SEPARATE
    check_distinct(state.native[NAMESPACE], shared=shared)
    join = native_batch(state, native_host(hosts, type_names(types)))
    leave = native_batch(state, leaves=[hosts // 2])
    return [measure_native(state, what, command, tables, clock) for what, command in (("join", join), ("leave", leave))]


def check_distinct(namespace: NativeNamespace, *, shared: bool) -> None:
    """That the namespace is what its name says. Raises RuntimeError."""
    distinct = len({id(table) for table in namespace.tables.values()})
    if distinct != (1 if shared else len(namespace.tables)):
        raise RuntimeError(f"{distinct} different tables of {len(namespace.tables)} types")


# -- full tables -----------------------------------------------------------------------------------------


def sidecar(number: int, kinds: Sequence[str]) -> HostRecord:
    """One sidecar's word of itself."""
    return HostRecord(
        name=f"10.1.{number // 250}.{number % 250 + 1}:50002", app_id=f"app-{number}", actor_types=tuple(kinds)
    )


def full_changes(hosts: int, types: int, clock: Clock) -> list[Change]:
    """A join and a leave by the barrier protocol: lock, update, unlock."""
    kinds = type_names(types)
    state = applied(in_office(), CreateNamespace(NAMESPACE, Policy.BARRIER))
    records = tuple(sidecar(number, kinds) for number in range(hosts))
    state = applied(state, CommitBatch(state.epoch, NAMESPACE, records, ()))
    leaver = state.namespaces[NAMESPACE].members[sidecar(hosts // 2, kinds).name]
    join = CommitBatch(state.epoch, NAMESPACE, (sidecar(hosts, kinds),), ())
    leave = CommitBatch(state.epoch, NAMESPACE, (), (Removal(leaver.name, leaver.incarnation),))
    changes = []
    for what, command in (("join", join), ("leave", leave)):
        after_state, apply_ms = clock.median_ms(lambda command=command: applied(state, command))  # type: ignore[misc]
        after = after_state.namespaces[NAMESPACE]
        version, members = after.version.wire, after.members
        payload, leader_ms = clock.median_ms(
            lambda version=version, members=members: update_order(version, members, REPLICATION_FACTOR)  # type: ignore[misc]
        )
        _, host_ms = clock.median_ms(lambda payload=payload: placement_pb2.PlacementOrder.FromString(payload))  # type: ignore[misc]
        orders = len(payload) + sum(len(bare_order(name, version)) for name in ("lock", "unlock"))
        changes.append(
            Change(what, hosts, types, FULL, 0, 0, orders, orders, apply_ms, leader_ms, host_ms),
        )
    return changes


# -- the whole -------------------------------------------------------------------------------------------


def measure(hosts: Sequence[int], types: Sequence[int], clock: Clock, progress: Progress) -> list[Change]:
    """Everything."""
    changes: list[Change] = []
    task = progress.add_task("changes of slot tables", total=len(hosts) * len(types))
    for host_count in hosts:
        for type_count in types:
            changes += native_changes(host_count, type_count, shared=True, clock=clock)
            if type_count > 1:
                changes += native_changes(host_count, type_count, shared=False, clock=clock)
            changes += full_changes(host_count, type_count, clock)
            progress.advance(task)
    return changes


def table_of(changes: Sequence[Change]) -> Table:
    """For people. What misses the aim is marked."""
    table = Table(
        title="one change: bytes, and ms of processor time",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
    )
    table.caption = (
        f"aim: at {AIM_HOSTS:,} hosts x {AIM_TYPES} types a join sends each host under {AIM_BYTES:,} B. tables: slot "
        "tables that all types share, or one for each; or full tables of the barrier protocol. moved: slots of each "
        "type. apply: on each replica, with the assignment. leader: once for all hosts. host: each host or sidecar."
    )
    table.caption_justify = "left"
    for heading in (
        "hosts",
        "types",
        "",
        "tables",
        "moved",
        "B to\neach",
        "B to a\nnewcomer",
        "apply",
        "leader",
        "host",
    ):
        table.add_column(heading, justify="left" if heading in {"", "tables"} else "right", no_wrap=True)
    before: tuple[int, int] | None = None
    for change in sorted(
        changes, key=lambda each: (each.hosts, each.types, each.what, each.tables != SHARED, each.tables == FULL)
    ):
        present = (change.hosts, change.types)
        row = [f"{change.hosts:,}", str(change.types)] if present != before else ["", ""]
        before = present
        missed = change.tables != FULL and change.what == "join" and present == (AIM_HOSTS, AIM_TYPES)
        style = "bold red" if missed and change.bytes_each >= AIM_BYTES else ""
        table.add_row(
            *row,
            change.what,
            change.tables,
            str(change.moved) if change.slots else "-",
            f"[{style}]{change.bytes_each:,}[/]" if style else f"{change.bytes_each:,}",
            f"{change.newcomer_bytes:,}" if change.what == "join" else "-",
            *(f"{value:,.1f}" for value in (change.apply_ms, change.leader_ms, change.host_ms)),
        )
    return table


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m harness.bench_slots", description="one join, one leave")
    parser.add_argument("--hosts", type=int, nargs="+", default=list(HOSTS), metavar="N")
    parser.add_argument("--types", type=int, nargs="+", default=list(TYPES), metavar="N")
    parser.add_argument("--repeated", type=int, default=REPEATED, help="of how many repetitions the median is taken")
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    for name, values, least in (
        ("--hosts", options.hosts, 2),
        ("--types", options.types, 1),
        ("--repeated", [options.repeated], 1),
    ):
        if min(values) < least:
            parser.error(f"{name}: {min(values)} is below {least}")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        changes = measure(options.hosts, options.types, Clock(options.repeated), progress)
    if options.output == "json":
        print(json.dumps([attrs.asdict(change) for change in changes], indent=2))
    else:
        Console().print(table_of(changes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
