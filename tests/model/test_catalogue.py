"""The catalogue of properties is the one that the code makes, and notices when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from spec import catalogue
from spec.catalogue import COLUMNS, Property, drawn, drift, main, properties, replaced, table, words_of


def test_the_table_in_the_readme_is_up_to_date() -> None:
    assert main(["--check"]) == 0, "python -m spec.catalogue --write"


def test_writing_makes_a_table_without_drift(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = catalogue.README.read_text(encoding="utf-8")
    other = tmp_path / "README.md"
    other.write_text(replaced(text, catalogue.BEGIN, catalogue.END, "| property |"), encoding="utf-8")
    monkeypatch.setattr(catalogue, "README", other)
    assert main(["--check"]) == 1
    assert main(["--write"]) == 0
    monkeypatch.undo()
    assert drift(other.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("find", "put", "words"),
    [
        ("| `ApplyOnce` |", "| `AppliedTwice` |", "ApplyOnce has no row"),
        ("has effect once |", "has some effect |", "ApplyOnce: the sentence is not"),
        ("(../tests/model/membership_machine.py)", "(model/ring.py)", "names model/ring.py, which does not mention it"),
        ("(../tests/model/membership_machine.py)", "(model/gone.py)", "names model/gone.py, which does not mention it"),
        (
            "(../tests/model/membership_machine.py)",
            "(../harness/faults/checkers/tables.py)",
            "names ../harness/faults/checkers/tables.py, which does not mention it",
        ),
        ("| - (", "| [x](README.md) (", "it should be - ("),
        (" configs |", "00 configs |", "00 configs, there are"),
    ],
)
def test_drift_is_noticed(find: str, put: str, words: str) -> None:
    """Also in one cell of one row."""
    text = catalogue.README.read_text(encoding="utf-8")
    at = text.index(find, text.index("| `ApplyOnce` |"))
    changed = text[:at] + put + text[at + len(find) :]
    assert any(words in problem for problem in drift(changed)), drift(changed)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Property("NobodyChecksThis", "", ""), "column TLA\\+ is empty"),
        (Property("ApplyOnce", "", "", empty={"TLA+": "none"}), "says why column TLA\\+ is empty, but it has"),
        (Property("ApplyOnce", "", "", ["nowhere.check"]), "checkers has no nowhere.check"),
        (Property("ApplyOnce", "", "", ["replicas.check_nothing"]), "checkers has no replicas.check_nothing"),
        (
            Property("ApplyOnce", "", "", ["linearizability.describe"]),
            "verdicts.py does not use linearizability.describe",
        ),
        (Property("ApplyOnce", "", "", empty={"tests": "none"}), "names column tests, which does not exist"),
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


def test_comments_and_docstrings_claim_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checks.py"
    path.write_text(
        '''"""Checks Documented."""\n# Commented\nclass Defined: ...\nlimit = 1\n"""Noted."""\n'''
        '''def check() -> None:\n    """Explained."""\n    agree("Named", module.Used)\n''',
        encoding="utf-8",
    )
    words = words_of(path)
    assert {"Defined", "Named", "Used"} <= words
    assert not words & {"Documented", "Commented", "Noted", "Explained"}


def test_only_drawn_tests_and_what_they_use_are_in_the_column_of_hypothesis() -> None:
    names = {path.name for path in drawn()}
    assert {"test_models.py", "membership_machine.py", "exclusive_network.py", "native_checks.py"} <= names
    assert not names & {"test_catalogue.py", "test_seeded_bugs.py", "test_native_stateful.py", "test_barrier_rounds.py"}
