"""Server, leaders and hosts of policy `exclusive` beside `spec.model.exclusive`, in a network that Hypothesis draws."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from callboard.core.native_leader_records import RenewalReceived
from spec.model.exclusive import EventuallyServed
from tests.core.native_checks import check_healed, check_rights
from tests.core.native_walk import STEPS, calm, crash, flow, leave, stall, start
from tests.model.exclusive_network import ShadowedNetwork
from tests.model.support import SideBySide, agree

SEEDS = st.integers(0, 1023)
OFTEN = [step for step, weight in STEPS.items() for _ in range(max(1, weight // 4))]


class ExclusiveMachine(SideBySide):
    """The steps of tests/core/native_walk.py, each with its own little seed."""

    network: ShadowedNetwork

    @initialize(seed=SEEDS, hosts=st.integers(1, 3))
    def begin(self, seed: int, hosts: int) -> None:
        self.random = Random(seed)
        self.network = ShadowedNetwork(self.random)
        for _ in range(hosts):
            start(self.network, self.random)
        calm(self.network, self.random)

    @rule(which=st.sampled_from(range(len(OFTEN))), seed=SEEDS)
    def step(self, which: int, seed: int) -> None:
        self.random.seed(seed)
        OFTEN[which](self.network, self.random)

    @rule(seed=SEEDS)
    def good_time(self, seed: int) -> None:
        self.random.seed(seed)
        calm(self.network, self.random)

    @rule(seed=SEEDS)
    def frozen(self, seed: int) -> None:
        """A host freezes right after it heard an old answer."""
        self.random.seed(seed)
        stall(self.network, self.random)

    @rule(seed=SEEDS, wait_ms=st.sampled_from([300, 620, 680]))
    def words_wait(self, seed: int, wait_ms: int) -> None:
        """Nothing arrives for so long that leases run out, but nobody is given up; then all that was said does."""
        self.random.seed(seed)
        flow(self.network, self.random)
        self.network.advance(wait_ms)
        calm(self.network, self.random)

    @rule(seed=SEEDS)
    def renewals_are_lost(self, seed: int) -> None:
        """A front loses what a host says for a while, and the host does not notice."""
        self.random.seed(seed)
        calm(self.network, self.random)
        path = self.random.choice(self.network.paths) if self.network.paths else None
        self.network.advance(2 * self.network.settings.tick_ms)
        if path is not None:
            kept = [each for each in path.up if not isinstance(each, RenewalReceived)]
            path.up.clear()
            path.up.extend(kept)
        calm(self.network, self.random)

    @rule(seed=SEEDS)
    def table_is_damaged(self, seed: int) -> None:
        """Somebody joins, and one of the tables that tell of it arrives with a part missing."""
        self.random.seed(seed)
        start(self.network, self.random)
        for _ in range(40):
            if self.network.damage_a_table():
                break
            flow(self.network, self.random)
            self.network.advance(15)

    @rule(seed=SEEDS, follows=st.booleans())
    def leader_goes_after_a_host(self, seed: int, follows: bool) -> None:
        """A host dies, is removed, and then the leader changes before the wait for its lease is over."""
        self.random.seed(seed)
        crash(self.network, self.random)
        tombstones = len(self.network.server.tombstones)
        for _ in range(6):
            self.network.advance(200, settle=True)
            if len(self.network.server.tombstones) > tombstones:
                break
        self.network.take_office(follows=follows)

    @rule(seed=SEEDS)
    def serve_and_leave(self, seed: int) -> None:
        """A host is stopped in good order while turns run in it."""
        self.random.seed(seed)
        for process in self.network.alive():
            for kind in process.kinds:
                for slot in range(4):
                    self.network.admit(process, kind, slot)
        leave(self.network, self.random)

    @invariant()
    def single_activation(self) -> None:
        """SingleActivation: of the machines, and of the models."""
        if hasattr(self, "network"):
            check_rights(self.network)
            agree("SingleActivation", self.network.single_activation(), True)
            server = self.network.server
            self.aim("owners pending", sum(len(slot.pending) for slot in server.slots.values()))
            self.aim("tombstones", len(server.tombstones))
            self.aim("versions that a host lags", self._lag())
            self.aim("grants", self.network.grants_seen)

    def _lag(self) -> int:
        newest = self.network.server.version
        return max((newest - process.version for process in self.network.alive() if process.version), default=0)

    def finish(self) -> None:
        """Convergence, EventuallyServed: by the checks of the network and by the models."""
        if hasattr(self, "network"):
            check_healed(self.network)
            shadows = [
                (self.network.shadow_of(process).host, process.clock.read(self.network.true_ms))
                for process in self.network.alive()
            ]
            agree("EventuallyServed", EventuallyServed(self.network.server, shadows), [])


TestExclusive = ExclusiveMachine.TestCase
TestExclusive.settings = settings(max_examples=max(1, settings().max_examples // 2), stateful_step_count=30)
