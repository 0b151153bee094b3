"""The lint finds each way in which a module can let knowledge travel without a message."""

from __future__ import annotations

import pytest

from harness.modelcheck.lint import lint_text

GOOD = r"""
---- MODULE Good ----
VARIABLES
  \* @owner: server
  table, epoch,    \* several on a line
  \* @owner: host
  installed,
  msgs,            \* @owner: network
  budget,          \* @owner: environment
  \* @owner: ghost
  history

(* installed may be named in comments, and "installed" in strings. *)
Init == table = 0

Send(m) == msgs' = msgs \cup {m}

Newest == table + epoch

\* Prose may stand above the mark.
\* @actor: server
Publish(h) ==
  /\ Newest > 1
  /\ Send([to |-> h, installed |-> Newest, kind |-> "installed"])
  /\ history' = [history EXCEPT ![h] =
                   installed[h]]
  /\ UNCHANGED <<installed, epoch>>

\* @actor: host h
Install(h) ==
  /\ \E m \in msgs : m.to = h /\ installed' = [installed EXCEPT ![h] = m.installed]
  /\ installed[h] < 2
  /\ UNCHANGED table

\* @actor: environment
Crash(h) ==
  /\ budget > 0
  /\ budget' = budget - 1
  /\ installed' = [installed EXCEPT ![h] = table]

Next ==
  \/ \E h \in Hosts : Publish(h) \/ Install(h)
  \/ Crash(1)
====
"""


def faults_after(old: str, new: str) -> list[str]:
    assert GOOD.count(old) == 1
    return list(lint_text(GOOD.replace(old, new), "Good.tla").faults)


def test_a_good_module_has_no_faults() -> None:
    report = lint_text(GOOD, "Good.tla")
    assert report.faults == ()
    assert report.allowed == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "/\\ Newest > 1",
            "/\\ installed[h] > 1",
            "action Publish of server mentions installed, which belongs to host",
        ),
        ("Newest == table + epoch", "Newest == installed[1]", "mentions installed, which belongs to host (in Newest)"),
        ("installed |-> Newest,", "installed |-> installed[h],", "mentions installed, which belongs to host"),
        ("/\\ installed[h] < 2", "/\\ installed[h] < table", "action Install of host mentions table"),
        ("/\\ installed[h] < 2", "/\\ \\E g \\in Hosts : installed[g] < 2", "uses installed at g, not at its own h"),
        ("/\\ installed[h] < 2", "/\\ installed = 2", "uses installed as a whole, not at its own h"),
        ("/\\ installed[h] < 2", "/\\ history[h] < 2", "reads the ghost variable history outside an assignment"),
        ("/\\ installed[h] < 2", "/\\ budget < 2", "mentions budget, which belongs to environment"),
        ("/\\ budget > 0", "/\\ history[1] > 0", "reads the ghost variable history"),
        ("![h] = m.installed]", "![1] = m.installed]", "uses installed at 1, not at its own h"),
        ("\\* @actor: environment", "\\* @actor: server, host", "a server and a host cannot act in one step"),
        ("\\* @actor: environment\n", "", "action Crash has no @actor"),
        ("\\* @actor: host h", "\\* @actor: host g", "g is not a parameter"),
        ("  \\* @owner: server\n", "", "variable table has no @owner"),
    ],
)
def test_a_seeded_fault_is_named(old: str, new: str, message: str) -> None:
    assert any(message in fault for fault in faults_after(old, new)), faults_after(old, new)


def test_an_excused_line_is_reported_with_its_reason() -> None:
    text = GOOD.replace("/\\ installed[h] < 2", "/\\ installed[h] < table \\* @lint-ok: both are constants here")
    report = lint_text(text, "Good.tla")
    assert report.faults == ()
    assert len(report.allowed) == 1
    assert report.allowed[0].endswith("both are constants here")


def test_a_module_without_marks_is_not_passed_silently() -> None:
    assert lint_text("---- MODULE Bare ----\nInit == TRUE\n====", "Bare.tla").faults
