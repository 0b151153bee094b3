"""The manifest (tla/manifest/*.toml) and the mutants (tla/mutants/*.toml): what is run and what must come out."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from harness.modelcheck.cfgfile import read_cfg
from harness.modelcheck.errors import ModelCheckError

TIERS = ("quick", "full", "simulation")
KINDS = ("safety", "liveness", "reachability", "counterexample", "simulation")
EXPECTATIONS = ("pass", "violated")


@attrs.frozen
class Simulation:
    """Random behaviours instead of all behaviours."""

    num: int
    depth: int
    seed: int


@attrs.frozen
class Config:
    """One run of TLC and its expected result."""

    name: str
    module: str
    tier: str
    kind: str
    expect: str
    source: Path
    bounds: str = ""
    why: str = ""
    property: str = ""
    properties: tuple[str, ...] = ()
    distinct: int | None = None
    generated: int | None = None
    depth: int | None = None
    workers: int = 1
    deadlock: bool = False
    coverage: bool = False
    coverage_exempt: Mapping[str, str] = attrs.field(factory=dict)
    simulate: Simulation | None = None
    temporal: tuple[str, ...] = ()
    unfair_init: str = "Init"
    unfair_next: str = "Next"
    heap_mb: int | None = None
    timeout_s: float | None = None


@attrs.frozen
class Mutant:
    """One replacement in a protocol module, and the property that must notice it."""

    name: str
    module: str
    what: str
    find: str
    replace: str
    config: str
    killed_by: str
    tier: str
    source: Path
    heap_mb: int | None = None
    timeout_s: float | None = None


@attrs.frozen
class Diagram:
    """How a module's traces are drawn: see harness/modelcheck/diagram.py."""

    network: tuple[str, ...] = ()
    sender: tuple[str, ...] = ("from", "src", "sender")
    receiver: tuple[str, ...] = ("to", "dst", "dest", "receiver")
    kind: tuple[str, ...] = ("type", "kind", "t")
    lane_of_missing: str = "leader"


@attrs.frozen
class Suite:
    """Everything that can be run under one tla/ folder."""

    folder: Path
    configs: tuple[Config, ...]
    mutants: tuple[Mutant, ...]
    diagrams: Mapping[str, Diagram] = attrs.field(factory=dict)
    lint_exempt: Mapping[str, str] = attrs.field(factory=dict)

    def config(self, name: str) -> Config:
        """Look up a config.

        Raises:
            ModelCheckError: if there is none of that name.
        """
        for config in self.configs:
            if config.name == name:
                return config
        raise ModelCheckError(f"no config is named {name!r} in {self.folder / 'manifest'}")


def load_suite(folder: Path, modules: Collection[str] = ()) -> Suite:
    """Read and check the manifests and mutants below `folder`: all, or those of the named protocol modules.

    Raises:
        ModelCheckError: names the file, entry and field at fault.
    """
    if not (folder / "manifest").is_dir():
        raise ModelCheckError(f"{folder} has no manifest/ folder with *.toml files")
    configs: list[Config] = []
    diagrams: dict[str, Diagram] = {}
    lint_exempt: dict[str, str] = {}
    for path in _toml_files(folder / "manifest", modules):
        data = _read_toml(path)
        configs += [_config(entry, path) for entry in data.pop("config", [])]
        if "diagram" in data:
            diagrams[path.stem] = _build(Diagram, data.pop("diagram"), f"{path}: [diagram]")
        if "lint_exempt" in data:
            lint_exempt[path.stem] = str(data.pop("lint_exempt"))
        _refuse_unknown(data, path)
    mutants: list[Mutant] = []
    for path in _toml_files(folder / "mutants", modules):
        data = _read_toml(path)
        mutants += [_mutant(entry, path) for entry in data.pop("mutant", [])]
        _refuse_unknown(data, path)
    suite = Suite(folder, tuple(configs), tuple(mutants), diagrams, lint_exempt)
    _check_suite(suite, complete=not modules)
    return suite


def _toml_files(folder: Path, modules: Collection[str]) -> list[Path]:
    return [path for path in sorted(folder.glob("*.toml")) if not modules or path.stem in modules]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ModelCheckError(f"{path}: {error}") from None


def _refuse_unknown(data: Mapping[str, Any], path: Path) -> None:
    if data:
        raise ModelCheckError(f"{path}: unknown table {min(data)!r}")


def _config(entry: dict[str, Any], path: Path) -> Config:
    where = f"{path}: config {entry.get('name', '(without a name)')!r}"
    if "simulate" in entry:
        entry = {**entry, "simulate": _build(Simulation, entry["simulate"], f"{where}: simulate")}
    config: Config = _build(Config, {**entry, "source": path}, where)
    _one_of(config.tier, TIERS, f"{where}: tier")
    _one_of(config.kind, KINDS, f"{where}: kind")
    _one_of(config.expect, EXPECTATIONS, f"{where}: expect")
    if not config.bounds or not config.why:
        raise ModelCheckError(f"{where}: bounds and why must say what is bounded and why that is enough")
    if (config.expect == "violated") != bool(config.property):
        raise ModelCheckError(f"{where}: property must be given exactly when expect is 'violated'")
    if (config.kind == "simulation") != (config.simulate is not None):
        raise ModelCheckError(f"{where}: simulate must be given exactly when kind is 'simulation'")
    if config.kind == "liveness" and config.workers != 1:
        raise ModelCheckError(f"{where}: workers must be 1 for liveness, not {config.workers}")
    for action, reason in config.coverage_exempt.items():
        if not reason:
            raise ModelCheckError(f"{where}: coverage_exempt.{action} needs a reason")
    return config


def _mutant(entry: dict[str, Any], path: Path) -> Mutant:
    where = f"{path}: mutant {entry.get('name', '(without a name)')!r}"
    mutant: Mutant = _build(Mutant, {"module": path.stem, "tier": "quick", **entry, "source": path}, where)
    _one_of(mutant.tier, ("quick", "full"), f"{where}: tier")
    return mutant


def _build(kind: Any, entry: Mapping[str, Any], where: str) -> Any:
    fields = {a.name: a for a in attrs.fields(kind)}
    for key in entry:
        if key not in fields:
            raise ModelCheckError(f"{where}: unknown field {key!r}")
    for name, field in fields.items():
        if field.default is attrs.NOTHING and name not in entry:
            raise ModelCheckError(f"{where}: field {name!r} is missing")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()})


def _one_of(value: object, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise ModelCheckError(f"{where} is {value!r}, but must be one of {', '.join(allowed)}")


def _check_suite(suite: Suite, *, complete: bool) -> None:
    names: dict[str, Path] = {}
    for config in suite.configs:
        if config.name in names:
            raise ModelCheckError(f"{config.source}: config {config.name!r} is also in {names[config.name]}")
        names[config.name] = config.source
        _check_files(suite.folder, config)
    for path in sorted(suite.folder.glob("*.cfg")) if complete else ():
        if path.stem not in names and path.stem != "Canary":
            raise ModelCheckError(f"{path} is in no manifest: add it or delete it")
    seen: set[tuple[str, str]] = set()
    for mutant in suite.mutants:
        where = f"{mutant.source}: mutant {mutant.name!r}"
        if (mutant.module, mutant.name) in seen:
            raise ModelCheckError(f"{where} is there twice")
        seen.add((mutant.module, mutant.name))
        if mutant.config not in names:
            raise ModelCheckError(f"{where}: config {mutant.config!r} is in no manifest")
        if not (suite.folder / f"{mutant.module}.tla").is_file():
            raise ModelCheckError(f"{where}: there is no module {mutant.module}.tla")


def _check_files(folder: Path, config: Config) -> None:
    where = f"{config.source}: config {config.name!r}"
    for path in (folder / f"{config.module}.tla", folder / f"{config.name}.cfg"):
        if not path.is_file():
            raise ModelCheckError(f"{where}: there is no {path}")
    cfg = read_cfg(folder / f"{config.name}.cfg")
    checked = (*cfg.invariants, *cfg.properties)
    for name in (*config.properties, *config.temporal, config.property):
        if name and name != "Deadlock" and name not in checked:
            raise ModelCheckError(f"{where}: {name!r} is not an invariant or property of {config.name}.cfg")
    if config.expect == "violated" and config.property in cfg.properties and len(cfg.properties) > 1:
        raise ModelCheckError(f"{where}: a cfg that violates property {config.property!r} must list no other property")
    if config.kind == "liveness":
        if not cfg.properties:
            raise ModelCheckError(f"{where}: a liveness config needs a PROPERTY in {config.name}.cfg")
        for keyword in ("SYMMETRY", "VIEW", "CONSTRAINT", "ACTION_CONSTRAINT"):
            if cfg.has(keyword):
                raise ModelCheckError(f"{where}: {keyword} makes liveness checking wrong; bound by guards instead")
    if config.expect == "pass" and not checked:
        raise ModelCheckError(f"{where}: {config.name}.cfg checks nothing")
