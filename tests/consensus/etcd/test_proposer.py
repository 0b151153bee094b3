"""No outcome is ever wrong: two leaders over a store that loses requests, answers, and delays what it was sent.

The store is a small model of etcd's transactions. `test_*_mutant_*` show that the check notices a broken proposer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from attrs import define, field

from callboard.consensus.etcd_engine import proposer as proposer_module
from callboard.consensus.etcd_engine.errors import EtcdRefused, EtcdUnreachable
from callboard.consensus.etcd_engine.layout import Head, Keys, LogEntry, decode, encode, end_of
from callboard.consensus.etcd_engine.proposer import Office, Proposer
from callboard.consensus.etcd_engine.snapshots import Fence
from callboard.consensus.interface import Applied, EngineLimits, NotApplied, OutcomeUnknown
from callboard.protos.generated import etcd_kv_pb2 as kv_messages
from callboard.protos.generated import etcd_rpc_pb2 as rpc

KEYS = Keys("/model")
SCHEDULES = 150


@define
class Store:
    """Keys with their revisions, and transactions over them."""

    revision: int = 1
    keys: dict[bytes, kv_messages.KeyValue] = field(factory=dict)

    def put(self, key: bytes, value: bytes) -> None:
        """Write a key in a revision of its own."""
        self.txn(rpc.TxnRequest(success=[rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))]))

    def delete(self, key: bytes) -> None:
        """Delete a key in a revision of its own."""
        self.revision += 1
        self.keys.pop(key, None)

    def holds(self, compare: rpc.Compare) -> bool:
        """Whether a comparison (for equality of a revision) is true."""
        found = self.keys.get(compare.key, kv_messages.KeyValue())
        if compare.target == rpc.Compare.CREATE:
            return found.create_revision == compare.create_revision
        return found.mod_revision == compare.mod_revision

    def txn(self, request: rpc.TxnRequest) -> rpc.TxnResponse:
        """Run a transaction."""
        succeeded = all(self.holds(compare) for compare in request.compare)
        steps = request.success if succeeded else request.failure
        if any(step.WhichOneof("request") == "request_put" for step in steps):
            self.revision += 1
        response = rpc.TxnResponse(succeeded=succeeded, header=rpc.ResponseHeader(revision=self.revision))
        for step in steps:
            answer = response.responses.add()
            if step.WhichOneof("request") == "request_range":
                found = self.keys.get(step.request_range.key)
                answer.response_range.CopyFrom(rpc.RangeResponse(kvs=[found] if found else []))
                continue
            put = step.request_put
            old = self.keys.get(put.key)
            self.keys[put.key] = kv_messages.KeyValue(
                key=put.key,
                value=put.value,
                create_revision=old.create_revision if old else self.revision,
                mod_revision=self.revision,
            )
        return response

    def log(self) -> list[bytes]:
        """All committed commands in order."""
        start, end = KEYS.log, end_of(KEYS.log)
        entries = [decode(LogEntry, key, kv.value) for key, kv in sorted(self.keys.items()) if start <= key < end]
        return [command for entry in entries for command in entry.commands]


class UnreliableClient:
    """What the proposer needs of `EtcdClient`, over a store and a network that misbehave at random."""

    def __init__(self, store: Store, chance: random.Random, alter: Callable[[rpc.TxnRequest], None]) -> None:
        self._store = store
        self._chance = chance
        self._alter = alter
        self.delayed: list[rpc.TxnRequest] = []
        self.calm = False

    async def txn(
        self,
        compare: Iterable[rpc.Compare],
        success: Iterable[rpc.RequestOp],
        failure: Iterable[rpc.RequestOp] = (),
        *,
        timeout_ms: int,
    ) -> rpc.TxnResponse:
        """Run it, or lose it, or lose the answer, or run it later."""
        request = rpc.TxnRequest(compare=compare, success=success, failure=failure)
        self._alter(request)
        await asyncio.sleep(0)
        fate = "answer" if self.calm else self._chance.choice(["answer", "answer", "lose", "mute", "delay", "refuse"])
        if fate == "refuse":
            raise EtcdRefused("not now")
        if fate == "lose":
            raise EtcdUnreachable("lost", may_have_run=True)
        if fate == "delay":
            self.delayed.append(request)
            raise EtcdUnreachable("late", may_have_run=True)
        answer = self._store.txn(request)
        await asyncio.sleep(0)
        if fate == "mute":
            raise EtcdUnreachable("answer lost", may_have_run=True)
        return answer

    def run_a_delayed_one(self) -> None:
        """An old request arrives at last."""
        if self.delayed:
            self._store.txn(self.delayed.pop(self._chance.randrange(len(self.delayed))))


class Leader:
    """A proposer with just enough around it: its entries are applied when it learns that they are committed."""

    def __init__(self, name: str, store: Store, chance: random.Random, alter: Callable[[rpc.TxnRequest], None]) -> None:
        self.key = KEYS.candidate(name)
        self.store = store
        self.client = UnreliableClient(store, chance, alter)
        client: Any = self.client
        self.proposer = Proposer(
            client, KEYS, EngineLimits(), batch_bytes=1000, deliver=self._deliver, leader=lambda: None
        )

    async def _deliver(self, entry: LogEntry) -> None:
        self.proposer.on_entry(entry, [None] * len(entry.commands))

    async def take_office(self) -> None:
        """As the engine does: when nothing is in doubt, and the head was read under the fence."""
        self.store.put(self.key, b"")
        await self.proposer.settled.wait()
        found = self.store.keys.get(self.key)
        if found is not None:
            head = self.store.keys[KEYS.head]
            fence = Fence(self.key, found.create_revision)
            self.proposer.open(Office(fence, decode(Head, KEYS.head, head.value), head.mod_revision))

    def depose(self) -> None:
        """Its candidacy is gone; it need not notice."""
        self.store.delete(self.key)


def unaltered(request: rpc.TxnRequest) -> None:
    """No mutant: leave the transaction as it is."""


async def calm_down(leaders: Sequence[Leader], chance: random.Random) -> None:
    """Stop one or the other, let the network work, wait until nothing is in doubt, deliver what is delayed."""
    for leader in leaders:
        if chance.random() < 0.3:
            leader.proposer.abandon("the engine stopped")
        leader.client.calm = True
    await asyncio.wait_for(asyncio.gather(*(leader.proposer.settled.wait() for leader in leaders)), 30)
    for leader in leaders:
        leader.proposer.close()
        while leader.client.delayed:
            leader.client.run_a_delayed_one()


async def run_schedule(
    seed: int, alter: Callable[[rpc.TxnRequest], None] = unaltered
) -> tuple[list[bytes], dict[bytes, Applied | Exception]]:
    """Two leaders take turns while clients propose. Returns the log and what the clients were told."""
    chance = random.Random(seed)
    store = Store()
    store.put(KEYS.head, encode(Head(index=0, token=b"")))
    leaders = [Leader(name, store, chance, alter) for name in ("a", "b")]
    runs = [asyncio.ensure_future(leader.proposer.run()) for leader in leaders]
    outcomes: dict[bytes, Applied | Exception] = {}

    async def propose(leader: Leader, command: bytes) -> None:
        try:
            outcomes[command] = await leader.proposer.propose(command, timeout_ms=chance.choice([5, 5000]))
        except (NotApplied, OutcomeUnknown) as error:
            outcomes[command] = error

    proposals = []
    in_office: Leader | None = None
    for step in range(25):
        if in_office is None or chance.random() < 0.25:
            if in_office is not None:
                in_office.depose()
                if chance.random() < 0.5:
                    in_office.proposer.close()
            in_office = chance.choice(leaders)
            offices = [asyncio.ensure_future(in_office.take_office())]
            await asyncio.wait(offices, timeout=0.005)
            for office in offices:
                office.cancel()
        for number in range(chance.randrange(3)):
            leader = chance.choice(leaders)
            proposals.append(asyncio.ensure_future(propose(leader, b"%d.%d" % (step, number))))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        chance.choice(leaders).client.run_a_delayed_one()
    await calm_down(leaders, chance)
    await asyncio.gather(*proposals)
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)
    return store.log(), outcomes


def check(log: Sequence[bytes], outcomes: dict[bytes, Applied | Exception]) -> None:
    """Applied means once, at the position told; surely not means never; unknown means at most once."""
    for command, end in outcomes.items():
        count = log.count(command)
        if isinstance(end, Applied):
            assert count == 1, f"{command!r} was acknowledged and is {count} times in the log"
            assert log[end.index - 1] == command, f"{command!r} is not at the position that was told"
        elif isinstance(end, NotApplied):
            assert count == 0, f"{command!r} was refused ({end}) and is in the log"
        else:
            assert count <= 1, f"{command!r} is {count} times in the log"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposer_module, "SEND_PAUSE_S", 0)


async def test_outcomes_are_true_in_random_schedules() -> None:
    kinds: set[type] = set()
    for seed in range(SCHEDULES):
        log, outcomes = await run_schedule(seed)
        check(log, outcomes)
        kinds |= {type(end) for end in outcomes.values()}
    assert Applied in kinds
    assert OutcomeUnknown in kinds
    assert any(issubclass(kind, NotApplied) for kind in kinds)


def forget_the_head(request: rpc.TxnRequest) -> None:
    """Mutant: the transaction does not compare the head."""
    kept = [compare for compare in request.compare if compare.key != KEYS.head]
    del request.compare[:]
    request.compare.extend(kept)


def forget_the_fence(request: rpc.TxnRequest) -> None:
    """Mutant: the transaction does not compare the candidacy."""
    kept = [compare for compare in request.compare if compare.key == KEYS.head]
    del request.compare[:]
    request.compare.extend(kept)


async def fails_within_schedules(alter: Callable[[rpc.TxnRequest], None]) -> bool:
    """Whether some schedule shows a wrong outcome."""
    for seed in range(SCHEDULES):
        try:
            check(*await run_schedule(seed, alter))
        except AssertionError:
            return True
    return False


async def test_a_mutant_without_the_head_is_caught() -> None:
    assert await fails_within_schedules(forget_the_head)


async def test_a_mutant_that_calls_doubt_a_refusal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hasty(self: Proposer, batch: Any) -> None:
        try:
            verdict = self._judge(batch, await self._send(batch))
        except (EtcdRefused, EtcdUnreachable) as error:
            batch.refuse(NotApplied(str(error)))
            return
        if verdict.committed:
            await self._deliver(batch.entry)
        else:
            batch.refuse(NotApplied("no"))
        self.close()

    monkeypatch.setattr(Proposer, "_settle", hasty)
    assert await fails_within_schedules(unaltered)


async def test_a_transaction_of_a_deposed_leader_changes_nothing() -> None:
    store = Store()
    store.put(KEYS.head, encode(Head(index=0, token=b"")))
    leader = Leader("a", store, random.Random(0), unaltered)
    leader.client.calm = True
    await leader.take_office()
    leader.depose()
    run = asyncio.ensure_future(leader.proposer.run())
    with pytest.raises(NotApplied):
        await leader.proposer.propose(b"late", timeout_ms=5000)
    assert store.log() == []
    assert not leader.proposer.is_open
    run.cancel()


async def test_a_mutant_without_the_fence_lets_a_deposed_leader_write() -> None:
    store = Store()
    store.put(KEYS.head, encode(Head(index=0, token=b"")))
    leader = Leader("a", store, random.Random(0), forget_the_fence)
    leader.client.calm = True
    await leader.take_office()
    leader.depose()
    run = asyncio.ensure_future(leader.proposer.run())
    await leader.proposer.propose(b"late", timeout_ms=5000)
    assert store.log() == [b"late"]
    run.cancel()
