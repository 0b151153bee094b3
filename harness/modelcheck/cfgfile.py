"""Reading and narrowing TLC configuration files (.cfg)."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

_KEYWORDS = (
    "SPECIFICATION",
    "INIT",
    "NEXT",
    "CONSTANTS",
    "CONSTANT",
    "INVARIANTS",
    "INVARIANT",
    "PROPERTIES",
    "PROPERTY",
    "CONSTRAINTS",
    "CONSTRAINT",
    "ACTION_CONSTRAINTS",
    "ACTION_CONSTRAINT",
    "SYMMETRY",
    "VIEW",
)
_SECTION = re.compile(rf"(?m)(?<![\w<-])({'|'.join(_KEYWORDS)})(?!\w)")
_COMMENT = re.compile(r"\\\*[^\n]*|\(\*.*?\*\)", re.DOTALL)


@attrs.frozen
class Cfg:
    """A configuration as its sections in order: (keyword in the singular, text)."""

    sections: tuple[tuple[str, str], ...]

    def names(self, keyword: str) -> tuple[str, ...]:
        """The names listed under all sections of this keyword (singular)."""
        return tuple(name for kind, text in self.sections if kind == keyword for name in text.split())

    @property
    def invariants(self) -> tuple[str, ...]:
        """State invariants."""
        return self.names("INVARIANT")

    @property
    def properties(self) -> tuple[str, ...]:
        """Action and temporal properties."""
        return self.names("PROPERTY")

    def has(self, keyword: str) -> bool:
        """Whether a section of this keyword (singular) is there."""
        return any(kind == keyword for kind, _ in self.sections)

    def checking_only(self, name: str) -> Cfg:
        """The same model with one single invariant or property, so that the verdict can only be about it.

        Raises:
            KeyError: if the configuration does not check `name`.
        """
        kind = next((k for k in ("INVARIANT", "PROPERTY") if name in self.names(k)), None)
        if kind is None:
            raise KeyError(name)
        kept = tuple(s for s in self.sections if s[0] not in ("INVARIANT", "PROPERTY"))
        return Cfg((*kept, (kind, name)))

    def without_fairness(self, init: str, next_action: str) -> Cfg:
        """The same model with the bare initial predicate and next-state action as its behaviour."""
        kept = tuple(s for s in self.sections if s[0] not in ("SPECIFICATION", "INIT", "NEXT"))
        return Cfg((("INIT", init), ("NEXT", next_action), *kept))

    def render(self) -> str:
        """Text that TLC reads."""
        return "".join(f"{kind} {text.strip()}\n" for kind, text in self.sections)


def parse_cfg(text: str) -> Cfg:
    """Split the text of a .cfg into its sections; comments are dropped."""
    clean = _COMMENT.sub(" ", text)
    found = list(_SECTION.finditer(clean))
    ends = [m.start() for m in found[1:]] + [len(clean)]
    sections = [(_singular(match[1]), clean[match.end() : end].strip()) for match, end in zip(found, ends, strict=True)]
    return Cfg(tuple(sections))


def read_cfg(path: Path) -> Cfg:
    """Parse a .cfg file."""
    return parse_cfg(path.read_text(encoding="utf-8"))


def _singular(keyword: str) -> str:
    return "PROPERTY" if keyword == "PROPERTIES" else keyword.removesuffix("S")
