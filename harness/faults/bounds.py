"""Bounds on times, computed from the settings of a run: the formulas of spec/README.md.

All are in milliseconds. They hold for a machine that runs its processes; what a run measured of stalls is added by
those who compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import fields

from callboard.core.barrier_records import BarrierSettings
from callboard.host.session import Reconnecting
from harness.faults.history import History

PHASE_MS_MIN = fields(BarrierSettings).phase_ms_min.default or 0
SIDECAR_RECONNECT_MS = 1000
PROCESS_START_MS = 10_000
"""Until a process that was started has connected for the first time."""
REQUEST_MS = 4000
"""What a client gives one request to one replica."""


def convergence_ms(settings: Mapping[str, Any], namespace: str) -> int:
    """`Convergence`: how long after the later of a change and the heal everybody who is connected has it."""
    times, election_ms = settings["namespaces"][namespace], int(settings["election_ms"])
    if times["policy"] == "barrier":
        timeout_ms = int(times["disseminate_timeout_ms"])
        round_ms = 3 * (timeout_ms + 2 * min(PHASE_MS_MIN, timeout_ms))
        return 2 * election_ms + SIDECAR_RECONNECT_MS + int(times["coalesce_ms"]) + 2 * round_ms
    again = Reconnecting()
    return 2 * election_ms + again.silence_ms + again.longest_ms + 2 * int(times["tick_ms"])


def duplicate_window_ms(settings: Mapping[str, Any], namespace: str) -> int:
    """`DuplicateWindow`: how long after the heal one actor may run in two places."""
    times = settings["namespaces"][namespace]
    if times["policy"] == "barrier":
        return convergence_ms(settings, namespace)
    leaves_ms = sum(int(times[name]) for name in ("failure_timeout_ms", "drain_ms", "margin_ms"))
    return convergence_ms(settings, namespace) + leaves_ms


def available_ms(settings: Mapping[str, Any]) -> int:
    """How long no change of members may succeed while a majority of replicas run and reach each other and the clients:
    an election that has to be repeated, and a client's request to each replica that does not answer."""
    return 2 * int(settings["election_ms"]) + (int(settings["replicas"]) // 2 + 1) * REQUEST_MS


def stalled_ms(history: History, first_ns: int, last_ns: int) -> int:
    """How long the machine did not run the harness, by its own account, between two instants."""
    return sum(_late_ms(history, first_ns, last_ns))


def _late_ms(history: History, first_ns: int, last_ns: int) -> Iterable[int]:
    for note in history.notes_of("stall"):
        if first_ns <= note.at_ns and note.at_ns - note.fields["late_ms"] * 1_000_000 <= last_ns:
            yield int(note.fields["late_ms"])
