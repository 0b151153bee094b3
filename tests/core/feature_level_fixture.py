"""Logs and snapshots of every feature level, kept as files that must replay to the same digest for ever.

python -m tests.core.feature_level_fixture 1     write the files of level 1 (only when a level is new!)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from callboard.core import commands, membership, snapshot
from callboard.core.commands import (
    BeginRestore,
    Command,
    CommitBatch,
    CreateNamespace,
    DeleteNamespace,
    OpenSession,
    RaiseFeatureLevel,
    RaiseGeneration,
    Removal,
    RepeatRound,
    Request,
    RequestId,
    TakeOffice,
)
from callboard.core.records import HostRecord, Policy, ReplicatedState

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
    assert sys.argv[1:] == ["1"], "name the level to write"
    write(1, entries_of_level_1())
