"""What the charts of a run have in common: its clock, its colours, its bands."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import define, field

from harness.faults.figures import span_ns
from harness.faults.history import Fault, History
from harness.faults.pages.charts import Band, Chart
from harness.faults.schedules import LANES, lane_of

HOST_COLOURS = 8
ABSOLUTE = re.compile(r"\b(\d+\.\d{3})\b(?=(, (no answer|\d+\.\d{3}))?\] ms| ms\b)")
"""Times in explanations: milliseconds of the machine's clock."""


@define(eq=False)
class View:
    """A history with a clock that begins at 0."""

    history: History
    first_ns: int = field(init=False)
    last_s: float = field(init=False)
    bands: list[Band] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.first_ns, last_ns = span_ns(self.history)
        self.last_s = max(self.seconds(last_ns), 0.001)
        self.bands = [*self._phases(), *(self.band(fault) for fault in self.history.faults)]

    def seconds(self, at_ns: int) -> float:
        """Since the run began."""
        return (at_ns - self.first_ns) / 1e9

    def ended_s(self, fault: Fault) -> float:
        """When a fault was healed, or the end of the run."""
        return self.last_s if fault.ended_ns is None else self.seconds(fault.ended_ns)

    def band(self, fault: Fault) -> Band:
        """A fault behind a chart."""
        title = f"{fault.kind} on {fault.target}"
        return Band(self.seconds(fault.begun_ns), self.ended_s(fault), colour_of(fault.kind), title)

    def phases(self) -> list[tuple[str, float, float]]:
        """Name, begin and end."""
        notes = list(self.history.notes_of("phase"))
        begins = [self.seconds(note.at_ns) for note in notes]
        ends = [*begins[1:], self.last_s]
        return [(note.fields["phase"], begins[place], ends[place]) for place, note in enumerate(notes)]

    def _phases(self) -> Iterable[Band]:
        for name, first_s, last_s in self.phases():
            if name != "during":
                yield Band(first_s, last_s, "", f"phase {name}", "phase")

    def chart(self, height: float, label: str, *, bands: bool = True, axis: bool = True) -> Chart:
        """One for the whole run."""
        return Chart(0.0, self.last_s, height, label, self.bands if bands else (), axis)

    def hosts(self) -> list[str]:
        """Hosts of actors that had turns or tables, in order."""
        found = {
            note.fields["host"]
            for note in self.history.notes
            if note.kind in {"turn", "granted"} or (note.kind == "table" and note.fields["namespace"] == "actors")
        }
        return sorted(host for host in found if not host.startswith("watch-"))

    def host_colour(self, host: str) -> str:
        """The same in all charts."""
        hosts = self.hosts()
        return f"var(--h{hosts.index(host) % HOST_COLOURS})" if host in hosts else "var(--other)"

    def relative(self, text: str) -> str:
        """An explanation with times since the beginning of the run."""

        def shifted(found: re.Match[str]) -> str:
            return f"{float(found[1]) - self.first_ns / 1e6:.3f}"

        return ABSOLUTE.sub(shifted, text)


def colour_of(kind: str) -> str:
    """The colour of a kind of fault: that of its lane."""
    lane = lane_of(kind)
    return f"var(--{lane})" if lane in LANES else "var(--other)"


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Colours with names."""
    items = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for colour, name in entries)
    return f'<div class="legend">{items}</div>'
