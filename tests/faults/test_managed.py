"""Ends of processes that nobody asked for are noticed, whatever hides them; those that were asked for are not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness.faults.managed import Ended, HostUnderTest
from harness.processes import wait_until

PROGRAM = """
import signal, sys, time
if sys.argv[1] == "--name=ends":
    sys.exit(7)
time.sleep(600)
"""


def host(tmp_path: Path, name: str) -> HostUnderTest:
    """A process that ends at once if it is called "ends", and runs otherwise."""
    (tmp_path / "program.py").write_text(PROGRAM)
    made = HostUnderTest(name, 1, tmp_path, {}, ("program",))
    made.environment = {"PYTHONPATH": str(tmp_path)}
    return made


async def ended(process: HostUnderTest) -> None:
    async def is_over() -> bool:
        return process.exit_code is not None

    await wait_until(is_over, deadline_s=30, what="the end of the process")


@pytest.mark.parametrize("hidden_by", ["nothing", "start", "kill"])
async def test_an_end_that_nobody_asked_for_is_told_once(hidden_by: str, tmp_path: Path) -> None:
    process = host(tmp_path, "ends")
    process.start()
    await ended(process)
    if hidden_by == "start":
        process.start()
        await ended(process)
    elif hidden_by == "kill":
        await process.kill()
    assert process.take_unasked() == (Ended(7, expected=False),) * (2 if hidden_by == "start" else 1)
    assert process.take_unasked() == ()


async def test_an_end_that_a_fault_brings_is_expected(tmp_path: Path) -> None:
    process = host(tmp_path, "ends")
    process.may_end = True
    process.start()
    await ended(process)
    assert process.take_unasked() == (Ended(7, expected=True),)


async def test_ends_that_were_asked_for_are_not_told(tmp_path: Path) -> None:
    process = host(tmp_path, "runs")
    process.start()
    await process.kill()
    process.start()
    await process.terminate()
    process.start()
    process.condemn(leaving=True)
    os.kill(process.pid, signal.SIGKILL)
    await ended(process)
    assert process.take_unasked() == ()
    process.start()
    os.kill(process.pid, signal.SIGKILL)
    await ended(process)
    assert process.take_unasked() == (Ended(-signal.SIGKILL, expected=False),)
