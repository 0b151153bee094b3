"""Bad manifests get one line that names file, entry and field."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.modelcheck.counts import update_counts
from harness.modelcheck.errors import ModelCheckError
from harness.modelcheck.manifest import load_suite
from harness.modelcheck.plan import plan
from harness.modelcheck.record import write_results

SPECS = Path(__file__).parent / "specs"


def load_changed(tmp_path: Path, file: str, old: str, new: str) -> None:
    folder = Path(shutil.copytree(SPECS, tmp_path / "specs"))
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    load_suite(folder)


def test_the_tests_own_manifest_is_good() -> None:
    suite = load_suite(SPECS)
    assert [config.name for config in suite.configs] == [
        "MCCounter",
        "REACHCounter_Full",
        "LIVECounter",
        "SIMCounter",
    ]
    assert {mutant.module for mutant in suite.mutants} == {"Counter"}
    assert update_counts(suite, []) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('tier = "quick"', 'tier = "fast"', "tier is 'fast', but must be one of quick, full, simulation"),
        ('kind = "safety"', 'kind = "safe"', "kind is 'safe'"),
        ('expect = "pass"', 'expect = "passes"', "expect is 'passes'"),
        ('why = "every count is reached"', 'why = ""', "bounds and why"),
        ('tier = "quick"\n', "", "field 'tier' is missing"),
        ("depth = 8", "deepness = 8", "unknown field 'deepness'"),
        ('module = "Counter"', 'module = "Conter"', "Conter.tla"),
        ('expect = "pass"', 'expect = "violated"', "property must be given exactly when"),
        ('"Agree", "Steps"', '"Agrees"', "'Agrees' is not an invariant or property of MCCounter.cfg"),
        ('name = "REACHCounter_Full"', 'name = "MCCounter"', "config 'MCCounter' is also in"),
        ('Overflow = "the limit is never passed"', 'Overflow = ""', "coverage_exempt.Overflow needs a reason"),
        ("simulate = { num = 20, depth = 30, seed = 1 }", "", "simulate must be given exactly when"),
        ("[[config]]", "[[configs]]", "unknown table 'configs'"),
        ("[[config]]", "[[config]", "line 1"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ModelCheckError, match=r"Counter\.toml") as caught:
        load_changed(tmp_path, "manifest/Counter.toml", old, new)
    assert message in str(caught.value)


@pytest.mark.parametrize("line", ["SYMMETRY Symmetry", "VIEW View", "CONSTRAINT Small", "ACTION_CONSTRAINT Small"])
def test_liveness_with_a_reduced_state_space_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ModelCheckError, match="makes liveness checking wrong"):
        load_changed(tmp_path, "LIVECounter.cfg", "PROPERTY", f"{line}\nPROPERTY")


def test_liveness_with_two_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelCheckError, match="workers must be 1 for liveness"):
        load_changed(tmp_path, "manifest/Counter.toml", 'kind = "liveness"', 'kind = "liveness"\nworkers = 2')


def test_a_config_that_checks_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelCheckError, match="checks nothing"):
        load_changed(tmp_path, "SIMCounter.cfg", "INVARIANT Bounded", "")


def test_a_violated_property_that_tlc_would_not_name_must_stand_alone(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SPECS, tmp_path / "specs"))
    (folder / "REACHCounter_Full.cfg").write_text("SPECIFICATION Spec\nCONSTANT Limit = 3\nPROPERTIES Steps Returns\n")
    manifest = folder / "manifest" / "Counter.toml"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"NeverFull"', '"Returns"'), encoding="utf-8")
    with pytest.raises(ModelCheckError, match="must list no other property"):
        load_suite(folder)


def test_a_cfg_in_no_manifest_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SPECS, tmp_path / "specs"))
    (folder / "MCForgotten.cfg").write_text("SPECIFICATION Spec\n", encoding="utf-8")
    with pytest.raises(ModelCheckError, match=r"MCForgotten\.cfg is in no manifest"):
        load_suite(folder)


def test_the_projects_own_manifests_and_mutants_apply() -> None:
    suite = load_suite(Path(__file__).parents[2] / "tla")
    tasks = plan(suite, tiers=frozenset({"quick", "full", "simulation"}), only=None)
    assert len(tasks) >= len(suite.configs) + len(suite.mutants)


def test_results_are_recorded_between_their_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- results quick -->\nold\n<!-- end -->\nb\n<!-- results all -->\nkept\n<!-- end -->\n")
    write_results(readme, "quick", "| new |")
    text = readme.read_text(encoding="utf-8")
    assert text == "a\n<!-- results quick -->\n\n| new |\n\n<!-- end -->\nb\n<!-- results all -->\nkept\n<!-- end -->\n"
    with pytest.raises(ModelCheckError, match="has no <!-- results full -->"):
        write_results(readme, "full", "")
