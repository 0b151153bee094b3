"""What a replica does while it leads: one epoch, one proposer, one runner per namespace.

All soft state of leadership (streams, rounds, acknowledgements) lives in one `Office` and is dropped with it, also
when the same replica is elected again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog

from callboard.consensus.interface import Engine, NotApplied
from callboard.core.commands import (
    Command,
    CreateNamespace,
    CreateNativeNamespace,
    OperatorRequest,
    RaiseFeatureLevel,
    RaiseGeneration,
    TakeOffice,
)
from callboard.core.membership import KNOWN_FEATURE_LEVEL
from callboard.core.native_leader_records import LeaderLimits
from callboard.core.records import Answer, AnswerCode, Namespace, ReplicatedState
from callboard.core.slot_records import NativeNamespace
from callboard.core.versions import Policy
from callboard.server.byte_window import ByteWindow
from callboard.server.machine import ReplicatedMachine
from callboard.server.metrics import Metrics
from callboard.server.namespace_runner import NamespaceRunner
from callboard.server.native_runner import NativeRunner
from callboard.server.proposer import Proposer
from callboard.server.rounds import Rounds
from callboard.server.settings import ServerSettings

log = structlog.get_logger(__name__)


class NamespaceRefusedError(Exception):
    """A namespace cannot be used by sidecars; the message says why."""


class Office:
    """One term of office. Made by `take`; `close` ends it for good."""

    def __init__(
        self,
        *,
        engine: Engine,
        machine: ReplicatedMachine,
        proposer: Proposer,
        metrics: Metrics,
        settings: ServerSettings,
        epoch: int,
        on_deposed: Callable[[str], None],
    ) -> None:
        self.engine = engine
        self.epoch = epoch
        self.closed = False
        self.window = ByteWindow(settings.sidecars.window_bytes)
        self.runners: dict[str, NamespaceRunner] = {}
        self.native_runners: dict[str, NativeRunner] = {}
        self.rounds = Rounds(proposer, epoch, on_deposed)
        self._machine = machine
        self._proposer = proposer
        self._metrics = metrics
        self._settings = settings
        self._on_deposed = on_deposed

    @classmethod
    async def take(
        cls,
        engine: Engine,
        machine: ReplicatedMachine,
        metrics: Metrics,
        settings: ServerSettings,
        on_deposed: Callable[[str], None],
    ) -> Office:
        """Start a new epoch and serve the namespaces of the replicated state. Raises ProposalError."""
        proposer = Proposer(engine, observe_latency_s=metrics.commit_seconds.observe)
        nonce = secrets.token_hex(8)
        answer = await proposer.unprotected(TakeOffice(engine.replica_id, nonce))
        if not answer.succeeded:
            raise NotApplied(f"taking office was refused: {answer.detail}")
        await proposer.open()
        if not engine.status().durable and machine.state.generation == 0:
            # Nothing of an earlier run of this engine is known: its versions must lie below ours all the same. Our
            # second is over before anybody sees its number, so that a run that starts after this one has another.
            generation = int(time.time())
            await asyncio.sleep(max(0.0, generation + 1 - time.time()))
            await proposer.propose(RaiseGeneration(generation))
        is_new = answer.number == 1 and answer.code is AnswerCode.OK
        level = settings.feature_level or (KNOWN_FEATURE_LEVEL if is_new else 0)
        if level > machine.state.feature_level:
            await proposer.propose(RaiseFeatureLevel(answer.number, level))
            log.info("raised the feature level", feature_level=level)
        office = cls(
            engine=engine,
            machine=machine,
            proposer=proposer,
            metrics=metrics,
            settings=settings,
            epoch=answer.number,
            on_deposed=on_deposed,
        )
        for name, namespace in machine.state.namespaces.items():
            if namespace.policy is Policy.BARRIER:
                office._add_runner(name, namespace)
        for name, native in machine.state.native.items():
            office._add_native_runner(name, native)
        log.info("took office", epoch=office.epoch, namespaces=len(office.runners) + len(office.native_runners))
        return office

    async def propose(self, command: Command) -> Answer:
        """Put a command into the log on behalf of an operator. Raises ProposalError."""
        return await self._proposer.propose(command)

    async def propose_at(self, command: Command, operator: OperatorRequest | None = None) -> tuple[Answer, int]:
        """As `propose`, with the command's log position; 0 if it is not known. Raises ProposalError."""
        return await self._proposer.propose_at(command, operator)

    async def runner(self, name: str) -> NamespaceRunner:
        """The runner of a namespace for sidecars, which is created if it does not exist yet.

        Raises:
            NamespaceRefusedError: another policy, a limit, or an invalid name.
            ProposalError: creating it was not acknowledged.
        """
        existing = self.runners.get(name)
        if existing is not None:
            return existing
        if name not in self._machine.state.namespaces:
            answer = await self._proposer.propose(CreateNamespace(name, Policy.BARRIER))
            if not answer.succeeded:
                raise NamespaceRefusedError(answer.detail)
        namespace = self._machine.state.namespaces.get(name)
        if namespace is None:
            raise NamespaceRefusedError(f"namespace {name} was deleted")
        if namespace.policy is not Policy.BARRIER:
            raise NamespaceRefusedError(
                f"namespace {name} has policy {namespace.policy.value}; sidecars need policy {Policy.BARRIER.value}"
            )
        return self.runners.get(name) or self._add_runner(name, namespace)

    def _add_runner(self, name: str, namespace: Namespace) -> NamespaceRunner:
        runner = NamespaceRunner(
            name=name,
            namespace=namespace,
            epoch=self.epoch,
            proposer=self._proposer,
            current=lambda: self._machine.state.namespaces[name],
            command_bytes=self.engine.limits.command_bytes,
            metrics=self._metrics,
            settings=self._settings.sidecars,
            on_deposed=self._on_deposed,
            trace=self._machine.trace,
        )
        self.runners[name] = runner
        return runner

    async def native_runner(self, name: str) -> NativeRunner:
        """The runner of a namespace for native hosts, which is created with the configured policy if it does not exist.

        Raises:
            NamespaceRefusedError: a namespace of sidecars, a limit, an invalid name, or too low a feature level.
            ProposalError: creating it was not acknowledged.
        """
        existing = self.native_runners.get(name)
        if existing is not None:
            return existing
        state, native = self._machine.state, self._settings.native
        if name in state.namespaces:
            raise NamespaceRefusedError(f"namespace {name} has policy {Policy.BARRIER.value}; it is for sidecars")
        if name not in state.native:
            command = CreateNativeNamespace(name, native.policy, native.slot_bits, native.handoff)
            answer = await self._proposer.propose(command)
            if not answer.succeeded:
                raise NamespaceRefusedError(answer.detail)
        created = self.native_runners.get(name)  # by `notice`
        if created is None:
            raise NamespaceRefusedError(f"namespace {name} was deleted")
        return created

    def _add_native_runner(self, name: str, namespace: NativeNamespace) -> None:
        self.native_runners[name] = NativeRunner(
            name=name,
            namespace=namespace,
            epoch=self.epoch,
            replica_id=self.engine.replica_id,
            proposer=self._proposer,
            rounds=self.rounds,
            metrics=self._metrics,
            feature_level=self._machine.state.feature_level,
            limits=LeaderLimits(
                streams_max=self._settings.native.streams_max,
                batch_bytes_max=self.engine.limits.command_bytes * 3 // 4,
            ),
            on_deposed=self._on_deposed,
            trace=self._machine.trace,
        )

    def notice(self, before: ReplicatedState, after: ReplicatedState) -> None:
        """Called after every applied command: another epoch means that this office is over."""
        if self.closed:
            return
        if after.epoch != self.epoch:
            self._on_deposed(f"epoch {after.epoch} of {after.epoch_holder} has begun")
            return
        for name, runner in self.runners.items():
            namespace = after.namespaces.get(name)
            if namespace is not None and namespace is not before.namespaces.get(name):
                runner.tables_changed(namespace)
        for name, native_runner in list(self.native_runners.items()):
            native = after.native.get(name)
            if native is None:
                self.native_runners.pop(name).close("NOT_FOUND", f"namespace {name} was deleted")
            elif native is not before.native.get(name):
                native_runner.state_changed(native, after.epoch)
        for name, native in after.native.items():
            if name not in self.native_runners:
                self._add_native_runner(name, native)

    def close(self, code: str, text: str) -> None:
        """End all streams with this gRPC status and stop all timers. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for runner in self.runners.values():
            runner.close(code, text)
        self.rounds.close()
        for native_runner in self.native_runners.values():
            native_runner.close("UNAVAILABLE", text)
