"""Who owned and who served an actor over time, and the few things that explain what a checker found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import frozen

from callboard.core.slot_records import slot_of
from harness.faults.checkers.activations import Turn, turns_of
from harness.faults.history import Operation
from harness.faults.pages.charts import Chart
from harness.faults.pages.view import View, legend

LANE = 30.0
LANES_MAX = 14
EXCERPT_ROW = 18.0
EXCERPT_ROWS_MAX = 24
EXCERPT_TURNS_MAX = 200
ACTOR = re.compile(r"\b(Tally|Journal)/(k\d+)\b")
KEY = re.compile(r"\b(counter|list)/(k\d+)\b")
TIMES = re.compile(r"\[(\d+\.\d{3}), (\d+\.\d{3}|no answer)\] ms")


@frozen
class Right:
    """An incarnation's right to a slot, as the host itself wrote it down."""

    host: str
    incarnation: int
    fence: int
    first_s: float
    last_s: float
    ended: str


def rights(view: View, actor: str) -> list[Right]:
    """Rights to an actor's slot: from the grant to the end, or to the end of the process."""
    kind, actor_id = actor.split("/")
    bits = view.history.settings.get("namespaces", {}).get("actors", {}).get("slot_bits")
    if bits is None:
        return []
    slot = slot_of(kind, actor_id, bits)
    found: list[Right] = []
    open_rights: dict[tuple[str, int], tuple[int, float]] = {}
    for note in sorted(view.history.notes, key=lambda one: one.at_ns):
        at_s, fields = view.seconds(note.at_ns), note.fields
        if note.kind in {"granted", "ended"}:
            if fields["actor_type"] != kind or not fields["first"] <= slot < fields["first"] + fields["count"]:
                continue
            place = (fields["host"], fields["incarnation"])
            begun = open_rights.pop(place, None)
            if note.kind == "granted":
                open_rights[place] = (fields["fence"], begun[1] if begun and begun[0] == fields["fence"] else at_s)
                if begun and begun[0] != fields["fence"]:
                    found.append(Right(*place, begun[0], begun[1], at_s, "granted again"))
            elif begun:
                found.append(Right(*place, begun[0], begun[1], at_s, str(fields["reason"])))
        elif note.kind == "process" and fields["what"] in {"killed", "exited", "started"}:
            for place in [one for one in open_rights if one[0] == fields["name"]]:
                fence, since_s = open_rights.pop(place)
                found.append(Right(*place, fence, since_s, at_s, f"process {fields['what']}"))
    found += [Right(*place, fence, since_s, view.last_s, "") for place, (fence, since_s) in open_rights.items()]
    return found


def lanes(view: View, first: Sequence[str] = ()) -> str:
    """Those actors that moved most, after those in `first`."""
    by_actor = turns_of(view.history)

    def places(actor: str) -> int:
        return len({(turn.host, turn.incarnation) for turn in by_actor[actor]})

    most = sorted(by_actor, key=lambda actor: (-places(actor), -len(by_actor[actor]), actor))
    chosen = [*(actor for actor in first if actor in by_actor), *(actor for actor in most if actor not in first)]
    chosen = chosen[:LANES_MAX]
    if not chosen:
        return ""
    chart = view.chart(LANE * len(chosen) + 6, "who owned and who served actors")
    for row, actor in enumerate(chosen):
        _lane(view, chart, actor, by_actor[actor], 4 + row * LANE)
    return chart.svg() + legend((view.host_colour(host), host) for host in view.hosts())


def _lane(view: View, chart: Chart, actor: str, turns: Sequence[Turn], y: float) -> None:
    chart.name(y + 15, actor)
    for right in rights(view, actor):
        title = f"{actor}: right of {right.host}/{right.incarnation}, fence {right.fence}"
        title += f"; ended: {right.ended}" if right.ended else ""
        look = f'fill="{view.host_colour(right.host)}" fill-opacity="0.45" rx="2"'
        chart.outlined((right.first_s, right.last_s), y, 11, look, title)
        if chart.x(right.last_s) - chart.x(right.first_s) > 60:
            chart.text(right.first_s, y + 9.5, f"{right.host}/{right.incarnation} fence {right.fence}")
    served: dict[str, list[Turn]] = {}
    for turn in turns:
        served.setdefault(turn.host, []).append(turn)
    for host, ones in served.items():
        path = "".join(f"M{chart.x(view.seconds(turn.begun_ns)):.1f} {y + 14:.0f}v9" for turn in ones)
        chart.add(
            f'<path d="{path}" stroke="{view.host_colour(host)}" stroke-width="1"><title>turns in {host}</title></path>'
        )


# -- excerpts --------------------------------------------------------------------------------------------


def named_actors(explanations: Iterable[str]) -> list[str]:
    """Actors that explanations speak of."""
    found: list[str] = []
    for line in explanations:
        found += [f"{kind}/{number}" for kind, number in ACTOR.findall(line)]
        found += [f"{'Tally' if kind == 'counter' else 'Journal'}/{number}" for kind, number in KEY.findall(line)]
    return list(dict.fromkeys(found))


def excerpt(view: View, result: dict[str, Any]) -> str:
    """A close look at the moments and the actor that a checker named: turns by host, and operations."""
    lines = result["explanation"]
    actors = named_actors(lines)
    times = [float(value) for line in lines for pair in TIMES.findall(line) for value in pair if value != "no answer"]
    if not actors or not times:
        return ""
    first_ns, last_ns = min(times) * 1e6, max(times) * 1e6
    margin_ns = max(20e6, (last_ns - first_ns) * 0.15)
    first_ns, last_ns = first_ns - margin_ns, last_ns + margin_ns
    actor = actors[0]
    turns = [
        turn for turn in turns_of(view.history).get(actor, ()) if turn.ended_ns >= first_ns and turn.begun_ns <= last_ns
    ]
    operations = [
        one
        for one in view.history.operations
        if actor in named_actors([one.key]) and one.called_ns <= last_ns and (one.returned_ns or last_ns) >= first_ns
    ]
    chart = Chart(
        view.seconds(int(first_ns)),
        view.seconds(int(last_ns)),
        EXCERPT_ROW * (len({(turn.host, turn.incarnation) for turn in turns}) + len(operations[:EXCERPT_ROWS_MAX])) + 8,
        f"{actor}, closely",
        view.bands,
    )
    _close_up(view, chart, turns[:EXCERPT_TURNS_MAX], operations[:EXCERPT_ROWS_MAX])
    return f"<h3>{actor} around it (numbers beside turns: fences)</h3>" + chart.svg()


def _close_up(view: View, chart: Chart, turns: Sequence[Turn], operations: Sequence[Operation]) -> None:
    hosts = sorted({(turn.host, turn.incarnation) for turn in turns})
    y = 4.0
    for host, incarnation in hosts:
        chart.name(y + 12, f"turns {host}/{incarnation}")
        for turn in turns:
            if (turn.host, turn.incarnation) == (host, incarnation):
                begun_s, ended_s = view.seconds(turn.begun_ns), view.seconds(turn.ended_ns)
                title = f"turn in {host}/{incarnation}, fence {turn.fence}, {begun_s:.4f} to {ended_s:.4f} s"
                chart.bar((begun_s, ended_s), y + 2, EXCERPT_ROW - 6, view.host_colour(host), title)
                if len(turns) <= 40:
                    chart.text(ended_s, y + 12, str(turn.fence))
        y += EXCERPT_ROW
    for one in operations:
        begun_s = view.seconds(one.called_ns)
        ended_s = view.seconds(one.returned_ns) if one.returned_ns is not None else chart.last_s
        words = f"{one.function}({'' if one.argument is None else one.argument}) {one.outcome.value}"
        chart.name(y + 12, f"process {one.process}")
        title = f"{words}, {begun_s:.4f} s to {'no answer' if one.returned_ns is None else f'{ended_s:.4f} s'}"
        look = f'fill="var(--{one.outcome.value})" fill-opacity="0.55" rx="2"'
        chart.outlined((begun_s, ended_s), y + 3, EXCERPT_ROW - 8, look, title)
        chart.beside((begun_s, ended_s), y + 12, words)
        y += EXCERPT_ROW
