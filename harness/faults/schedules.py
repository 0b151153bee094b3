"""Schedules: lists of faults, read from a file or drawn (see `exploration`). A stored one replays a run's faults."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import field, frozen

from harness.faults import (
    clock_faults,
    disk_faults,
    network_faults,
    operator_faults,
    process_faults,
    ragged_faults,
    sidecar_faults,
)
from harness.faults.nemeses import KINDS, FaultSpec, ScheduleError, Value, spec_of

GROUPS: dict[str, tuple[str, ...]] = {
    "partition": (*network_faults.PARTITIONS, "swizzle"),
    "slow": ("latency", "jitter", "bandwidth", "slicing"),
    "reset": ("resets", "torn_frames"),
    "kill": ("kill", "crash_loop"),
    "pause": ("pause",),
    "restart": ("rolling_restart",),
    "host": ("host_kill", "host_pause", "host_restart", "host_crash_loop", "host_kill_while_leaving"),
    "storm": ("storm",),
    "disk": ("torn_tail", "corrupt_byte", "wiped_disk", "tail_loss", "full_disk", "replaced_disk"),
    "operator": ("host_drain", "host_cordon", "host_removed"),
    "etcd": (*network_faults.ETCD_CUTS, "etcd_kill", "etcd_pause"),
    "clock": ("host_clock_rate",),
}
"""What `--fault` may name besides single kinds."""
LANES: dict[str, tuple[str, ...]] = {
    "network": ("partition", "partition", "slow", "reset"),
    "replicas": ("kill", "kill", "pause", "restart", "disk"),
    "hosts": ("host", "host", "storm", "operator"),
    "etcd": ("etcd",),
}
"""Groups by lane; more often named is more often drawn. Clocks are falsified only when asked for: not every machine has
what that needs."""
LEASE_S = 2.5
ELECTION_S = 3.0
SCENARIOS = Path(__file__).parent / "scenarios"
_CUT_OFF = ("leader", "leader", "one", "follower", "minority")
_AROUND = ("raft", "leader", "host")
_ANY = ("one", "follower", "leader")
TARGETS: dict[str, tuple[str, ...]] = {
    "partition_replicas": _CUT_OFF,
    "partition_from_everybody": _CUT_OFF,
    "one_way": ("leader", "follower"),
    "latency": ("network", *_AROUND),
    "jitter": ("network", *_AROUND),
    "bandwidth": _AROUND,
    "slicing": _AROUND,
    "resets": _AROUND,
    "torn_frames": _AROUND,
    "kill": ("leader", "leader", "one", "follower", "majority", "all"),
    "pause": ("leader", "leader", "one", "majority", "all"),
    "etcd_kill": ("one", "majority", "all"),
    "etcd_pause": ("one", "majority", "all"),
    "replica_from_etcd": ("leader", "leader", "one", "majority", "all"),
    "crash_loop": _ANY,
    "torn_tail": _ANY,
    "corrupt_byte": _ANY,
    "wiped_disk": _ANY,
    "tail_loss": ("leader", "follower", "majority", "all"),
    "full_disk": _ANY,
    "replaced_disk": _ANY,
    "rolling_restart": ("all",),
    "host_kill": ("one", "one", "all"),
    "host_pause": ("one", "one", "all"),
}
PARAMETERS: dict[str, dict[str, tuple[Value, ...]]] = {
    "one_way": {"way": ("in", "out")},
    "host_one_way": {"way": ("in", "out")},
    "latency": {"ms": (20, 60, 150, 400)},
    "jitter": {"ms": (20, 60, 150, 400)},
    "host_clock_rate": {"ppm": (9000, -9000)},
    "swizzle": {"style": network_faults.STYLES},
    "bandwidth": {"kilobytes_per_s": (4, 16, 64)},
}
DURATIONS_S = {
    # Long enough that others own its actors when the host wakes up: removed, and its last lease waited for.
    "host_pause": (1.2, LEASE_S, 8.0, 10.0),
}
SHORTEST_S = {
    "host_clock_rate": 10.0,
    "crash_loop": 6.0,
    "torn_tail": 6.0,
    "corrupt_byte": 6.0,
    "wiped_disk": 6.0,
    "tail_loss": 6.0,
    "full_disk": 15.0,
    "replaced_disk": 20.0,
    "host_drain": 6.0,
    "host_cordon": 6.0,
    "host_removed": 3.0,
    "swizzle": 12.0,
    "rolling_restart": 18.0,
    "storm": 8.0,
    "latency": 5.0,
    "jitter": 5.0,
    "bandwidth": 5.0,
    "slicing": 5.0,
    "resets": 5.0,
    "torn_frames": 5.0,
}


@frozen
class Schedule:
    """`seed` decides what is drawn while the faults happen (whom "one" hits, delays)."""

    seed: int
    duration_s: float
    faults: tuple[FaultSpec, ...]
    name: str = ""
    settings: dict[str, Any] = field(factory=dict)
    """Options of the run that the faults need: replicas, hosts, engine, policy, workloads."""
    about: str = ""
    expect: tuple[str, ...] = ()
    """Checkers that must find something: a control that shows that they can."""

    def as_json(self) -> dict[str, Any]:
        """For files."""
        return {
            "name": self.name,
            "about": self.about,
            "expect": list(self.expect),
            "seed": self.seed,
            "duration_s": self.duration_s,
            "settings": self.settings,
            "faults": [fault.as_json() for fault in self.faults],
        }

    def save(self, path: Path) -> None:
        """Write it to a file that `load` reads."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")


def load(path: Path) -> Schedule:
    """A stored schedule. Raises ScheduleError."""
    try:
        content = json.loads(path.read_text())
        faults = [spec_of(entry, place) for place, entry in enumerate(content["faults"], start=1)]
        return Schedule(
            int(content["seed"]),
            float(content["duration_s"]),
            tuple(faults),
            str(content.get("name", path.stem)),
            dict(content.get("settings", {})),
            str(content.get("about", "")),
            tuple(content.get("expect", ())),
        )
    except OSError as error:
        raise ScheduleError(f"{path}: {error.strerror}") from None
    except ScheduleError as error:
        raise ScheduleError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ScheduleError(f"{path} is no schedule: {error!r}") from None


def scenarios() -> dict[str, Path]:
    """Stored schedules by name: regressions named after faults that other systems had."""
    return {path.stem: path for path in sorted(SCENARIOS.glob("*.json"))}


def kinds_of(names: Iterable[str]) -> list[str]:
    """Kinds by names of kinds and groups. Raises ScheduleError."""
    found: list[str] = []
    for name in names:
        if name not in GROUPS and name not in KINDS:
            known = ", ".join([*GROUPS, *sorted(KINDS)])
            raise ScheduleError(f"fault {name!r} is none of {known}")
        found += GROUPS.get(name, (name,))
    return found


def lane_of(kind: str) -> str:
    """The lane in which a kind is drawn; those that are drawn only when asked for act on hosts."""
    for lane, groups in LANES.items():
        if any(kind in GROUPS[group] for group in groups):
            return lane
    return "hosts"


assert process_faults
assert ragged_faults
assert disk_faults
assert operator_faults
assert sidecar_faults
assert clock_faults  # their kinds are registered by their import
