"""Turning the manifest into runs: configs, liveness models without their fairness, mutants, and the canary."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import attrs

from harness.modelcheck.cfgfile import Cfg, read_cfg
from harness.modelcheck.errors import ModelCheckError
from harness.modelcheck.manifest import Config, Mutant, Suite
from harness.modelcheck.tlc import Job, Run
from harness.modelcheck.verdict import Verdict, judge, judge_violation

_HEAP_MB = {"quick": 1536, "full": 3072, "simulation": 1536}
_TIMEOUT_S = {"quick": 300.0, "full": 2400.0, "simulation": 1200.0}
CANARY = "Canary"


@attrs.frozen
class Task:
    """One row of the table to come: a job for TLC and how to judge its run."""

    category: str  # "canary", "config", "unfair" or "mutant"
    module: str
    name: str
    checks: str
    expected: str
    job: Job
    judge: Callable[[Run], Verdict]
    cost: int = 0
    bounds: str = ""


def plan(suite: Suite, *, tiers: frozenset[str], only: str | None, timeout_factor: float = 1.0) -> list[Task]:
    """All tasks of these tiers whose name, `Module/name` or module matches `only` (a glob).

    Those for several cores come first, then the dearest.

    Raises:
        ModelCheckError: when a mutant does not apply exactly once, names a property that its config does not
            check, or nothing matches.
    """
    pattern = only or "*"
    tasks: list[Task] = []
    for config in suite.configs:
        if config.tier not in tiers:
            continue
        candidates = [config_task(suite, config, timeout_factor)]
        if config.kind == "liveness" and config.expect == "pass":
            candidates += _unfair_tasks(suite, config, timeout_factor)
        tasks += [task for task in candidates if _matches(task.module, task.name, pattern)]
    tasks += [
        mutant_task(suite, mutant, timeout_factor)
        for mutant in suite.mutants
        if mutant.tier in tiers and _matches(mutant.module, mutant.name, pattern)
    ]
    if not tasks:
        raise ModelCheckError(f"nothing to run for tier {'+'.join(sorted(tiers))} and --only {pattern}")
    # Those that need several cores come first: later they would keep a core idle while they wait for another.
    return sorted(tasks, key=lambda t: (-t.job.workers, -t.cost))


def _matches(module: str, name: str, pattern: str) -> bool:
    """Whether a glob names this task, by its name, its module, or both with a slash between."""
    return any(fnmatchcase(text, pattern) for text in (name, module, f"{module}/{name}"))


def canary_task(suite: Suite) -> Task:
    """A spec with a known violation: if TLC calls it right, no other result of this installation can be trusted.

    Raises:
        ModelCheckError: when its files are missing.
    """
    for suffix in (".tla", ".cfg"):
        path = suite.folder / f"{CANARY}{suffix}"
        if not path.is_file():
            raise ModelCheckError(f"the canary {path} is missing")
    cfg = read_cfg(suite.folder / f"{CANARY}.cfg")
    expected = cfg.invariants[0]
    job = Job(CANARY, suite.folder, CANARY, cfg.render(), coverage=True, short=True, heap_mb=512, timeout_s=120)
    return Task(
        category="canary",
        module=CANARY,
        name=CANARY,
        checks=expected,
        expected=f"violated: {expected}",
        job=job,
        judge=lambda run: judge_violation(expected, cfg, run),
    )


def config_task(suite: Suite, config: Config, timeout_factor: float = 1.0) -> Task:
    """The task of one config."""
    cfg = read_cfg(suite.folder / f"{config.name}.cfg")
    checks = config.properties or (*cfg.invariants, *cfg.properties)
    return Task(
        category="config",
        module=protocol_module(config),
        name=config.name,
        checks=", ".join(checks) or config.property,
        expected="pass" if config.expect == "pass" else f"violated: {config.property}",
        job=_job(suite, config, cfg, timeout_factor),
        judge=lambda run: judge(config, cfg, run),
        cost=config.generated or 0,
        bounds=config.bounds,
    )


def protocol_module(config: Config) -> str:
    """The protocol module that a config is about: its manifest is named after it."""
    return config.source.stem


def _job(suite: Suite, config: Config, cfg: Cfg, timeout_factor: float) -> Job:
    return Job(
        label=config.name,
        folder=suite.folder,
        module=config.module,
        cfg_text=cfg.render(),
        workers=config.workers,
        deadlock=config.deadlock,
        coverage=config.coverage,
        simulate=config.simulate,
        short=config.tier == "quick",
        heap_mb=config.heap_mb or _HEAP_MB[config.tier],
        timeout_s=(config.timeout_s or _TIMEOUT_S[config.tier]) * timeout_factor,
    )


def _unfair_tasks(suite: Suite, config: Config, timeout_factor: float) -> list[Task]:
    """A liveness property that holds without fairness says nothing about progress: each must fail without it."""
    cfg = read_cfg(suite.folder / f"{config.name}.cfg")
    bare = cfg.without_fairness(config.unfair_init, config.unfair_next)
    tasks = []
    for name in config.temporal or cfg.properties:
        narrowed = bare.checking_only(name)
        job = attrs.evolve(
            _job(suite, config, narrowed, timeout_factor), label=f"{config.name}.unfair.{name}", coverage=False
        )
        tasks.append(
            Task(
                category="unfair",
                module=protocol_module(config),
                name=f"{config.name} without fairness",
                checks=name,
                expected=f"violated: {name}",
                job=job,
                judge=_violation_judge(name, narrowed),
                cost=(config.generated or 0) // 2,
                bounds=config.bounds,
            )
        )
    return tasks


def _violation_judge(name: str, cfg: Cfg) -> Callable[[Run], Verdict]:
    return lambda run: judge_violation(name, cfg, run)


def mutant_task(suite: Suite, mutant: Mutant, timeout_factor: float = 1.0) -> Task:
    """The task of one mutant: its config on the changed module, checking only the property that is to kill it."""
    where = f"{mutant.source}: mutant {mutant.name!r}"
    config = suite.config(mutant.config)
    try:
        cfg = read_cfg(suite.folder / f"{config.name}.cfg").checking_only(mutant.killed_by)
    except KeyError:
        raise ModelCheckError(f"{where}: {config.name}.cfg does not check {mutant.killed_by!r}") from None
    file_name = f"{mutant.module}.tla"
    changed = mutate((suite.folder / file_name).read_text(encoding="utf-8"), mutant, where)
    heap_mb = mutant.heap_mb or config.heap_mb or _HEAP_MB[mutant.tier]
    timeout_s = (mutant.timeout_s or config.timeout_s or _TIMEOUT_S[mutant.tier]) * timeout_factor
    job = attrs.evolve(
        _job(suite, config, cfg, timeout_factor),
        label=f"{mutant.module}.mutant.{mutant.name}",
        overlay={file_name: changed},
        coverage=False,
        short=mutant.tier == "quick",
        heap_mb=heap_mb,
        timeout_s=timeout_s,
    )
    return Task(
        category="mutant",
        module=mutant.module,
        name=mutant.name,
        checks=mutant.killed_by,
        expected=f"violated: {mutant.killed_by}",
        job=job,
        judge=lambda run: judge_violation(mutant.killed_by, cfg, run),
        cost=(config.generated or 0) // 4,
        bounds=f"on {config.name}",
    )


def mutate(text: str, mutant: Mutant, where: str) -> str:
    """Replace the one occurrence of the mutant's text.

    Raises:
        ModelCheckError: when the text occurs not at all or more than once, or the replacement changes nothing.
    """
    count = text.count(mutant.find)
    if count != 1:
        raise ModelCheckError(f"{where}: its text to find occurs {count} times in {mutant.module}.tla, must be once")
    if mutant.find == mutant.replace:
        raise ModelCheckError(f"{where}: find and replace are the same")
    return text.replace(mutant.find, mutant.replace)


def output_path(build: Path, task: Task) -> Path:
    """Where TLC's own output of a task is kept."""
    return build / f"{task.job.label}.out"
