"""Logs and snapshots of every feature level, kept as files that must replay to the same digest for ever.

python -m tests.core.feature_level_fixture LEVEL     write the files of a level (only when it is new!)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from callboard.core import commands, membership, snapshot
from callboard.core.commands import (
    BeginRestore,
    Bury,
    Command,
    CommitBatch,
    CommitNativeBatch,
    ConfirmClear,
    ConfirmEpoch,
    CreateNamespace,
    CreateNativeNamespace,
    DeleteNamespace,
    FenceSpan,
    OpenSession,
    OperatorRequest,
    RaiseFeatureLevel,
    RaiseFences,
    RaiseGeneration,
    Removal,
    RepeatRound,
    Request,
    RequestId,
    SlotSpan,
    TakeOffice,
)
from callboard.core.records import HostRecord, ReplicatedState
from callboard.core.slot_records import HandoffSettings, HostMark, NativeHostRecord
from callboard.core.versions import Policy

FOLDER = Path(__file__).parent / "feature_levels"


def entries_of_level_1() -> list[bytes]:
    """A log in which every command of level 1 stands, with repetitions, refusals and a stale epoch."""

    def host(number: int, *types: str) -> HostRecord:
        return HostRecord(f"10.0.0.{number}:50002", f"app-{number % 3}", types, port=number % 2, process="")

    requests: list[Command | Request] = [BeginRestore("backup", 3, 0, 5), BeginRestore("backup", 4, 0, 5)]
    requests += [BeginRestore("other", 9, 0, 1), OpenSession(), TakeOffice("r1", "n1"), OpenSession()]
    requests.append(CreateNamespace("default", Policy.BARRIER))
    first = Request(CommitBatch(2, "default", tuple(host(i, "Cart", "Lamp") for i in range(9))), RequestId(1, 1, 1))
    requests += [first, first, Request(RepeatRound(2, "default"), RequestId(1, 2, 2))]
    requests.append(
        Request(CommitBatch(2, "default", (host(3, "Lamp"),), (Removal("10.0.0.4:50002", 9),)), RequestId(1, 3, 3))
    )
    requests += [TakeOffice("r2", "n2"), CommitBatch(2, "default", (host(20, "Cart"),)), CommitBatch(3, "default", ())]
    requests += [CreateNamespace("über", Policy.BARRIER), CommitBatch(3, "über", (host(30, "Ampel"),))]
    requests += [DeleteNamespace("über"), CreateNamespace("gone", Policy.BARRIER), DeleteNamespace("gone")]
    requests += [CommitBatch(3, "nowhere"), RaiseFeatureLevel(3, 1), RaiseGeneration(7), RaiseGeneration(7)]
    requests.append(CommitBatch(3, "default", (host(40, "Cart"),)))
    wrapped = [item if isinstance(item, Request) else Request(item) for item in requests]
    return [commands.encode_request(request) for request in wrapped] + [b"no command"]


def entries_of_level_2() -> list[bytes]:
    """A log in which every command of level 2 stands, over both native policies, with refusals and late repetitions."""

    def host(number: int, *types: str, process: str = "p") -> NativeHostRecord:
        return NativeHostRecord(
            f"h{number}",
            f"10.0.0.{number}:7301",
            types,
            f"{process}{number}",
            (("zone", "ab"[number % 2]),),
            50 * number,
        )

    settings = HandoffSettings(lease_ms=3000, drain_ms=700, margin_ms=300, tick_ms=400, failure_timeout_ms=3100)
    exclusive = CreateNativeNamespace("carts", Policy.EXCLUSIVE, 5, settings)
    requests: list[Command] = [TakeOffice("r1", "n1"), exclusive, RaiseFeatureLevel(1, 2), exclusive, exclusive]
    requests += [CreateNativeNamespace("lamps", Policy.EVENTUAL, 4), CreateNamespace("lamps", Policy.BARRIER)]
    requests += [CommitNativeBatch(1, "carts", (host(1, "Cart"), host(2, "Cart", "Lamp")))]
    requests += [
        CommitNativeBatch(1, "carts", (host(3, "Cart", "Lamp"), host(1, "Cart", process="q")), reason="restart")
    ]
    requests += [CommitNativeBatch(1, "lamps", (host(4, "Lamp"), host(5, "Lamp"))), ConfirmEpoch(1), ConfirmEpoch(2)]
    requests += [ConfirmClear("carts", (SlotSpan("Cart", 0, 32, 2), SlotSpan("Lamp", 30, 2, 2))), Bury("carts", (1,))]
    requests += [RaiseFences("carts", (FenceSpan("Cart", 0, 32, 1, 1),)), RaiseFences("lamps", ())]
    requests += [CommitNativeBatch(1, "carts", marks=(HostMark("h2", draining=True), HostMark("h3", weight=10)))]
    requests += [CommitNativeBatch(1, "carts", removals=(Removal("h3", 3),), reason="failure timeout")]
    requests += [
        TakeOffice("r2", "n2"),
        CommitNativeBatch(1, "carts"),
        CommitNativeBatch(2, "carts", (host(6, "Cart"),)),
    ]
    requests += [CommitNativeBatch(2, "lamps", removals=(Removal("h4", 5), Removal("h5", 6))), DeleteNamespace("lamps")]
    requests += [RaiseGeneration(4), CreateNativeNamespace("lamps", Policy.EXCLUSIVE, 4)]
    requests += [CommitNativeBatch(2, "lamps", (host(7, "Lamp"),)), CommitNativeBatch(2, "nowhere")]
    return [commands.encode_request(Request(command)) for command in requests]


def entries_of_level_3() -> list[bytes]:
    """A log in which stores and operators' requests count from level 3 on: before it they are not kept."""

    def host(number: int, store_id: str = "", process: str = "p") -> NativeHostRecord:
        return NativeHostRecord(
            f"h{number}", f"10.0.0.{number}:7301", ("Cart",), f"{process}{number}", store_id=store_id
        )

    def asked(request_id: str, command: Command, *, digest: bytes = b"sixteen bytes ..") -> Request:
        return Request(command, operator=OperatorRequest(request_id, digest))

    requests: list[Command | Request] = [TakeOffice("r1", "n1"), RaiseFeatureLevel(1, 2)]
    requests += [asked("early", CreateNamespace("sidecars", Policy.BARRIER))]
    requests += [
        CreateNativeNamespace("carts", Policy.EXCLUSIVE, 4),
        CreateNativeNamespace("lamps", Policy.EVENTUAL, 4),
    ]
    requests += [CommitNativeBatch(1, "carts", (host(1, "file-1"), host(2, "file-2"))), RaiseFeatureLevel(1, 3)]
    requests += [
        CommitNativeBatch(1, "carts", (host(1, "file-1"),)),
        CommitNativeBatch(1, "carts", (host(2, "file-2"),)),
    ]
    requests += [CommitNativeBatch(1, "carts", (host(3, "file-1"), host(4))), TakeOffice("r2", "n2")]
    requests += [
        CommitNativeBatch(2, "carts", (host(5, "file-2"),)),
        CommitNativeBatch(2, "carts", (host(6, "x" * 256),)),
    ]
    requests += [CommitNativeBatch(2, "carts", (host(5, "file-2"),), (Removal("h1", 1), Removal("h3", 3)))]
    requests += [CommitNativeBatch(2, "carts", (host(5, "file-3", process="q"),))]
    requests += [CommitNativeBatch(2, "lamps", (host(7, "file-1"), host(8, "file-2")))]
    removal = asked("one", CommitNativeBatch(2, "lamps", removals=(Removal("h7", 7),)))
    create = CreateNamespace("sidecars", Policy.BARRIER)
    requests += [removal, removal, asked("one", create, digest=b"another request."), asked("two", create)]
    requests += [TakeOffice("r1", "n3"), removal, asked("two", create), asked("three", create), asked("", create)]
    requests += [asked("two", create, digest=b"short"), asked("four", DeleteNamespace("nowhere"))]
    wrapped = [item if isinstance(item, Request) else Request(item) for item in requests]
    return [commands.encode_request(request) for request in wrapped]


ENTRIES = {1: entries_of_level_1, 2: entries_of_level_2, 3: entries_of_level_3}


def replay(entries: list[bytes]) -> tuple[ReplicatedState, list[str]]:
    """The state after all entries, and the code of each answer."""
    state, codes = ReplicatedState(), []
    for index, entry in enumerate(entries, start=1):
        try:
            request = commands.decode_request(entry)
        except commands.MalformedCommandError:
            state, code = state.at(index), "malformed"
        else:
            state, answer = membership.apply(state, index, request)
            code = f"{answer.code.value} {answer.number}"
        codes.append(code)
    return state, codes


def write(level: int, entries: list[bytes]) -> None:
    """Write log, snapshot and expected answers of one level."""
    state, codes = replay(entries)
    (FOLDER / f"level_{level}.log").write_text("".join(entry.hex() + "\n" for entry in entries))
    (FOLDER / f"level_{level}.snapshot").write_bytes(snapshot.encode_state(state))
    expected = {"digest": snapshot.digest(state), "answers": codes}
    (FOLDER / f"level_{level}.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    write(int(sys.argv[1]), ENTRIES[int(sys.argv[1])]())
