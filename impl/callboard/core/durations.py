"""Durations as operators of the Go world write them: "8s", "1m30s", "500ms", "1h"."""

from __future__ import annotations

import re
from fractions import Fraction

_UNIT_MS = {
    "ns": Fraction(1, 1_000_000),
    "us": Fraction(1, 1000),
    "µs": Fraction(1, 1000),
    "ms": Fraction(1),
    "s": Fraction(1000),
    "m": Fraction(60_000),
    "h": Fraction(3_600_000),
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")


def parse_duration_ms(text: str) -> int:
    """Milliseconds of a duration such as "1m30s" or "1.5s"; "0" needs no unit.

    Raises:
        ValueError: malformed, negative, or not a whole number of milliseconds.
    """
    if text == "0":
        return 0
    total, position = Fraction(0), 0
    for part in _PART.finditer(text):
        if part.start() != position:
            break
        total += Fraction(part[1]) * _UNIT_MS[part[2]]
        position = part.end()
    if position != len(text) or not text:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 8s or 1m30s")
    if total.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of milliseconds")
    return int(total)


def format_duration_ms(duration_ms: int) -> str:
    """The shortest usual form, as Go prints it: 8s, 1m30s, 500ms, 1h0m0s, 0s."""
    if duration_ms < 0:
        return "-" + format_duration_ms(-duration_ms)
    if 0 < duration_ms < 1000:
        return f"{duration_ms}ms"
    seconds_total, milliseconds = divmod(duration_ms, 1000)
    minutes_total, seconds = divmod(seconds_total, 60)
    hours, minutes = divmod(minutes_total, 60)
    fraction = f".{milliseconds:03}".rstrip("0") if milliseconds else ""
    text = f"{seconds}{fraction}s"
    if minutes_total:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return text
