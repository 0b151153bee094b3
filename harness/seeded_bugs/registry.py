"""A seeded bug: what it is, whose it was first, which properties it breaks, and how it is put in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from attrs import frozen

from callboard.core import membership, snapshot
from callboard.core.versions import Policy
from callboard.server import machine

Prepare = Callable[[pytest.MonkeyPatch], None]


@frozen
class Bug:
    """`origin`: the report of a real system that had it, empty if it was thought up. `properties`: whoever finds it
    must name one of these, but for those who compare with the specification and name nothing. `stalls`: how often walks
    of hosts and leaders freeze hosts (native_walk); `policy`: of their namespace.
    """

    name: str
    what: str
    properties: tuple[str, ...]
    prepare: Prepare
    origin: str = ""
    stalls: int = 0
    policy: Policy = Policy.EXCLUSIVE


IMPORTED = {"apply": membership, "decode_state": snapshot, "encode_state": snapshot}
"""Functions of core that the server's state machine has imported by name."""


@contextmanager
def put_in(bug: Bug) -> Iterator[None]:
    """The bug is there meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        bug.prepare(patch)
        for name, home in IMPORTED.items():
            patch.setattr(machine, name, getattr(home, name))
        yield


@frozen
class Registrar:
    """Collects bugs in the order of their definition."""

    bugs: list[Bug]

    def __call__(
        self, *properties: str, origin: str = "", stalls: int = 0, policy: Policy = Policy.EXCLUSIVE
    ) -> Callable[[Prepare], Prepare]:
        """Register the decorated function under its name; the first line of its docstring says what the bug is."""

        def register(prepare: Prepare) -> Prepare:
            lines = (prepare.__doc__ or "").strip().splitlines()
            assert lines, f"{prepare.__name__} needs a docstring"
            what = lines[0].rstrip(".")
            self.bugs.append(Bug(prepare.__name__, what, properties, prepare, origin, stalls, policy))
            return prepare

        return register
