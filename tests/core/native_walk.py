"""Random walks over everything that may happen in a `NativeNetwork`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from callboard.core.native_host_records import LeaveRequested
from callboard.core.versions import Policy
from tests.core.native_checks import check_healed, check_rights
from tests.core.native_network import NativeNetwork
from tests.core.native_parts import KINDS, NAMES, SLOT_BITS, Path, Process

KIND_SETS: tuple[tuple[str, ...], ...] = (("cart",), ("cart", "user"), ("cart", "user"))
Step = Callable[[NativeNetwork, Random], None]


def _process(network: NativeNetwork, random: Random) -> Process | None:
    alive = network.alive()
    return random.choice(alive) if alive else None


def _path(network: NativeNetwork, random: Random) -> Path | None:
    return random.choice(network.paths) if network.paths else None


def start(network: NativeNetwork, random: Random) -> None:
    """At most four processes; names may be taken."""
    if len(network.alive()) < 4:
        taken = {process.name for process in network.alive()}
        free = [name for name in NAMES if name not in taken]
        name = random.choice(free) if free and random.random() < 0.9 else random.choice(NAMES)
        for process in network.alive():
            if process.name == name:
                network.crash(process)
        network.start(name, random.choice(KIND_SETS))


def crash(network: NativeNetwork, random: Random) -> None:
    process = _process(network, random)
    if process is not None and len(network.alive()) > 1:
        network.crash(process)


def leave(network: NativeNetwork, random: Random) -> None:
    process = _process(network, random)
    if process is not None and not process.paused and len(network.alive()) > 1:
        network._host(process, LeaveRequested("stop"))


def pause(network: NativeNetwork, random: Random) -> None:
    process = _process(network, random)
    if process is not None:
        process.paused = not process.paused


def reconnect(network: NativeNetwork, random: Random) -> None:
    process = _process(network, random)
    if process is not None:
        network.connect(process)


def break_path(network: NativeNetwork, random: Random) -> None:
    path = _path(network, random)
    if path is not None:
        network.break_path(path)


def lose(network: NativeNetwork, random: Random) -> None:
    path = _path(network, random)
    if path is not None:
        if random.random() < 0.5:
            if path.up and path.up[0] is not None:
                path.up.popleft()
        elif path.down and path.down[0] is not None:
            path.down.popleft()


def stall(network: NativeNetwork, random: Random) -> None:
    """A host hears an old answer late, says nothing that is heard, and freezes; the others go on."""
    ready = [path for path in network.paths if path.down and not path.process.paused]
    if not ready:
        return
    path = random.choice(ready)
    network.advance(random.choice([100, 200, 400]))
    while path.up and path.up[0] is not None:
        path.up.popleft()
    while path.down:
        network.deliver_down(path)
    path.process.paused = True
    for _ in range(4):
        calm(network, random)


def corrupt(network: NativeNetwork, random: Random) -> None:
    path = _path(network, random)
    if path is not None:
        network.corrupt_down(path)


def up(network: NativeNetwork, random: Random) -> None:
    ready = [path for path in network.paths if path.up]
    if ready:
        network.deliver_up(random.choice(ready))


def down(network: NativeNetwork, random: Random) -> None:
    ready = [path for path in network.paths if path.down and not path.process.paused]
    if ready:
        network.deliver_down(random.choice(ready))


def commit(network: NativeNetwork, random: Random) -> None:
    if network.entries:
        network.commit(random.choice(network.entries), lost=random.random() < 0.05)


def hear_log(network: NativeNetwork, random: Random) -> None:
    ready = [office for office in network.offices if office.inbox]
    if ready:
        network.hear_log(random.choice(ready))


def flow(network: NativeNetwork, random: Random) -> None:
    """Much flows for a while, so that something is served at all."""
    for _ in range(random.choice([5, 20, 60])):
        random.choice([up, up, down, down, commit, hear_log, hear_log])(network, random)


def calm(network: NativeNetwork, random: Random) -> None:
    """A good time for all but the paused."""
    for _ in range(random.choice([4, 10, 20])):
        for _ in range(12):
            random.choice([up, up, down, down, commit, commit, hear_log, hear_log])(network, random)
        drain(network, random)
        network.advance(15)


def drain(network: NativeNetwork, random: Random) -> None:
    for process in network.alive():
        network.drain(process)


def admit(network: NativeNetwork, random: Random) -> None:
    for _ in range(4):
        process = _process(network, random)
        if process is not None and len(process.turns) < 20:
            stubborn = random.random() < 0.1
            network.admit(process, random.choice(KINDS), random.randrange(1 << SLOT_BITS), stubborn=stubborn)


def effect(network: NativeNetwork, random: Random) -> None:
    for process in network.alive():
        for turn in process.turns:
            network.effect(process, turn)


def end_turn(network: NativeNetwork, random: Random) -> None:
    process = _process(network, random)
    if process is not None and process.turns:
        process.turns.remove(random.choice(process.turns))


def take_office(network: NativeNetwork, random: Random) -> None:
    network.take_office(follows=random.random() < 0.5)


def advance(network: NativeNetwork, random: Random) -> None:
    network.advance(random.choice([1, 10, 50, 200, 400]))


STEPS: dict[Step, int] = {
    start: 6,
    crash: 1,
    leave: 2,
    pause: 4,
    reconnect: 4,
    break_path: 2,
    lose: 6,
    corrupt: 4,
    up: 8,
    down: 8,
    commit: 8,
    hear_log: 8,
    flow: 20,
    calm: 24,
    drain: 6,
    admit: 20,
    effect: 20,
    end_turn: 8,
    take_office: 3,
    advance: 20,
}


def walk(
    seed: int,
    steps: int,
    *,
    heal: bool = True,
    network: NativeNetwork | None = None,
    stalls: int = 0,
    policy: Policy = Policy.EXCLUSIVE,
) -> NativeNetwork:
    """So many steps, checked after each, then healing. `stalls`: weight of `stall`, which takes long. `policy`: of the
    network that is made if none is given."""
    random = Random(seed)
    if network is None:
        network = NativeNetwork(random, policy)
    chosen, weights = [*STEPS, stall], [*STEPS.values(), stalls]
    start(network, random)
    for step in random.choices(chosen, weights, k=steps):
        step(network, random)
        check_rights(network)
    if heal:
        check_healed(network)
    return network
