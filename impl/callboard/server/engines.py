"""Building the consensus engine that the settings name."""

from __future__ import annotations

from callboard.consensus.interface import Engine, StateMachine
from callboard.consensus.memory import MemoryEngine
from callboard.server.settings import EngineName, ServerSettings


def build_engine(settings: ServerSettings, machine: StateMachine) -> Engine:
    """The engine over `machine`, not started. Raises EngineStartError for impossible settings."""
    match settings.engine.name:
        case EngineName.MEMORY:
            return MemoryEngine(machine, replica_id=settings.replica_id)
        case EngineName.PYSYNCOBJ:
            return _pysyncobj(settings, machine)
        case EngineName.ETCD:
            return _etcd(settings, machine)


def _pysyncobj(settings: ServerSettings, machine: StateMachine) -> Engine:
    raise NotImplementedError


def _etcd(settings: ServerSettings, machine: StateMachine) -> Engine:
    raise NotImplementedError
