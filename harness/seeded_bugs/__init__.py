"""Bugs seeded into core, one at a time, and who finds them after how much work. `python -m harness.seeded_bugs`."""

from __future__ import annotations

from importlib import import_module

from harness.seeded_bugs.registry import Bug

OF_CORE = ("membership", "tables", "barrier", "handoff")
PARTS = (*OF_CORE, "actors")


def all_bugs() -> dict[str, list[Bug]]:
    """By the file that defines them, in the order of `PARTS`."""
    return {f"harness/seeded_bugs/{part}.py": import_module(f"{__name__}.{part}").BUGS for part in PARTS}
