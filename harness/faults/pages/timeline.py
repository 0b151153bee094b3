"""What was done to the cluster, and what replicas and hosts were: faults, leaders, processes."""

from __future__ import annotations

from harness.faults.history import Note
from harness.faults.pages.charts import LEFT, RIGHT, Chart
from harness.faults.pages.view import View, colour_of, legend

ROW = 20
POLLED_S = 1.6
"""A replica that was not heard of for so long did not answer."""


def timeline(view: View) -> str:
    """One row for each fault, replica and host."""
    faults = sorted(view.history.faults, key=lambda fault: fault.begun_ns)
    replicas = sorted({note.fields["replica"] for note in view.history.notes_of("replica")})
    processes = _processes(view)
    rows = len(faults) + len(replicas) + len(processes)
    chart = view.chart(24 + ROW * rows + 8, "faults, replicas and hosts over time")
    for name, first_s, last_s in view.phases():
        chart.text(first_s + (last_s - first_s) / 2, 14, name, anchor="middle")
    y = 24.0
    for fault in faults:
        proof = f"bit: {fault.bit}" if fault.bit else "nothing showed that it bit"
        title = f"{fault.kind} on {fault.target}; {proof}"
        colour = colour_of(fault.kind)
        look = f'fill="{colour}" stroke="{colour}" rx="2"'
        look += "" if fault.bit else ' fill-opacity="0.25" stroke-dasharray="3 2"'
        first_s, last_s = view.seconds(fault.begun_ns), view.ended_s(fault)
        chart.outlined((first_s, last_s), y + 3, ROW - 7, look, title)
        chart.beside((first_s, last_s), y + 14, fault.target)
        chart.name(y + 14, fault.kind.replace("_", " ")[:22])
        y += ROW
    for replica in replicas:
        _replica(view, chart, replica, y)
        y += ROW
    for name, notes in processes.items():
        _process(view, chart, name, notes, y)
        y += ROW
    colours = [
        ("var(--network)", "fault of links"),
        ("var(--replicas)", "of replicas"),
        ("var(--hosts)", "of hosts"),
        ("var(--ok)", "in office (number: epoch)"),
        ("var(--line)", "answers"),
        ("var(--good)", "started"),
        ("var(--bad)", "killed or ended"),
    ]
    return chart.svg() + legend(colours)


def _replica(view: View, chart: Chart, replica: str, y: float) -> None:
    chart.name(y + 14, replica)
    notes = [note for note in view.history.notes_of("replica") if note.fields["replica"] == replica]
    spans: list[tuple[float, float, int]] = []
    for note in notes:
        at_s = view.seconds(note.at_ns)
        epoch = note.fields["epoch"] if note.fields["alive"] and note.fields["in_office"] else 0
        state = epoch if note.fields["alive"] else -1
        if spans and spans[-1][2] == state and at_s - spans[-1][1] < POLLED_S:
            spans[-1] = (spans[-1][0], at_s, state)
        else:
            follows = bool(spans) and at_s - spans[-1][1] < POLLED_S
            spans.append((spans[-1][1] if follows else at_s, at_s, state))
    for first_s, last_s, state in spans:
        if state > 0:
            chart.bar((first_s, last_s), y + 4, ROW - 9, "var(--ok)", f"{replica} in office, epoch {state}")
            if chart.x(last_s) - chart.x(first_s) > 16:
                chart.text(first_s, y + 13.5, str(state), style="on")
        elif state == 0:
            chart.bar((first_s, last_s), y + 8, 3, "var(--line)", f"{replica} answers")


def _processes(view: View) -> dict[str, list[Note]]:
    """Processes of replicas and hosts to which something happened."""
    found: dict[str, list[Note]] = {}
    for note in view.history.notes_of("process"):
        if not note.fields["name"][0].isdigit():  # sidecars come and go all the time
            found.setdefault(note.fields["name"], []).append(note)
    return dict(sorted(found.items()))


def _process(view: View, chart: Chart, name: str, notes: list[Note], y: float) -> None:
    chart.name(y + 14, f"{name} process")
    chart.add(f'<path class="grid" d="M{LEFT} {y + 10}H{RIGHT}"/>')
    for note in notes:
        what = note.fields["what"]
        colour = {"started": "good", "continued": "good", "stopped": "warn"}.get(what, "bad")
        chart.tick(view.seconds(note.at_ns), y + 4, ROW - 9, f"var(--{colour})", f"{name} {what}")
