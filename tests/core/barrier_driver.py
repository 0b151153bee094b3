"""Plays transcripts: commands to a barrier machine, each with everything that it answered.

A transcript is a text file of blocks, apart by empty lines: comment lines (#), one or more commands, a line `----`, the
output. Members live in the real replicated state machine, so incarnations and versions are those of a cluster.

    settings coalesce_ms=100          before `start`; `auto-write off` makes orders wait for `wrote`
    start NAME:TYPES ...              take office over these members (a:T1,T2)
    open ID NAME:TYPES [op=UNKNOWN] [version=3] [app=other]
    say ID op=UPDATE version=3        a later message; `say ID op=REPORT types=T1` reports (`types=` for none)
    beat ID                           an old sidecar repeats its last report
    ack all|ID,ID lock 3              acknowledge by operation and version
    wrote ID lock 3                   the order left the process
    closed ID                         the stream ended
    commit | fail retry | fail refused   the answer to the batch in flight; `commit` applies it
    elsewhere remove NAME | elsewhere put NAME:TYPES   change the replicated state by other means; `tell` reports it
    wait 500                          let so many milliseconds pass, then tick
    status | deadline                 print them
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import evolve

from callboard.core.barrier import BarrierNamespace
from callboard.core.barrier_records import (
    BarrierSettings,
    BatchCommitted,
    BatchFailed,
    CloseStream,
    Effect,
    Event,
    HostOperation,
    MessageReceived,
    OrderWritten,
    Phase,
    ProposeBatch,
    RoundFinished,
    SendOrder,
    SidecarReport,
    Started,
    StreamClosed,
    StreamOpened,
    TablesChanged,
    Tick,
)
from callboard.core.commands import Removal
from callboard.core.records import HostRecord
from harness.barrier_log import BarrierLog


def types_of(text: str) -> tuple[str, ...]:
    """The actor types in `T1,T2`."""
    return tuple(sorted(set(filter(None, text.split(",")))))


class TranscriptPlayer:
    """One machine, and the commands that a transcript gives it."""

    def __init__(self) -> None:
        self.settings = BarrierSettings()
        self.membership = BarrierLog()
        self.machine = BarrierNamespace(self.settings)
        self.now_ms = 0
        self.auto_write = True
        self.reports: dict[int, SidecarReport] = {}
        self.batch: ProposeBatch | None = None
        self.output: list[str] = []

    def play(self, line: str) -> None:
        """Carry out one command."""
        word, *arguments = line.split()
        command: Callable[..., None] = getattr(self, "do_" + word.replace("-", "_"))
        command(*arguments)

    def handle(self, event: Event) -> None:
        for effect in self.machine.handle(event, self.now_ms):
            self.output.append(self.describe(effect))
            if isinstance(effect, ProposeBatch):
                self.batch = effect
            elif isinstance(effect, CloseStream):
                self.reports.pop(effect.stream_id, None)
            elif isinstance(effect, SendOrder) and self.auto_write:
                self.handle(OrderWritten(effect.stream_id, effect.phase, effect.version))

    def describe(self, effect: Effect) -> str:
        match effect:
            case ProposeBatch(batch_id, upserts, removals):
                items = [f"put {host.name}:{','.join(host.actor_types)}" for host in upserts]
                items += [f"remove {removal.name}#{removal.incarnation}" for removal in removals]
                return f"propose {batch_id}: {'; '.join(items)}"
            case SendOrder(stream_id, phase, version):
                table = ""
                if phase is Phase.UPDATE:
                    members = self.machine.members_at(version).values()
                    hosts = [f"{member.name}:{','.join(member.host.actor_types)}" for member in members]
                    table = f" {' '.join(hosts) or '(nobody)'}"
                return f"send {stream_id}: {phase} {version}{table}"
            case CloseStream(stream_id, status, text):
                return f"close {stream_id}: {status}: {text}"
            case RoundFinished(version, (lock_ms, update_ms, unlock_ms), streams, cut):
                lost = f", cut {', '.join(map(str, cut))}" if cut else ""
                return f"round {version} finished: {streams} streams, {lock_ms}+{update_ms}+{unlock_ms} ms{lost}"

    def do_settings(self, *pairs: str) -> None:
        values = {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs)}
        self.settings = evolve(self.settings, **values)
        self.machine = BarrierNamespace(self.settings)

    def do_auto_write(self, switch: str) -> None:
        self.auto_write = switch == "on"

    def do_start(self, *members: str) -> None:
        if members:
            self.membership.change(tuple(self._host(text) for text in members), ())
        namespace = self.membership.namespace
        self.handle(Started(namespace.version, namespace.members))

    def _host(self, text: str) -> HostRecord:
        name, _, types = text.partition(":")
        return HostRecord(name, f"app-{name}", types_of(types))

    def do_open(self, stream_id: str, host: str, *options: str) -> None:
        record = self._host(host)
        report = SidecarReport(record.name, record.app_id, record.actor_types)
        report = self._with(report, options)
        self.reports[int(stream_id)] = report
        self.handle(StreamOpened(int(stream_id), report))

    def _with(self, report: SidecarReport, options: tuple[str, ...]) -> SidecarReport:
        for key, _, value in (option.partition("=") for option in options):
            if key == "op":
                report = evolve(report, operation=HostOperation[value])
            elif key == "version":
                report = evolve(report, version=int(value))
            elif key == "types":
                report = evolve(report, actor_types=types_of(value))
            elif key == "app":
                report = evolve(report, app_id=value)
            elif key == "name":
                report = evolve(report, name=value)
            else:
                raise ValueError(f"unknown option {key}")
        return report

    def do_say(self, stream_id: str, *options: str) -> None:
        report = self._with(evolve(self.reports[int(stream_id)], version=None), options)
        if report.operation in {HostOperation.UNKNOWN, HostOperation.REPORT}:
            self.reports[int(stream_id)] = report
        else:
            report = SidecarReport("", "", (), 0, report.operation, report.version)
        self.handle(MessageReceived(int(stream_id), report))

    def do_beat(self, stream_id: str) -> None:
        self.do_say(stream_id)

    def do_ack(self, who: str, phase: str, version: str) -> None:
        for stream_id in sorted(self.reports) if who == "all" else [int(text) for text in who.split(",")]:
            report = SidecarReport("", "", (), 0, HostOperation[phase.upper()], int(version))
            self.handle(MessageReceived(stream_id, report))

    def do_wrote(self, stream_id: str, phase: str, version: str) -> None:
        self.handle(OrderWritten(int(stream_id), Phase(phase), int(version)))

    def do_closed(self, stream_id: str) -> None:
        self.reports.pop(int(stream_id), None)
        self.handle(StreamClosed(int(stream_id)))

    def do_commit(self) -> None:
        assert self.batch is not None
        batch, self.batch = self.batch, None
        namespace = self.membership.change(batch.upserts, batch.removals)
        self.handle(BatchCommitted(batch.batch_id, namespace.version, namespace.members))

    def do_fail(self, how: str) -> None:
        assert self.batch is not None
        batch, self.batch = self.batch, None
        self.handle(BatchFailed(batch.batch_id, retry=how == "retry"))

    def do_elsewhere(self, what: str, name: str) -> None:
        if what == "remove":
            removal = Removal(name, self.membership.namespace.members[name].incarnation)
            self.membership.change((), (removal,))
        else:
            self.membership.change((self._host(name),), ())

    def do_tell(self) -> None:
        namespace = self.membership.namespace
        self.handle(TablesChanged(namespace.version, namespace.members))

    def do_wait(self, milliseconds: str) -> None:
        self.now_ms += int(milliseconds)
        self.handle(Tick())

    def do_deadline(self) -> None:
        self.output.append(f"next deadline {self.machine.next_deadline_ms()}, now {self.now_ms}")

    def do_status(self) -> None:
        status = self.machine.status()
        self.output.append(
            f"version {status.version}, members {status.members}, streams {status.streams}, with actors "
            f"{status.actor_streams}, queued {status.queued_streams}, changes {status.changes_waiting}, phase "
            f"{status.phase}, waiting for {' '.join(status.waiting_for) or 'nobody'}"
        )


def replay(path: Path) -> str:
    """The transcript with the output that the machine gives now."""
    player = TranscriptPlayer()
    blocks = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        kept = block.split("\n----")[0].split("\n")
        for line in kept:
            if line and not line.startswith("#"):
                player.play(line)
        output, player.output = player.output, []
        blocks.append("\n".join([*kept, "----", *output]) if any(not line.startswith("#") for line in kept) else block)
    return "\n\n".join(blocks) + "\n"
