"""Well-formed messages with arbitrary values, as from a member that lost its mind: refused or survived, never a crash.

A member can stop a replica (two leaders in one term, a log that contradicts what is committed): that is on purpose,
and the reason says so. What must not happen is an exception that nobody thought of.
"""

from __future__ import annotations

import random

import pytest

from callboard.consensus.interface import EngineFailed
from callboard.consensus.pysyncobj_engine import codec
from callboard.consensus.pysyncobj_engine.codec import BadMessage
from callboard.consensus.pysyncobj_engine.options import CoreSettings
from tests.consensus.core_group import CoreGroup

SMALL = CoreSettings(snapshot_entries=12, keep_entries=2, chunk_bytes=64, batch_bytes=600)


def number(generator: random.Random, around: int) -> int:
    """Mostly a number near `around`, sometimes a strange one."""
    if generator.random() < 0.15:
        return generator.choice([0, 1, 2, 2**31, 2**62, 10**9])
    return max(0, around + generator.randint(-4, 4))


def message(generator: random.Random, term: int, index: int) -> codec.Message:
    """Any message, with values near what the receiver knows."""
    some_term, some_index = number(generator, term), number(generator, index)
    sequence = generator.choice([0, 10, 10**6])
    kind = generator.randrange(9)
    if kind == 0:
        return codec.RequestVote(some_term, some_index, number(generator, term))
    if kind == 1:
        return codec.Vote(some_term)
    if kind == 2:
        return codec.RequestPreVote(some_term, some_index, number(generator, term))
    if kind == 3:
        return codec.PreVote(some_term, number(generator, term), granted=generator.random() < 0.5)
    if kind == 4:
        return codec.Acknowledge(
            sequence, some_term, some_index, reset=generator.random() < 0.3, success=generator.random() < 0.5
        )
    if kind == 5:
        data = generator.randbytes(generator.choice([0, 5, 200]))
        return codec.SnapshotChunk(
            sequence, some_term, some_index, number(generator, term), 0, last=generator.random() < 0.2, data=data
        )
    if kind == 6:
        return codec.RequestBarrier(number(generator, 5))
    if kind == 7:
        return codec.Barrier(number(generator, 1), some_index)
    entry_term = min(some_term, number(generator, term))
    entries = [(b"\x00hostile", some_index + 1 + step, entry_term) for step in range(generator.randrange(4))]
    previous_term = min(entry_term, number(generator, term))
    return codec.Append(sequence, some_term, number(generator, index), some_index, previous_term, entries)


@pytest.mark.parametrize("seed", range(60))
def test_arbitrary_messages_of_a_member_meet_no_unexpected_exception(seed: int) -> None:
    generator = random.Random(seed)
    group = CoreGroup(settings=SMALL)
    leader = group.leader()
    for step in range(30):
        group.propose(leader, b"%d" % step)
        group.step()
    victim = generator.choice(group.ids)
    liars = [name for name in group.ids if name != victim]
    core = group.cores[victim]
    failure = ""
    for _ in range(150):
        view = core.inspect()
        try:
            core.receive(generator.choice(liars), codec.encode(message(generator, view.term, view.log[-1][1])))
            group.now += 0.05
            core.tick()
        except BadMessage:
            continue
        except EngineFailed as error:
            failure = str(error)
            break
    assert "unexpected" not in failure
    group.machines[victim].assert_order()
