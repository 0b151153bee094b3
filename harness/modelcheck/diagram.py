"""A counterexample as a sequence diagram in SVG.

Lanes are the parties that exchange messages: the values of the sender and receiver fields of message records,
and the arguments of functions over the same parties. Time runs downwards, one row for each step. An arrow
starts where its message enters the network and ends where it leaves it; a message that stays in the network
is drawn level, and dashed. Which variables hold messages, and how their fields are called, stands in the
manifest under ``[diagram]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

import attrs

from harness.modelcheck.explain import Step
from harness.modelcheck.manifest import Diagram
from harness.modelcheck.values import Change, Collection, Mapping, Value, show, show_key
from harness.modelcheck.values import Sequence as TlaSequence

_LANE_WIDTH = 230
_ROW_HEIGHT = 46
_LEFT = 200
_TOP = 70
_LABEL_LENGTH = 34
_ARROW_HEAD = (
    '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="3" orient="auto">'
    '<path d="M0,0 L7,3 L0,6 z" fill="#0b5394"/></marker></defs>'
)


@attrs.frozen
class Arrow:
    """A message between two lanes. `last_row` is None while it stays in the network."""

    label: str
    sender: str
    receiver: str
    first_row: int
    last_row: int | None


@attrs.frozen
class Note:
    """What changed at a lane in a row."""

    lane: str
    row: int
    text: str


def arrows_of(steps: Sequence[Step], settings: Diagram) -> list[Arrow]:
    """The messages that enter the network during a behaviour."""
    arrows: list[Arrow] = []
    for row, (before, after) in enumerate(pairwise(steps), start=1):
        for name in _network(steps, settings):
            old, new = _messages(before.values[name]), _messages(after.values[name])
            arrows += [_arrow(m, row, _leaves(steps, name, m, row), settings) for m in new if m not in old]
    return arrows


def _network(steps: Sequence[Step], settings: Diagram) -> list[str]:
    """The variables with messages: those of the manifest, else all that ever hold records with a sender or receiver."""
    if settings.network:
        return [name for name in settings.network if name in steps[0].values]
    fields = (*settings.sender, *settings.receiver)
    return [
        name
        for name in steps[0].values
        if any(m.get(*fields) is not None for step in steps for m in _messages(step.values[name]))
    ]


def _messages(value: Value) -> list[Mapping]:
    """The records in a set, sequence or bag, also in a function of those."""
    if isinstance(value, (Collection, TlaSequence)):
        return [m for item in value.items for m in ([item] if isinstance(item, Mapping) else _messages(item))]
    if isinstance(value, Mapping):
        bag = [key for key, _ in value.pairs if isinstance(key, Mapping)]
        return bag or [m for _, inner in value.pairs for m in _messages(inner)]
    return []


def _leaves(steps: Sequence[Step], name: str, message: Mapping, row: int) -> int | None:
    for later in range(row + 1, len(steps)):
        if message not in _messages(steps[later].values[name]):
            return later
    return None


def _arrow(message: Mapping, row: int, last_row: int | None, settings: Diagram) -> Arrow:
    missing = settings.lane_of_missing
    sender, receiver = message.get(*settings.sender), message.get(*settings.receiver)
    special = {*settings.sender, *settings.receiver, *settings.kind}
    kind = message.get(*settings.kind)
    rest = ", ".join(f"{show_key(k)} {show(v)}" for k, v in message.pairs if k not in special)
    return Arrow(
        label=" ".join(part for part in ("" if kind is None else show_key(kind), rest) if part),
        sender=missing if sender is None else show_key(sender),
        receiver=missing if receiver is None else show_key(receiver),
        first_row=row,
        last_row=last_row,
    )


def lanes_of(steps: Sequence[Step], arrows: Iterable[Arrow], settings: Diagram) -> list[str]:
    """All lanes: parties of messages, and the arguments of functions that are defined over such parties."""
    lanes = {party: None for arrow in arrows for party in (arrow.sender, arrow.receiver)}
    for value in steps[0].values.values():
        keys = [show_key(key) for key in _arguments(value)]
        if set(keys) & set(lanes):
            lanes.update(dict.fromkeys(keys))
    others = sorted(lane for lane in lanes if lane != settings.lane_of_missing)
    return [settings.lane_of_missing, *others]


def _arguments(value: Value) -> list[Value]:
    if isinstance(value, Mapping):
        return [key for key, _ in value.pairs]
    if isinstance(value, TlaSequence):
        return list(range(1, len(value.items) + 1))
    return []


def notes_of(steps: Sequence[Step], lanes: Sequence[str], network: Sequence[str], settings: Diagram) -> list[Note]:
    """Changes of the parties' own variables; what belongs to no lane stands at the lane of the missing."""
    notes = []
    for row, step in enumerate(steps[1:], start=1):
        for change in step.changes:
            name = change.path.partition("[")[0].partition(",")[0]
            if name in network:
                continue
            lane = _lane_of(change, lanes) or settings.lane_of_missing
            notes.append(Note(lane, row, str(change)))
    return notes


def _lane_of(change: Change, lanes: Sequence[str]) -> str | None:
    _, bracket, rest = change.path.partition("[")
    index = rest.partition("]")[0]
    return index if bracket and index in lanes else None


def draw(title: str, steps: Sequence[Step], settings: Diagram) -> str:
    """The whole diagram as SVG text."""
    arrows = arrows_of(steps, settings)
    lanes = lanes_of(steps, arrows, settings)
    notes = notes_of(steps, lanes, _network(steps, settings), settings)
    tops = _row_tops(steps, arrows, notes)
    width, height = _LEFT + _LANE_WIDTH * len(lanes), tops[-1] + 20
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        _ARROW_HEAD,
        f'<rect {size} fill="white"/>',
        _text(10, 22, title, size=15),
        *_draw_lanes(lanes, tops),
        *_draw_rows(steps, tops, width),
        *_draw_arrows(arrows, lanes, tops),
        *_draw_notes(notes, lanes, tops, arrows),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _row_tops(steps: Sequence[Step], arrows: Sequence[Arrow], notes: Sequence[Note]) -> list[int]:
    """Where each row begins; a row is as high as the fullest lane in it needs."""
    tops = [_TOP]
    for row in range(1, len(steps)):
        lines = [sum(n.row == row and n.lane == lane for n in notes) for lane in {n.lane for n in notes}]
        sent = sum(a.first_row == row for a in arrows)
        tops.append(tops[-1] + _ROW_HEIGHT + 13 * (max(lines, default=0) + sent))
    return [*tops, tops[-1] + _ROW_HEIGHT]


def _x(lanes: Sequence[str], lane: str) -> int:
    return _LEFT + _LANE_WIDTH // 2 + _LANE_WIDTH * list(lanes).index(lane)


def _draw_lanes(lanes: Sequence[str], tops: Sequence[int]) -> Iterator[str]:
    for lane in lanes:
        x = _x(lanes, lane)
        yield f'<rect x="{x - 50}" y="38" width="100" height="22" rx="4" fill="#e8eef7" stroke="#7a8aa0"/>'
        yield _text(x, 53, lane, anchor="middle", size=12)
        yield f'<line x1="{x}" y1="60" x2="{x}" y2="{tops[-1]}" stroke="#c0c8d4"/>'


def _draw_rows(steps: Sequence[Step], tops: Sequence[int], width: int) -> Iterator[str]:
    for row, step in enumerate(steps[1:], start=1):
        y = tops[row - 1]
        yield f'<line x1="0" y1="{y}" x2="{width}" y2="{y}" stroke="#eeeeee"/>'
        yield _text(10, y + 16, f"{step.number}. {step.action}", size=12)


def _draw_arrows(arrows: Sequence[Arrow], lanes: Sequence[str], tops: Sequence[int]) -> Iterator[str]:
    used: dict[int, int] = {}
    for arrow in arrows:
        place = used.get(arrow.first_row, 0)
        used[arrow.first_row] = place + 1
        y1 = tops[arrow.first_row - 1] + 22 + 13 * place
        y2 = y1 if arrow.last_row is None else tops[arrow.last_row - 1] + 14
        x1, x2 = _x(lanes, arrow.sender), _x(lanes, arrow.receiver)
        dash = ' stroke-dasharray="4 3"' if arrow.last_row is None else ""
        if x1 == x2:
            yield f'<circle cx="{x1}" cy="{y1}" r="3" fill="#0b5394"/>'
        else:
            yield (f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#0b5394"{dash} marker-end="url(#head)"/>')
        toward = 8 if x2 >= x1 else -8
        yield _text(x1 + toward, y1 - 3, arrow.label, anchor="start" if x2 >= x1 else "end", colour="#0b5394")


def _draw_notes(
    notes: Sequence[Note], lanes: Sequence[str], tops: Sequence[int], arrows: Sequence[Arrow]
) -> Iterator[str]:
    used: dict[tuple[int, str], int] = {}
    for note in notes:
        sent = sum(arrow.first_row == note.row for arrow in arrows)
        place = used.get((note.row, note.lane), 0)
        used[note.row, note.lane] = place + 1
        yield _text(_x(lanes, note.lane) + 6, tops[note.row - 1] + 34 + 13 * (sent + place), note.text)


def _text(x: int, y: int, text: str, *, anchor: str = "start", size: int = 11, colour: str = "#222222") -> str:
    short = text if len(text) <= _LABEL_LENGTH or size > 12 else text[: _LABEL_LENGTH - 1] + "…"
    tip = f"<title>{escape(text)}</title>" if short != text else ""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(short)}{tip}</text>'
    )
