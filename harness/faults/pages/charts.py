"""Charts as SVG: one axis of time for all of them, so that what happened at once stands in one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from attrs import Factory, define, field, frozen

WIDTH = 1140
LEFT = 128
RIGHT = WIDTH - 14
TICKS_ABOUT = 10


@frozen
class Band:
    """Something that lasts from `first_s` to `last_s`, drawn behind everything else."""

    first_s: float
    last_s: float
    colour: str
    title: str
    style: str = "band"


def step_of(span: float, about: int) -> float:
    """A round step that divides a span into about so many parts."""
    rough = max(span, 1e-9) / about
    power = float(10 ** math.floor(math.log10(rough)))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(step - rough))


def number(value: float) -> str:
    """Short, for coordinates."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


@define(eq=False)
class Chart:
    """Build it from the top down, then `svg`. Times are seconds since the beginning of the run."""

    first_s: float
    last_s: float
    height: float
    label: str
    """What the chart shows, for those who cannot see it."""
    bands: Sequence[Band] = ()
    axis: bool = True
    _parts: list[str] = Factory(list)
    _names: list[str] = field(init=False, factory=list)

    def x(self, at_s: float) -> float:
        """Where an instant is."""
        share = (at_s - self.first_s) / max(self.last_s - self.first_s, 1e-9)
        return float(LEFT + min(max(share, 0.0), 1.0) * (RIGHT - LEFT))

    def add(self, part: str) -> None:
        """Any element."""
        self._parts.append(part)

    def name(self, y: float, text: str) -> None:
        """A name at the left, ending where the chart begins."""
        self._names.append(f'<text class="name" x="{LEFT - 8}" y="{number(y)}" text-anchor="end">{escape(text)}</text>')

    def bar(self, span: tuple[float, float], y: float, height: float, colour: str, title: str) -> None:
        """A bar along time, never invisibly thin."""
        self.outlined(span, y, height, f'fill="{colour}" rx="2"', title)

    def outlined(self, span: tuple[float, float], y: float, height: float, look: str, title: str) -> None:
        """A bar whose look is given as attributes."""
        x = self.x(span[0])
        width = max(self.x(span[1]) - x, 1.5)
        place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
        self.add(f"<rect {place} {look}><title>{escape(title)}</title></rect>")

    def text(self, at_s: float, y: float, text: str, *, anchor: str = "start", style: str = "") -> None:
        """Words inside the chart, beside an instant."""
        shift = {"start": 4, "end": -4}.get(anchor, 0)
        place = f'x="{number(self.x(at_s) + shift)}" y="{number(y)}"'
        self.add(f'<text {place} text-anchor="{anchor}" class="{style}">{escape(text)}</text>')

    def beside(self, span: tuple[float, float], y: float, text: str) -> None:
        """Words beside a bar, on the side where there is room, or inside it."""
        room = 6.2 * len(text) + 8
        if self.x(span[1]) + room < RIGHT:
            self.text(span[1], y, text)
        elif self.x(span[0]) - room > LEFT:
            self.text(span[0], y, text, anchor="end")
        else:
            self.text(max(span[0], self.first_s), y, text)

    def tick(self, at_s: float, y: float, height: float, colour: str, title: str) -> None:
        """A short upright line."""
        x = number(self.x(at_s))
        self.add(
            f'<path d="M{x} {number(y)}v{number(height)}" stroke="{colour}" stroke-width="1.6">'
            f"<title>{escape(title)}</title></path>"
        )

    def dots(self, points: Iterable[tuple[float, float]], colour: str) -> None:
        """Many points (seconds, y) in one element."""
        path = "".join(f"M{number(self.x(at_s))} {number(y)}h0" for at_s, y in points)
        if path:
            self.add(f'<path class="dots" stroke="{colour}" d="{path}"/>')

    def steps(self, points: Sequence[tuple[float, float]], colour: str, title: str, *, width: float = 1.6) -> None:
        """A line that stays level until the next point, and to the end."""
        if not points:
            return
        path = f"M{number(self.x(points[0][0]))} {number(points[0][1])}"
        for at_s, y in points[1:]:
            path += f"H{number(self.x(at_s))}V{number(y)}"
        look = f'class="step" stroke="{colour}" style="stroke-width:{width}"'
        self.add(f'<path {look} d="{path}H{RIGHT}"><title>{escape(title)}</title></path>')

    def line(self, points: Sequence[tuple[float, float]], colour: str, title: str) -> None:
        """A line from point to point."""
        path = "L".join(f"{number(self.x(at_s))} {number(y)}" for at_s, y in points)
        if path:
            self.add(f'<path class="step" stroke="{colour}" d="M{path}"><title>{escape(title)}</title></path>')

    def level(self, y: float, text: str) -> None:
        """A line across, with its value at the left."""
        self.add(f'<path class="grid" d="M{LEFT} {number(y)}H{RIGHT}"/>')
        self._names.append(f'<text x="{LEFT - 8}" y="{number(y + 4)}" text-anchor="end">{escape(text)}</text>')

    def svg(self) -> str:
        """The whole chart."""
        bottom = self.height
        back = "".join(
            f'<rect class="{band.style}" x="{number(self.x(band.first_s))}" y="0" '
            f'width="{number(max(self.x(band.last_s) - self.x(band.first_s), 0.8))}" height="{number(bottom)}" '
            f'fill="{band.colour}"><title>{escape(band.title)}</title></rect>'
            for band in self.bands
            if band.last_s >= self.first_s and band.first_s <= self.last_s
        )
        ticks = []
        if self.axis:
            step = step_of(self.last_s - self.first_s, TICKS_ABOUT)
            at_s = math.ceil(self.first_s / step) * step
            while at_s <= self.last_s + 1e-9:
                x = number(self.x(at_s))
                ticks.append(f'<path class="grid" d="M{x} 0V{number(bottom)}"/>')
                ticks.append(f'<text x="{x}" y="{number(bottom + 14)}" text-anchor="middle">{at_s:g} s</text>')
                at_s = round(at_s + step, 6)
        total = bottom + (20 if self.axis else 2)
        return (
            f'<svg viewBox="0 0 {WIDTH} {number(total)}" role="img" aria-label="{escape(self.label)}" '
            f'data-left="{LEFT}" data-right="{RIGHT}" data-first="{self.first_s:.6f}" data-last="{self.last_s:.6f}">'
            f"{back}{''.join(ticks)}{''.join(self._parts)}{''.join(self._names)}"
            f'<path class="axis" d="M{LEFT} {number(bottom)}H{RIGHT}"/>'
            f'<line class="cross" y1="0" y2="{number(bottom)}" style="visibility:hidden"/></svg>'
        )
