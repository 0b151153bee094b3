"""Putting the table of results into tla/README.md, between its marks."""

from __future__ import annotations

from pathlib import Path

from harness.modelcheck.errors import ModelCheckError


def write_results(readme: Path, tier: str, table: str) -> None:
    """Replace what stands between ``<!-- results TIER -->`` and ``<!-- end -->``.

    Raises:
        ModelCheckError: when the file has no such marks.
    """
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    begin, end = f"<!-- results {tier} -->\n", "<!-- end -->"
    start = text.find(begin)
    stop = text.find(end, start)
    if start < 0 or stop < 0:
        raise ModelCheckError(f"{readme} has no {begin.strip()} with {end} after it")
    text = text[: start + len(begin)] + "\n" + table + "\n\n" + text[stop:]
    readme.write_text(text, encoding="utf-8")
