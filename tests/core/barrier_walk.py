"""Random walks over everything that may happen in a `BarrierNetwork`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.core.barrier_network import BarrierNetwork, Link, Sidecar, one_move

NAMES = ("a", "b", "c", "d", "e")
TYPE_SETS: tuple[tuple[str, ...], ...] = ((), ("T1",), ("T1", "T2"), ("T2",))

Step = Callable[[BarrierNetwork, Random, Sidecar], None]


def _some_link(network: BarrierNetwork, random: Random) -> Link | None:
    return random.choice(list(network.links.values())) if network.links else None


def _start(network: BarrierNetwork, random: Random, _: Sidecar) -> None:
    network.start_sidecar(random.choice(NAMES), random.choice(TYPE_SETS), heartbeats=random.random() < 0.4)


def _stop(network: BarrierNetwork, _: Random, sidecar: Sidecar) -> None:
    network.stop_sidecar(sidecar)


def _change_types(network: BarrierNetwork, random: Random, sidecar: Sidecar) -> None:
    network.change_types(sidecar, random.choice(TYPE_SETS))


def _fall_silent_or_wake(_: BarrierNetwork, random: Random, sidecar: Sidecar) -> None:
    sidecar.silent = random.random() < 0.25


def _hang_up(network: BarrierNetwork, random: Random, _: Sidecar) -> None:
    link = _some_link(network, random)
    if link is not None and not link.hung_up:
        network.hang_up(link)


def _reconnect(network: BarrierNetwork, _: Random, sidecar: Sidecar) -> None:
    if network.link_of(sidecar) is None:
        network.connect(sidecar)


def _heartbeat(network: BarrierNetwork, _: Random, sidecar: Sidecar) -> None:
    network.heartbeat(sidecar)


def _answer_batch(network: BarrierNetwork, random: Random, _: Sidecar) -> None:
    if network.batch is not None:
        network.answer_batch(random.choices(["committed", "failed", "refused"], [8, 1, 1])[0])


def _change_leader(network: BarrierNetwork, random: Random, _: Sidecar) -> None:
    network.take_office(batch_survives=random.random() < 0.5)


def _repeat_round(network: BarrierNetwork, _random: Random, _: Sidecar) -> None:
    network.repeat_round()


def _advance(network: BarrierNetwork, random: Random, _: Sidecar) -> None:
    network.advance(random.choice([10, 100, 500, 1000]))


def _flow(network: BarrierNetwork, random: Random, _: Sidecar) -> None:
    link = _some_link(network, random)
    if link is not None:
        network.flow(link)


def _move(network: BarrierNetwork, random: Random, _: Sidecar) -> None:
    link = _some_link(network, random)
    if link is not None:
        one_move(network, link, random.randrange(3))


STEPS: dict[Step, int] = {
    _start: 20,
    _stop: 2,
    _change_types: 20,
    _fall_silent_or_wake: 20,
    _hang_up: 20,
    _reconnect: 70,
    _heartbeat: 50,
    _answer_batch: 200,
    _change_leader: 3,
    _repeat_round: 3,
    _advance: 90,
    _flow: 150,
    _move: 450,
}


def walk(network: BarrierNetwork, random: Random, steps: int) -> None:
    """So many random steps, then the check of convergence. Raises PropertyViolation."""
    for _ in range(steps):
        step = _start if not network.sidecars else random.choices(list(STEPS), list(STEPS.values()))[0]
        sidecar = random.choice(network.sidecars) if network.sidecars else Sidecar("", (), heartbeats=False)
        step(network, random, sidecar)
    network.settle()
