"""What a run consists of, as data: drawn from a seed by `draw`, replayed, and shrunk by leaving things out."""

from __future__ import annotations

from random import Random

from attrs import evolve, field, frozen

from callboard.core.barrier_records import BarrierSettings
from callboard.core.native_leader_records import LeaderLimits
from callboard.core.slot_records import HandoffSettings
from callboard.core.versions import Policy
from harness.simulation.engine_records import EngineTimes
from harness.simulation.network import NetworkTimes
from harness.simulation.office import ProposalTimes

RATE_ERROR_PPM = 50_000
QUICK = HandoffSettings(
    lease_ms=600, drain_ms=100, margin_ms=50, tick_ms=50, rate_error_ppm=RATE_ERROR_PPM, failure_timeout_ms=700
)
CALM = HandoffSettings(
    lease_ms=900, drain_ms=150, margin_ms=50, tick_ms=100, rate_error_ppm=10_000, failure_timeout_ms=1100
)
WILD = HandoffSettings(
    lease_ms=450, drain_ms=60, margin_ms=30, tick_ms=40, rate_error_ppm=100_000, failure_timeout_ms=600
)
PATIENT = HandoffSettings(
    lease_ms=500, drain_ms=120, margin_ms=60, tick_ms=60, rate_error_ppm=RATE_ERROR_PPM, failure_timeout_ms=1500
)
"""Leases run out long before anybody is removed."""
BARRIER = BarrierSettings(
    round_timeout_ms=800, phase_ms_min=200, member_grace_ms=1200, retry_ms=100, batch_items_max=3, repeat_push_ms=2000
)


@frozen
class Fault:
    """Something that happens at `at_ms` (true time) for `for_ms`. `target` and `other` choose whom it concerns, among
    those that there are by then."""

    at_ms: int
    kind: str
    target: int = 0
    other: int = 0
    for_ms: int = 0


@frozen
class Scar:
    """What stays broken after the heal: `what` of `SCARS`."""

    what: str
    target: int = 0


@frozen
class NamespacePlan:
    """One namespace and who is in it at the start."""

    name: str
    policy: Policy
    kinds: tuple[str, ...]
    hosts: int
    settings: HandoffSettings = QUICK
    barrier: BarrierSettings = BARRIER


@frozen
class Plan:
    """Everything that is not drawn while the run goes on."""

    seed: int
    namespaces: tuple[NamespacePlan, ...]
    faults: tuple[Fault, ...]
    scars: tuple[Scar, ...] = ()
    replicas: int = 3
    duration_ms: int = 5000
    slot_bits: int = 4
    actors: int = 12
    callers: int = 2
    think_ms: tuple[int, int] = (20, 120)
    long_percent: int = 10
    """Of turns that take up to `long_ms`, other than a few milliseconds."""
    long_ms: int = 350
    stubborn_percent: int = 5
    """Of turns that do not end when they are cancelled; they are long."""
    read_every_ms: int = 0
    """How often an operator reads the membership; 0 for never but before changes."""
    silence_ms: int = 2000
    """Twice what a host waits before it repeats its hello, or it would never get the name of a connected member."""
    rate_error_ppm: int = RATE_ERROR_PPM
    """Of the clocks; beyond the settings' only in the control."""
    engine: EngineTimes = field(factory=EngineTimes)
    proposals: ProposalTimes = field(factory=ProposalTimes)
    network: NetworkTimes = field(factory=NetworkTimes)
    leader_limits: LeaderLimits = field(factory=LeaderLimits)

    @property
    def native_namespaces(self) -> tuple[NamespacePlan, ...]:
        """Those with slots."""
        return tuple(each for each in self.namespaces if each.policy is not Policy.BARRIER)

    @property
    def barrier_namespaces(self) -> tuple[NamespacePlan, ...]:
        """Those of sidecars."""
        return tuple(each for each in self.namespaces if each.policy is Policy.BARRIER)


TAME = BarrierSettings(
    round_timeout_ms=600, phase_ms_min=150, coalesce_ms=60, member_grace_ms=900, retry_ms=100, repeat_push_ms=2000
)
"""Changes are collected for a while after each round."""

KINDS: dict[str, tuple[int, int, int]] = {
    # name: weight, shortest and longest duration in ms
    "isolate_replica": (3, 200, 1500),
    "isolate_leader": (4, 200, 1500),
    "cut_peers": (4, 300, 3200),
    "halves": (3, 200, 1500),
    "bridge": (2, 200, 1500),
    "ring": (2, 300, 1500),
    "one_way": (4, 200, 1500),
    "deaf_leader": (3, 300, 1200),
    "cut_host": (5, 100, 1800),
    "one_replica": (2, 300, 1500),
    "unreachable_host": (2, 100, 800),
    "cut_store": (2, 100, 900),
    "slow_node": (3, 200, 1200),
    "slow_store": (2, 400, 1500),
    "slow_access": (5, 400, 2500),
    "damage_tables": (2, 500, 2500),
    "break_streams": (5, 0, 0),
    "break_all_streams": (2, 0, 0),
    "pause_host": (6, 50, 1800),
    "pause_replica": (2, 50, 1200),
    "pause_leader": (3, 50, 1200),
    "crash_host": (5, 0, 900),
    "restart_host_at_once": (3, 0, 1),
    "twin": (3, 0, 0),
    "replace_host": (3, 200, 1800),
    "crash_replica": (2, 50, 900),
    "crash_leader": (3, 50, 900),
    "power_replica": (4, 50, 900),
    "power_leader": (3, 50, 900),
    "power_all": (1, 50, 300),
    "slow_disk": (4, 300, 1800),
    "elect": (5, 300, 300),
    "join": (7, 0, 0),
    "leave": (5, 0, 0),
    "storm": (2, 0, 0),
    "mark": (6, 0, 0),
}
SIDECAR_KINDS: dict[str, tuple[int, int, int]] = {
    "sidecar_start": (4, 0, 0),
    "sidecar_stop": (3, 0, 0),
    "sidecar_types": (4, 0, 0),
    "sidecar_silent": (5, 600, 2600),
    "sidecar_slow": (4, 300, 1500),
    "sidecar_hang_up": (3, 0, 0),
    "sidecar_restart": (2, 0, 0),
    "repeat_round": (3, 0, 0),
}
SCARS = ("replica_dead", "replica_cut", "host_paused", "host_cut", "host_dead")


THEMES: dict[str, tuple[str, ...]] = {
    "anything": (),
    "leaders": (
        "isolate_leader", "cut_peers", "deaf_leader", "pause_leader", "crash_leader", "power_leader", "elect", "ring",
        "slow_disk",
    ),
    "hosts": ("cut_host", "one_replica", "pause_host", "crash_host", "twin", "replace_host", "slow_access", "mark"),
    "partitions": ("halves", "bridge", "one_way", "ring", "isolate_replica", "cut_host", "one_replica", "slow_node"),
    "members": ("join", "leave", "storm", "mark", "restart_host_at_once", "twin", "replace_host", "break_streams"),
    "disks": ("crash_replica", "power_replica", "power_leader", "power_all", "slow_disk", "elect"),
    "effects": ("slow_access", "slow_store", "cut_store", "cut_host", "pause_host", "replace_host", "join", "leave"),
    "sidecars": (*SIDECAR_KINDS, "elect"),
}  # fmt: skip
"""What a seed is about: these kinds are drawn more often there."""
SELDOM = ("effects", "sidecars")
"""Themes that are drawn twice as often, since what they are about is seldom otherwise."""


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    random = Random(f"plan {seed}")
    theme = random.choices(list(THEMES), [2 if theme in SELDOM else 1 for theme in THEMES])[0]
    settings = random.choices([QUICK, CALM, WILD, PATIENT], [4, 1, 3, 3])[0]
    namespaces = [NamespacePlan("shop", Policy.EXCLUSIVE, ("cart", "user"), random.choice([2, 3, 3, 4, 5]), settings)]
    leaders = theme == "leaders"
    duration_ms = random.choice([4000, 5000] if leaders else [3000, 4000, 5000])
    kinds = dict(KINDS)
    if random.random() < 0.35:
        isolation_ms = random.choice([0, 1200])
        eventual = evolve(settings, max_isolation_ms=isolation_ms)
        namespaces.append(NamespacePlan("mesh", Policy.EVENTUAL, ("feed",), random.choice([1, 2, 3]), eventual))
    if theme == "sidecars" or random.random() < 0.3:
        times = random.choice([BARRIER, TAME])
        namespaces.append(NamespacePlan("dapr", Policy.BARRIER, ("T1", "T2"), random.choice([2, 3, 4]), barrier=times))
        kinds |= SIDECAR_KINDS
    limits = LeaderLimits()
    if random.random() < 0.5:
        limits = LeaderLimits(
            batch_items_max=random.choice([2, 50]),
            grants_max=random.choice([2, 5000]),
            steps_kept=random.choice([1, 2, 64]),
        )
    kinds = _swarm(random, kinds, theme)
    faults = [_fault(random, kinds, duration_ms) for _ in range(random.randrange(6, 12))]
    if random.random() < 0.6:
        faults = _together(random, faults, duration_ms)
    faults += _lost_words(seed, duration_ms)
    effects = theme == "effects"
    moves = theme == "members"
    hot = random.random() < (0.7 if effects else 0.5 if moves else 0.15)
    return Plan(
        seed=seed,
        namespaces=tuple(namespaces),
        faults=tuple(sorted(faults, key=lambda fault: fault.at_ms)),
        scars=_scars(random),
        duration_ms=duration_ms,
        rate_error_ppm=settings.rate_error_ppm,
        engine=EngineTimes(
            check_quorum=random.random() < (0.3 if leaders else 0.6),
            answers_lost_percent=random.choice([0, 1, 3]),
            zombies_percent=random.choice([0, 30, 60]),
            compact_entries=random.choice([25, 60, 200]),
        ),
        proposals=ProposalTimes(attempt_ms=random.choice([150, 400]), attempts_max=random.choice([1, 2, 5])),
        network=NetworkTimes(keepalive_ms=random.choice([500, 1600])),
        leader_limits=limits,
        callers=5 if hot else random.choice([1, 2, 2, 3]),
        think_ms=(2, 30) if hot else (20, 120),
        actors=random.choice([2, 2, 4] if effects else [24] if moves else [2, 4, 8, 24]),
        slot_bits=random.choice([4, 4, 5]),
        long_percent=random.choice([40] if moves else [5, 10, 40]),
        long_ms=random.choice([1, 2, 2, 8]) * settings.drain_ms + 150,
        stubborn_percent=random.choice([5, 15, 30] if effects else [2, 5, 15]),
        read_every_ms=random.choice([0, 0, 150]),
    )


def _swarm(random: Random, kinds: dict[str, tuple[int, int, int]], theme: str) -> dict[str, tuple[int, int, int]]:
    """Which faults a seed has, and how often: half of all seeds leave half of them out, so that others come together
    (swarm testing), and the theme's own come more often."""
    left_out = set(random.sample(sorted(kinds), len(kinds) // 2)) if random.random() < 0.5 else set()
    found = {}
    for kind, (weight, shortest, longest) in kinds.items():
        if kind in THEMES[theme]:
            found[kind] = (4 * weight, shortest, longest)
        elif kind not in left_out:
            found[kind] = (weight, shortest, longest)
    return found


def _fault(random: Random, kinds: dict[str, tuple[int, int, int]], duration_ms: int) -> Fault:
    kind = random.choices(list(kinds), [weight for weight, _, _ in kinds.values()])[0]
    _, shortest, longest = kinds[kind]
    for_ms = random.randrange(shortest, longest) if longest > shortest else shortest
    at_ms = random.randrange(500, duration_ms - 200)
    return Fault(at_ms, kind, random.randrange(1000), random.randrange(1 << 16), min(for_ms, duration_ms - at_ms))


def _lost_words(seed: int, duration_ms: int) -> list[Fault]:
    """In every fourth seed, often towards the end, as what a leader does not know is forgotten with its office."""
    random = Random(f"lost words of {seed}")
    if random.random() >= 0.25:
        return []
    at_ms = random.randrange(duration_ms // 2, duration_ms - 200)
    return [Fault(at_ms, "lose_words", random.randrange(1000), for_ms=random.randrange(60, 300))]


def _together(random: Random, faults: list[Fault], duration_ms: int) -> list[Fault]:
    """The same faults, around a few moments: what is rare is what comes together."""
    moments = [random.randrange(700, duration_ms - 600) for _ in range(random.randrange(1, 4))]
    moved = []
    for fault in faults:
        at_ms = max(500, random.choice(moments) + random.randrange(-150, 500))
        moved.append(evolve(fault, at_ms=at_ms, for_ms=min(fault.for_ms, duration_ms - at_ms)))
    return moved


def _scars(random: Random) -> tuple[Scar, ...]:
    if random.random() < 0.6:
        return ()
    return (Scar(random.choice(SCARS), random.randrange(1000)),)
