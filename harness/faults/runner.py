"""One run: a cluster under a workload, faults by a schedule, everything healed, and a verdict.

The history is on disk before anything is checked, so a saved run can be checked again. A run that finds nothing must
also show that it looked: each kind of operation succeeded in each phase, every fault bit, actors moved.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from attrs import Factory, asdict, define, evolve, frozen

from callboard.core.slot_membership import NATIVE_LEVEL
from callboard.core.versions import Policy
from harness.faults.bounds import PROCESS_START_MS, convergence_ms
from harness.faults.checkers.convergence import convergence_figures
from harness.faults.checkers.tables import ENDING
from harness.faults.checkers.verdict import Verdict
from harness.faults.cluster import (
    ELECTION_MS,
    NAMESPACE,
    REGISTER,
    REGISTER_TIMES,
    SIDECARS,
    TIMES,
    ClusterSettings,
    FaultCluster,
)
from harness.faults.disk_faults import WATCHED
from harness.faults.figures import figures_of
from harness.faults.gates import FaultReport, gates_of
from harness.faults.history import History, Phase, Recorder, read_history
from harness.faults.managed import HostUnderTest
from harness.faults.nemeses import KINDS, FaultSpec, Nemesis, World, spec_of
from harness.faults.observers import Observers, collect
from harness.faults.pages.run import PAGE, run_page
from harness.faults.schedules import Schedule, load
from harness.faults.verdicts import judge, namespaces
from harness.faults.workloads import Habits, Workloads, operators
from harness.processes import REPOSITORY, ProcessError, wait_until

ALL_WORKLOADS = ("actors", "members", "lookups", "sidecars")
BEFORE_S = 6.0
AFTER_S = 6.0
BIT_DEADLINE_S = 75.0
SETTLE_DEADLINE_S = 120.0
JOIN_DEADLINE_S = 60.0
HISTORY = "history.jsonl"
RESULTS = "results.json"
SCHEDULE = "schedule.json"
INTERRUPTED = "the run was interrupted"
Say = Callable[[str], None]


@frozen
class RunSettings:
    """What a run is made of, besides its schedule."""

    directory: Path
    workloads: tuple[str, ...] = ALL_WORKLOADS
    cluster: ClusterSettings = Factory(ClusterSettings)
    before_s: float = BEFORE_S
    after_s: float = AFTER_S
    settle_s: float = SETTLE_DEADLINE_S
    habits: Habits = Factory(Habits)

    @classmethod
    def of(cls, directory: Path, schedule: Schedule) -> Self:
        """What a schedule asks for."""
        workloads = tuple(schedule.settings.get("workloads", ALL_WORKLOADS))
        return cls(directory, workloads, cluster_settings(schedule.settings))


@define
class RunReport:
    """The verdict on one run. `results` are of the checkers; `gates` say what the run failed to exercise."""

    schedule: Schedule
    directory: Path
    results: list[dict[str, Any]] = Factory(list)
    gates: list[str] = Factory(list)
    failures: list[str] = Factory(list)
    """What did not come back after the heal, or broke the run itself."""
    faults: list[FaultReport] = Factory(list)
    figures: dict[str, Any] = Factory(dict)

    @property
    def passed(self) -> bool:
        """Whether nothing was found, and everything was looked at."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """Everything that makes the run fail, one line each; empty exactly if it passed."""
        return [*self.findings, *self.failures, *self.gates] or ([] if self.results else ["nothing was checked"])

    @property
    def findings(self) -> list[str]:
        """Checkers whose verdict is not the expected one."""
        expected = set(self.schedule.expect)
        found = {str(result["checker"]) for result in self.results if result["verdict"] == Verdict.INVALID.value}
        if expected:  # a control: what else breaks with it does not matter
            return sorted(f"{name} should have found something" for name in expected - found)
        if self.failures:  # what did not come to an end leaves checkers with nothing to look at
            return sorted(found)
        return sorted({str(result["checker"]) for result in self.results if result["verdict"] != Verdict.VALID.value})

    @property
    def interrupted(self) -> bool:
        """Whether somebody ended the run before its end."""
        return INTERRUPTED in self.failures

    def write(self) -> None:
        """Leave it in the run's directory, for machines and as a page."""
        results = self.as_json()
        (self.directory / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
        page = run_page(results, read_history(self.directory / HISTORY), self.directory)
        (self.directory / PAGE).write_text(page)

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "passed": self.passed,
            "problems": self.problems,
            "schedule": self.schedule.as_json(),
            "results": self.results,
            "gates": self.gates,
            "failures": self.failures,
            "faults": [
                {**report.spec.as_json(), "hit": report.target, "proof": report.proof, "problem": report.problem}
                for report in self.faults
            ],
            "figures": self.figures,
        }


async def run(settings: RunSettings, schedule: Schedule, say: Say) -> RunReport:
    """One whole run. Leaves history.jsonl, results.json, schedule.json, a page and logs in its directory, also when it
    is cancelled or cannot be finished: then `failures` says so."""
    # Absolute: the processes of the run have working directories of their own.
    settings = evolve(settings, directory=settings.directory.absolute())
    settings.directory.mkdir(parents=True, exist_ok=True)
    if any(fault.kind in WATCHED for fault in schedule.faults):
        settings = evolve(settings, cluster=evolve(settings.cluster, witness=True))
    report = RunReport(schedule, settings.directory)
    schedule.save(settings.directory / SCHEDULE)
    path = settings.directory / HISTORY
    begun = time.monotonic()
    with Recorder(path) as recorder:
        recorder.settings(**history_settings(settings, schedule))
        try:
            await _Run(settings, schedule, recorder, report, say).go()
        except asyncio.CancelledError:
            report.failures.append(INTERRUPTED)
        except Exception as error:  # noqa: BLE001 - whatever ends a run, what it recorded is checked and kept
            report.failures.append(_unfinished(error))
            (settings.directory / "failure.txt").write_text("".join(traceback.format_exception(error)))
    report.figures["wall_s"] = round(time.monotonic() - begun, 1)
    say("checking the history")
    analyse(report, read_history(path), settings.workloads)
    report.write()
    if report.passed:
        drop_bulk(settings.directory)
    return report


def drop_bulk(directory: Path) -> None:
    """Remove what is large and says nothing of a run that passed: the files of etcd's members, whose logs are written
    64 MB at a time. What is checked and shown stays."""
    for data in directory.glob("etcd/*/member"):
        shutil.rmtree(data)


def _unfinished(error: Exception) -> str:
    notes = " ".join(getattr(error, "__notes__", ()))
    return f"the run could not be finished: {type(error).__name__}: {error} {notes}"[:2000]


def analyse(report: RunReport, history: History, workloads: Sequence[str]) -> None:
    """Verdicts and figures of a recorded history, and what it did not exercise."""
    report.results = results_of(history)
    report.figures |= figures_of(history) | {"convergence": convergence_figures(history, namespaces(history))}
    report.gates = [] if report.failures else gates_of(history, report.faults, workloads)


def reanalyse(path: Path) -> RunReport:
    """The report on a saved history, made anew; what only the run itself knew is taken from the files beside it. Raises
    HistoryError, ScheduleError."""
    history, directory = read_history(path), path.parent
    settings, stored = history.settings, directory / SCHEDULE
    faults = tuple(spec_of(entry, place) for place, entry in enumerate(settings.get("schedule", ()), start=1))
    schedule = (
        load(stored)
        if stored.exists()
        else Schedule(settings.get("seed", 0), settings.get("duration_s", 0.0), faults, path.stem)
    )
    report = RunReport(schedule, directory)
    results = directory / RESULTS
    if results.exists():
        kept = json.loads(results.read_text())
        report.failures = kept["failures"]
        report.figures = kept["figures"]
        report.faults = [_fault_report(entry, place) for place, entry in enumerate(kept["faults"], start=1)]
    else:
        report.faults = [
            FaultReport(
                FaultSpec(fault.kind, 0.0, 1.0, target=fault.target, parameters=fault.parameters),
                fault.target,
                fault.bit,
            )
            for fault in history.faults
        ]
        if stored.exists():
            report.failures = ["the run did not end: it left no results"]
    analyse(report, history, settings.get("workloads", ()))
    return report


def _fault_report(entry: dict[str, Any], place: int) -> FaultReport:
    fields = {name: value for name, value in entry.items() if name not in {"hit", "proof", "problem"}}
    return FaultReport(spec_of(fields, place), entry["hit"], entry["proof"], entry["problem"])


def results_of(history: History) -> list[dict[str, Any]]:
    """What all checkers say."""
    return [_result_as_json(result) for result in judge(history)]


def _result_as_json(result: Any) -> dict[str, Any]:
    return {
        "checker": result.checker,
        "verdict": result.verdict.value,
        "explanation": list(result.explanation),
        "figures": dict(result.figures),
    }


def history_settings(settings: RunSettings, schedule: Schedule) -> dict[str, Any]:
    """What a history says of its run: all that bounds are computed from, and what makes the run again."""
    cluster = settings.cluster
    barrier = {
        "policy": Policy.BARRIER.value,
        "disseminate_timeout_ms": cluster.disseminate_timeout_ms,
        "coalesce_ms": 0,
        "member_grace_ms": cluster.member_grace_ms,
    }
    return {
        "format": 1,
        "seed": schedule.seed,
        "engine": cluster.engine,
        "policy": cluster.policy.value,
        "replicas": cluster.replicas,
        "hosts": cluster.hosts,
        "clients": cluster.clients,
        "duration_s": schedule.duration_s,
        "workloads": list(settings.workloads),
        "schedule": [fault.as_json() for fault in schedule.faults],
        "commit": commit(),
        "election_ms": ELECTION_MS,
        "namespaces": {
            NAMESPACE: {"policy": cluster.policy.value, "slot_bits": cluster.slot_bits, **asdict(cluster.times)},
            REGISTER: {"policy": Policy.EVENTUAL.value, "slot_bits": 4, **asdict(REGISTER_TIMES)},
            SIDECARS: barrier,
        },
    }


def commit() -> str:
    """Of the working tree, as far as git knows."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


@define(eq=False)
class _Run:
    settings: RunSettings
    schedule: Schedule
    recorder: Recorder
    report: RunReport
    say: Say

    async def go(self) -> None:
        """From the first process to the last line of the history."""
        cluster = FaultCluster(self.settings.directory, self.settings.cluster)
        async with cluster:
            self.report.figures["toxiproxy"] = await cluster.network.version()
            world = World(cluster, self.recorder, random.Random(f"targets/{self.schedule.seed}"))
            settings, seed = self.settings, self.schedule.seed
            workloads = Workloads.of(settings.workloads, cluster, self.recorder, seed, settings.habits)
            observers = Observers(cluster, self.recorder)
            try:
                await self._phases(cluster, world, workloads, observers)
            finally:
                await workloads.abandon()
                await observers.stop()
                for host in cluster.hosts.values():
                    await host.kill()
                collect(cluster, self.recorder)

    async def _phases(self, cluster: FaultCluster, world: World, workloads: Workloads, observers: Observers) -> None:
        level = cluster.settings.feature_level
        if level is None or level >= NATIVE_LEVEL:
            await self._create_namespaces(cluster)
            observers.start([NAMESPACE, REGISTER])
        else:
            observers.start([])
        if "actors" in self.settings.workloads or "lookups" in self.settings.workloads:
            await self._start_hosts(cluster, world)
        await workloads.start()
        self.say("running without faults")
        self.recorder.enter(Phase.BEFORE)
        await self._run_for(self.settings.before_s, workloads)
        self.recorder.enter(Phase.DURING)
        await self._faults(world, workloads)
        self.say("healing")
        gone = [process.name for process in cluster.permanent() if not process.alive]
        await cluster.heal()
        for name in gone:
            world.note_process(name, "started")
        await cluster.wait_ready()
        self.recorder.note("healed")
        self.recorder.enter(Phase.AFTER)
        await self._settle(cluster, workloads)
        await self._run_for(self.settings.after_s, workloads)
        self.say("reading everything once more")
        await workloads.stop()
        if observers.versions:
            self.say("waiting for tables that have to arrive")
            kept = history_settings(self.settings, self.schedule)
            bound_ms = max(convergence_ms(kept, name) for name in (NAMESPACE, REGISTER)) + PROCESS_START_MS
            await observers.wait_arrived(self._hosts(cluster, workloads), bound_ms / 1000 + 1)
        self.recorder.note(ENDING)
        await observers.stop()
        await self._end_in_order(cluster)
        self.report.figures["versions"] = dict(observers.versions)

    async def _create_namespaces(self, cluster: FaultCluster) -> None:
        """Before anybody joins, so that observers see every version."""
        settings = cluster.settings
        channels, found = operators(cluster)
        await found[0].create_namespace(NAMESPACE, settings.policy, settings.slot_bits, settings.times)
        await found[0].create_namespace(REGISTER, Policy.EVENTUAL, 4, REGISTER_TIMES)
        for end in channels:
            await end.close()

    async def _start_hosts(self, cluster: FaultCluster, world: World) -> None:
        for host in cluster.first_hosts():
            host.start()
            world.note_process(host.name, "started")
        await self._wait_members(cluster)

    async def _wait_members(self, cluster: FaultCluster) -> None:
        """All first hosts are members, and nobody else."""
        wanted = {host.name for host in cluster.first_hosts()}

        async def joined() -> bool:
            for host in cluster.first_hosts():
                if not host.alive:
                    raise ProcessError(f"host {host.name} ended by itself\n{host.log_tail()}")
            with contextlib.suppress(Exception):
                leader = await cluster.leader(deadline_s=2)
                return {member.name for member in await leader.process.members(NAMESPACE)} == wanted
            return False

        await wait_until(joined, deadline_s=JOIN_DEADLINE_S, what=f"members {', '.join(sorted(wanted))}")

    async def _run_for(self, seconds: float, workloads: Workloads) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(0.2)
            self._check_harness(workloads)

    @staticmethod
    def _check_harness(workloads: Workloads) -> None:
        error = workloads.failed()
        if error is not None:
            raise RuntimeError(f"a workload died: {error!r}") from error

    async def _settle(self, cluster: FaultCluster, workloads: Workloads) -> None:
        """Everything works again. What does not within a generous time is a failure of the service."""
        self.say("waiting until everything works again")
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.settle_s):
                if cluster.first_hosts()[0].generation:
                    await self._wait_members(cluster)
                await workloads.settle()
        except TimeoutError as error:
            raise TimeoutError(f"after the heal not everything works again: {error or 'deadline'}") from None
        self.report.figures["settled_after_s"] = round(time.monotonic() - begun, 2)
        actors = workloads.by_name.get("actors")
        self.recorder.note(
            "settled",
            hosts=[host.name for host in self._hosts(cluster, workloads)],
            actors=actors.actors() if actors else [],
        )

    @staticmethod
    async def _end_in_order(cluster: FaultCluster) -> None:
        """By SIGTERM, hosts before replicas: whoever has tasks or connections left then says so in its log."""
        for processes in (cluster.hosts.values(), cluster.replicas.values()):
            await asyncio.gather(*(process.terminate() for process in processes if process.alive))

    @staticmethod
    def _hosts(cluster: FaultCluster, workloads: Workloads) -> list[HostUnderTest]:
        """Those that have to have every table in the end."""
        return cluster.first_hosts() if "actors" in workloads.by_name else []

    # -- faults ------------------------------------------------------------------------------------------

    async def _faults(self, world: World, workloads: Workloads) -> None:
        begun = asyncio.get_running_loop().time()
        lanes: dict[str, list[FaultSpec]] = {}
        for spec in self.schedule.faults:
            lanes.setdefault(spec.lane, []).append(spec)
        running = [asyncio.ensure_future(self._lane(specs, world, begun)) for specs in lanes.values()]
        try:
            await self._run_for(self.schedule.duration_s, workloads)
            await asyncio.gather(*running)
        finally:
            for lane in running:
                lane.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _lane(self, specs: Sequence[FaultSpec], world: World, begun: float) -> None:
        for spec in specs:
            await asyncio.sleep(max(0.0, begun + spec.at_s - asyncio.get_running_loop().time()))
            await self._fault(spec, world)

    async def _fault(self, spec: FaultSpec, world: World) -> None:
        nemesis, report = KINDS[spec.kind](spec), FaultReport(spec)
        self.report.faults.append(report)
        report.target = await nemesis.resolve(world)
        if not report.target:
            report.problem = "nobody was there to be hit"
            return
        number = self.recorder.fault_begins(spec.kind, report.target, **spec.parameters)
        self.say(f"{spec.kind}: {report.target}")
        begun = asyncio.get_running_loop().time()
        try:
            await nemesis.inject(world)
            report.proof = await self._proof(nemesis, world, report)
            if report.proof:
                self.recorder.fault_bit(number, report.proof)
            await asyncio.sleep(max(0.0, begun + spec.duration_s - asyncio.get_running_loop().time()))
        finally:
            await nemesis.heal(world)
            self.recorder.fault_ends(number)
            self.say(f"{spec.kind} is over")

    @staticmethod
    async def _proof(nemesis: Nemesis, world: World, report: FaultReport) -> str:
        try:
            async with asyncio.timeout(BIT_DEADLINE_S):
                proof = await nemesis.bit(world)
                report.problem = "" if proof else getattr(nemesis, "problem", "")
                return proof
        except (TimeoutError, ProcessError) as error:
            report.problem = str(error)[:500]
            return ""


def cluster_settings(options: dict[str, Any]) -> ClusterSettings:
    """From options of the command line, or of a stored schedule."""
    settings = ClusterSettings(
        engine=str(options.get("engine", "pysyncobj")),
        replicas=int(options.get("replicas", 3)),
        hosts=int(options.get("hosts", 3)),
        policy=Policy(options.get("policy", Policy.EXCLUSIVE.value)),
        times=evolve(TIMES, **options.get("times", {})),
        feature_level=options.get("feature_level"),
    )
    return evolve(settings, replicas=1) if settings.engine == "memory" else settings
