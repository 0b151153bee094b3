"""One run of TLC in a private folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from harness.modelcheck.manifest import Simulation
from harness.modelcheck.messages import Output, last_progress, parse_output
from harness.modelcheck.tools import Tools

_POLL_S = 0.1
_TAIL_BYTES = 16_384


@attrs.frozen
class Job:
    """What to give to TLC. `overlay` replaces files of the specification's folder (file name to text)."""

    label: str
    folder: Path
    module: str
    cfg_text: str
    workers: int = 1
    deadlock: bool = False
    coverage: bool = False
    simulate: Simulation | None = None
    overlay: Mapping[str, str] = attrs.field(factory=dict)
    short: bool = False  # takes seconds: the JVM's optimising compiler would cost more than it gains
    heap_mb: int = 3072
    timeout_s: float = 600.0
    dump: Path | None = None  # where to write the graph of all states, in Graphviz's form with names of actions


@attrs.frozen
class Run:
    """What came out of a job."""

    exit_code: int | None  # None: timed out or stopped
    seconds: float
    output: Output
    output_file: Path


class Stop:
    """Lets one thread end all running jobs."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End every job that was started with this object."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Wait; True when the jobs are to end."""
        return self._event.wait(seconds)


def run_tlc(
    job: Job,
    tools: Tools,
    output_file: Path,
    stop: Stop,
    progress: Callable[[int, int], None] = lambda _generated, _distinct: None,
) -> Run:
    """Run TLC to its end or timeout, keeping its output in `output_file`.

    The modules are copied into a fresh folder, which also holds TLC's metadata and the standard modules that it
    unpacks: two runs that start in the same second would otherwise collide. The folder is deleted afterwards.
    """
    output_file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="callboard-tlc-") as name:
        folder = Path(name)
        command = _prepare(job, tools, folder)
        started = time.monotonic()
        with output_file.open("wb") as sink:
            process = subprocess.Popen(
                command, cwd=folder / "spec", stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                exit_code = _wait(process, started + job.timeout_s, stop, output_file, progress)
            finally:
                _end(process)
        seconds = time.monotonic() - started
    return Run(exit_code, seconds, parse_output(output_file.read_text(encoding="utf-8", errors="replace")), output_file)


def _prepare(job: Job, tools: Tools, folder: Path) -> list[str]:
    spec = folder / "spec"
    spec.mkdir()
    for path in job.folder.glob("*.tla"):
        shutil.copy(path, spec / path.name)
    for file_name, text in job.overlay.items():
        (spec / file_name).write_text(text, encoding="utf-8")
    (spec / "Run.cfg").write_text(job.cfg_text, encoding="utf-8")
    (folder / "meta").mkdir()
    (folder / "tmp").mkdir()
    return [
        str(tools.java),
        "-XX:+UseSerialGC",
        *(["-XX:TieredStopAtLevel=1"] if job.short else []),
        f"-Xmx{job.heap_mb}m",
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        "-cp",
        str(tools.jar),
        "tlc2.TLC",
        *_options(job),
        "-metadir",
        str(folder / "meta"),
        "-config",
        "Run.cfg",
        f"{job.module}.tla",
    ]


def _options(job: Job) -> list[str]:
    # The fingerprint function is fixed so that two runs of the same model are the same run.
    options = ["-tool", "-nowarning", "-checkpoint", "0", "-fp", "0", "-workers", str(job.workers)]
    if job.simulate is None:
        options += ["-lncheck", "final"]
    else:
        simulate = job.simulate
        options += ["-simulate", f"num={simulate.num}", "-depth", str(simulate.depth), "-seed", str(simulate.seed)]
    if not job.deadlock:
        options.append("-deadlock")  # in TLC this switches the check off
    if job.coverage:
        options += ["-coverage", "1"]
    if job.dump is not None:
        options += ["-dump", "dot,actionlabels", str(job.dump)]
    return options


def _wait(
    process: subprocess.Popen[bytes],
    deadline: float,
    stop: Stop,
    output_file: Path,
    progress: Callable[[int, int], None],
) -> int | None:
    while process.poll() is None:
        if time.monotonic() > deadline or stop.wait(_POLL_S):
            return None
        counts = last_progress(_tail(output_file))
        if counts is not None:
            progress(*counts)
    return process.returncode


def _tail(path: Path) -> str:
    with path.open("rb") as source:
        source.seek(0, os.SEEK_END)
        source.seek(max(0, source.tell() - _TAIL_BYTES))
        return source.read().decode("utf-8", errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
