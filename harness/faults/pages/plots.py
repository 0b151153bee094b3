"""Operations over time: how long they took, how many succeeded, and how tables spread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from harness.faults.checkers.tables import COMMITTED, TABLE
from harness.faults.figures import operation_name, quantile
from harness.faults.history import Operation, Outcome
from harness.faults.pages.charts import Chart
from harness.faults.pages.view import View, legend

HEIGHT = 190.0
TOP = 26.0
OUTCOMES = (("ok", "succeeded"), ("fail", "surely not done"), ("info", "unknown"))
COLOURS = [(f"var(--{name})", words) for name, words in OUTCOMES]
GROUPS = (
    ("Calls of actors", ("counter", "list")),
    ("Members and lookups", ("member", "lookup")),
)
BEHIND_ROW = 13.0
VERSION_LINES_MAX = 8


def latencies(view: View) -> str:
    """A dot for each operation, by outcome; those without an answer stand at the top."""
    parts = []
    for title, kinds in GROUPS:
        operations = [one for one in view.history.operations if one.key.partition("/")[0] in kinds]
        if operations:
            parts.append(f"<h3>{title}</h3>" + _latency(view, operations, title))
    return "".join(parts) + legend(COLOURS)


def _latency(view: View, operations: Sequence[Operation], title: str) -> str:
    chart = view.chart(HEIGHT, f"latency of {title}")
    taken = [ms for one in operations if (ms := _took_ms(one)) is not None]
    low, high = 0.5, max(20.0, *taken) if taken else 20.0

    def y(ms: float) -> float:
        share = (math.log10(max(ms, low)) - math.log10(low)) / (math.log10(high) - math.log10(low))
        return HEIGHT - 6 - share * (HEIGHT - 6 - TOP)

    level = 1
    while level < high:
        chart.level(y(level), f"{level} ms" if level < 1000 else f"{level // 1000} s")
        level *= 10
    chart.name(14, "no answer")
    for outcome, _ in OUTCOMES:
        points = []
        for one in operations:
            if one.outcome.value == outcome:
                ms = _took_ms(one)
                points.append((view.seconds(one.called_ns), 10.0 if ms is None else y(ms)))
        chart.dots(points, f"var(--{outcome})")
    return chart.svg()


def _took_ms(operation: Operation) -> float | None:
    return None if operation.returned_ns is None else (operation.returned_ns - operation.called_ns) / 1e6


def throughput(view: View) -> str:
    """Operations a second, by outcome and by when they were called."""
    chart = view.chart(120.0, "operations a second by outcome")
    bins = {name: Counter[int]() for name, _ in OUTCOMES}
    for one in view.history.operations:
        bins[one.outcome.value][int(view.seconds(one.called_ns))] += 1
    last = int(view.last_s)
    most = max((count for counts in bins.values() for count in counts.values()), default=1)

    def y(count: float) -> float:
        return 114 - count / most * 104

    for level in (most // 2, most):
        chart.level(y(level), f"{level}/s")
    for name, words in OUTCOMES:
        points = [(at_s + 0.5, y(bins[name][at_s])) for at_s in range(last + 1)]
        chart.line(points, f"var(--{name})", f"{words}, a second")
    return chart.svg() + legend(COLOURS)


def phases_table(view: View) -> list[tuple[str, str, int, int, int, str, str, str]]:
    """Operation, phase, ok, fail, info, p50, p95, max of those that succeeded."""
    found: dict[tuple[str, str], list[Operation]] = {}
    for one in view.history.operations:
        found.setdefault((operation_name(one), one.phase.value), []).append(one)
    rows = []
    for (name, phase), operations in sorted(found.items(), key=lambda item: (item[0][0], _PHASES.index(item[0][1]))):
        counts = Counter(one.outcome for one in operations)
        taken = [ms for one in operations if one.outcome is Outcome.OK and (ms := _took_ms(one)) is not None]
        quantiles = [f"{quantile(taken, share):.1f}" if taken else "-" for share in (0.5, 0.95, 1.0)]
        row = (name, phase, counts[Outcome.OK], counts[Outcome.FAIL], counts[Outcome.INFO])
        rows.append((*row, quantiles[0], quantiles[1], quantiles[2]))
    return rows


_PHASES = ("before", "during", "after")


# -- tables ----------------------------------------------------------------------------------------------


def convergence(view: View, namespace: str) -> str:
    """Each receiver's version over time, and below it how many versions each is behind what was committed."""
    committed = _first_seen(view, namespace)
    receivers = _receivers(view, namespace)
    if not committed or not receivers:
        return ""
    shown = dict(list(receivers.items())[:VERSION_LINES_MAX])
    height = 150.0
    chart = view.chart(height, f"version of the tables of {namespace} at each receiver")
    _versions(view, chart, committed, shown)
    entries = [("var(--line)", "newest anywhere"), *((_colour(view, name), name) for name in shown)]
    return chart.svg() + legend(entries) + _behind(view, committed, receivers)


def _first_seen(view: View, namespace: str) -> dict[int, float]:
    """When anybody first had each version."""
    seen: dict[int, float] = {}
    for note in view.history.notes:
        if note.kind in {COMMITTED, TABLE} and note.fields["namespace"] == namespace:
            at_s = view.seconds(note.at_ns)
            seen[note.fields["version"]] = min(seen.get(note.fields["version"], at_s), at_s)
    return seen


def _receivers(view: View, namespace: str) -> dict[str, list[tuple[float, int]]]:
    found: dict[str, list[tuple[float, int]]] = {}
    for note in view.history.notes_of(TABLE):
        if note.fields["namespace"] == namespace:
            found.setdefault(note.fields["host"], []).append((view.seconds(note.at_ns), note.fields["version"]))
    # Watchers first, so that lines of hosts are drawn over theirs.
    names = sorted(found, key=lambda name: (not name.startswith("watch-"), name))
    return {name: sorted(found[name]) for name in names}


def _ends(view: View) -> dict[str, list[float]]:
    """When processes and simulated sidecars ended: from then on they have no table."""
    found: dict[str, list[float]] = {}
    for note in view.history.notes_of("process"):
        if note.fields["what"] in {"killed", "exited", "leaving"}:
            found.setdefault(note.fields["name"], []).append(view.seconds(note.at_ns))
    return found


def _colour(view: View, name: str) -> str:
    return view.host_colour(name) if not name.startswith("watch-") else "var(--other)"


def _versions(
    view: View, chart: Chart, committed: dict[int, float], receivers: dict[str, list[tuple[float, int]]]
) -> None:
    versions = sorted(committed)
    y = _scale(len(versions), chart.height)
    order = {version: place for place, version in enumerate(versions)}
    for place in sorted({0, len(versions) // 2, len(versions) - 1}):
        generation, counter = divmod(versions[place], 1 << 32)
        chart.level(y(place), f"{generation}:{counter}" if generation else f"version {counter}")
    newest = [(at_s, y(order[version])) for version, at_s in sorted(committed.items(), key=lambda item: item[1])]
    chart.steps(_rising(newest), "var(--line)", "newest version that anybody had", width=6)
    for place, (name, tables) in enumerate(receivers.items()):
        shift = (place - len(receivers) / 2) * 1.8
        points = [(at_s, y(order[version]) + shift) for at_s, version in tables]
        chart.steps(points, _colour(view, name), f"{name}: version over time")


def _scale(count: int, height: float) -> Callable[[float], float]:
    return lambda place: height - 10 - place / max(count - 1, 1) * (height - 22)


def _rising(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    rising: list[tuple[float, float]] = []
    for at_s, y in points:
        if not rising or y < rising[-1][1]:
            rising.append((at_s, y))
    return rising


def _behind(view: View, committed: dict[int, float], receivers: dict[str, list[tuple[float, int]]]) -> str:
    order = {version: place for place, version in enumerate(sorted(committed))}
    chart = view.chart(BEHIND_ROW * len(receivers) + 6, "versions that each receiver is behind")
    commits = sorted((at_s, order[version]) for version, at_s in committed.items())
    ends = _ends(view)
    for row, (name, tables) in enumerate(receivers.items()):
        y = 4 + row * BEHIND_ROW
        chart.name(y + 9, name)
        places = [*((at_s, order[one]) for at_s, one in tables), *((at_s, -1) for at_s in ends.get(name, ()))]
        for first_s, last_s, behind in _spans_behind(commits, places, view.last_s):
            colour = "var(--ok)" if behind == 0 else "var(--fail)" if behind <= 2 else "var(--info)"
            title = f"{name}: {behind} versions behind" if behind else f"{name}: newest version"
            height = BEHIND_ROW - 4 if behind else 3
            chart.bar((first_s, last_s), y + (BEHIND_ROW - 4 - height) / 2, height, colour, title)
    entries = (("var(--ok)", "has the newest"), ("var(--fail)", "1 or 2 versions behind"), ("var(--info)", "more"))
    return chart.svg() + legend(entries)


def _spans_behind(
    commits: Sequence[tuple[float, int]], tables: Sequence[tuple[float, int]], last_s: float
) -> list[tuple[float, float, int]]:
    """While there is a table: spans with the number of versions between what is committed and what is installed. A
    table of -1: the process has ended."""
    events = sorted([(at_s, 0, place) for at_s, place in commits] + [(at_s, 1, place) for at_s, place in tables])
    newest, have, since_s, found = 0, -1, 0.0, list[tuple[float, float, int]]()
    for at_s, kind, place in [*events, (last_s, 2, 0)]:
        if have >= 0 and at_s > since_s:
            behind = max(0, newest - have)
            if found and found[-1][2] == behind and found[-1][1] == since_s:
                found[-1] = (found[-1][0], at_s, behind)
            else:
                found.append((since_s, at_s, behind))
        if kind == 0:
            newest = max(newest, place)
        elif kind == 1:
            have = place
        since_s = at_s
    return [span for span in found if span[2] == 0 or span[1] - span[0] > 0.02]
