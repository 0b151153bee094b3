"""The frame of all pages: one file with its style and its script inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
Cell = str | int | float


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def document(title: str, body: str) -> str:
    """A whole page."""
    style, script = ((HERE / name).read_text() for name in ("style.css", "page.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n"
        f'<body><main>{body}</main><div id="clock"></div><script>\n{script}</script></body></html>\n'
    )


def section(name: str, title: str, about: str, body: str) -> str:
    """A part of a page; nothing if it has nothing to show."""
    if not body:
        return ""
    said = f'<p class="soft">{about}</p>' if about else ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{said}{body}</section>'


def navigation(sections: Iterable[tuple[str, str, str]]) -> str:
    """Links to the parts (name, title, content) that are there."""
    return (
        "<nav>" + "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, body in sections if body) + "</nav>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Numbers to the right, everything else to the left; empty without rows."""
    cells = list(rows)
    if not cells:
        return ""
    numeric = [all(not isinstance(row[place], str) for row in cells) for place in range(len(head))]
    top = "".join(
        f"<th{' class=number' if numeric[place] else ''}>{escape(name)}</th>" for place, name in enumerate(head)
    )
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in cells)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Cell) -> str:
    if isinstance(value, str):
        return f"<td>{value if isinstance(value, Markup) else escape(value)}</td>"
    return f'<td class="number">{value:,}</td>'


def badge(verdict: str) -> Markup:
    """A coloured word."""
    style = {"valid": "passed", "passed": "passed", "unknown": "unknown", "control": "control"}.get(verdict, "failed")
    return Markup(f'<span class="verdict {style}">{escape(verdict)}</span>')


def cards(entries: Iterable[tuple[str, str]]) -> str:
    """Figures (value, name) to see first."""
    return (
        '<div class="cards">'
        + "".join(f"<div><b>{escape(v)}</b><span>{escape(n)}</span></div>" for v, n in entries)
        + "</div>"
    )


def preformatted(lines: Iterable[str]) -> str:
    """Lines as they are."""
    return "<pre>" + "\n".join(map(escape, lines)) + "</pre>"
