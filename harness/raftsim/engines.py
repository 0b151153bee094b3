"""The engines that can be simulated, by name."""

from __future__ import annotations

from harness.raftsim.runner import EngineKind
from harness.raftsim.unguarded import Unguarded, library_in_simulation

ENGINES = ("hardened", "unguarded")


def engine_kind(name: str) -> EngineKind:
    """The engine of this name. Raises ValueError for another name than those in `ENGINES`."""
    if name == "unguarded":
        return EngineKind(Unguarded(), library_in_simulation)
    if name == "hardened":
        from harness.raftsim.hardened import Hardened, core_in_simulation

        return EngineKind(Hardened(), core_in_simulation)
    raise ValueError(f"engine: no engine is called {name!r}; there are {', '.join(ENGINES)}")
