"""The catalogue of properties is the one that the code makes, and notices when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from spec import catalogue
from spec.catalogue import COLUMNS, Property, main, properties, replaced, table


def test_the_table_in_the_readme_is_up_to_date() -> None:
    assert main(["--check"]) == 0, "python -m spec.catalogue --write"


def test_a_table_that_drifted_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "README.md"
    text = catalogue.README.read_text(encoding="utf-8")
    other.write_text(replaced(text, catalogue.BEGIN, catalogue.END, "| property |"), encoding="utf-8")
    monkeypatch.setattr(catalogue, "README", other)
    assert main(["--check"]) == 1
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0
    assert other.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Property("NobodyChecksThis", "", ""), "column TLA\\+ is empty"),
        (Property("ApplyOnce", "", "", {"TLA+": "none"}), "says why column TLA\\+ is empty, but it has"),
        (Property("ApplyOnce", "", "", {"tests": "none"}), "names column tests, which does not exist"),
    ],
)
def test_gaps_need_reasons_and_reasons_need_gaps(entry: Property, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "properties", lambda: [entry])
    with pytest.raises(catalogue.CatalogueError, match=words):
        table()


def test_every_property_of_the_design_has_a_row() -> None:
    text = table()
    for entry in properties():
        assert f"| `{entry.name}` |" in text
        assert entry.statement in text
    assert len(text.splitlines()[0].split("|")) == len(COLUMNS) + 4
