"""Reading what TLC prints: messages, values, configurations; and judging it."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from harness.modelcheck.cfgfile import parse_cfg
from harness.modelcheck.diagram import arrows_of, draw
from harness.modelcheck.explain import steps_of
from harness.modelcheck.manifest import Config, Diagram, load_suite
from harness.modelcheck.messages import Output, TraceState, last_progress, parse_output, variables_of
from harness.modelcheck.tlc import Run
from harness.modelcheck.values import differences, parse_value, show
from harness.modelcheck.verdict import judge, judge_violation

CFG = parse_cfg("SPECIFICATION Spec\nINVARIANT Bounded\nPROPERTY Steps\n")


def message(code: int, text: str, severity: int = 0) -> str:
    return f"@!@!@STARTMSG {code}:{severity} @!@!@\n{text}\n@!@!@ENDMSG {code} @!@!@\n"


VIOLATION = "".join(
    [
        message(2110, "Invariant Bounded is violated.", 1),
        message(2121, "The behavior up to this point is:", 1),
        message(2217, "1: <Initial predicate>\n/\\ count = 0\n/\\ wire = {}\n", 4),
        message(
            2217, '2: <Send line 3, col 1 to line 4, col 5 of module M>\n/\\ count = 0\n/\\ wire = {[to |-> "h"]}\n', 4
        ),
        message(2199, "13 states generated, 9 distinct states found, 2 states left on queue."),
        message(2194, "The depth of the complete state graph search is 2."),
    ]
)


def run(exit_code: int | None, output: Output) -> Run:
    return Run(exit_code, 1.0, output, Path("out"))


def test_a_violation_is_read_with_its_trace_and_counts() -> None:
    output = parse_output("TLC prose\n" + VIOLATION)
    assert output.violated == "Bounded"
    assert (output.generated, output.distinct, output.depth) == (13, 9, 2)
    assert [(s.number, s.action) for s in output.trace] == [(1, "Initial predicate"), (2, "Send")]
    assert output.trace[1].variables == {"count": "0", "wire": '{[to |-> "h"]}'}
    assert output.errors == []


def test_a_violation_of_the_initial_predicate_keeps_its_state() -> None:
    output = parse_output(message(2107, "Invariant Bounded is violated by the initial state:\ncount = 7\n", 1))
    assert output.violated == "Bounded"
    assert output.trace[0].variables == {"count": "7"}


def test_only_the_last_coverage_block_counts_and_places_are_added_up() -> None:
    first = message(2201, "Coverage") + message(2772, "<Send line 1, col 1 to line 1, col 4 of module M>: 0:0")
    last = (
        message(2201, "Coverage")
        + message(2772, "<Send line 1, col 1 to line 1, col 4 of module M>: 0:2")
        + message(2772, "<Send line 9, col 1 to line 9, col 4 of module M (2 3 4 5)>: 1:3")
        + message(2772, "<Skip line 5, col 1 to line 5, col 4 of module M>: 0:0")
    )
    assert parse_output(first + last).coverage == {"Send": 5, "Skip": 0}


def test_errors_of_the_checker_are_collected() -> None:
    output = parse_output(message(1000, "Out of\nmemory", 2) + message(2193, "No error"))
    assert output.errors == ["1000: Out of memory"]


def test_progress_is_the_newest_one() -> None:
    early = message(2200, "Progress(3) at 2026-01-31 12:00:00: 90 states generated, 40 distinct states found, 1 left")
    late = message(2200, "Progress(9) at 2026-01-31 12:01:00: 1,900 states generated (5 s/min), 1,040 distinct states")
    assert last_progress(early + late) == (1900, 1040)
    assert last_progress("nothing yet") is None


def test_a_value_over_several_lines_is_one_value() -> None:
    assert variables_of("/\\ a = (1 :> {} @@\n  2 :> {3})\n/\\ b = 1") == {"a": "(1 :> {} @@ 2 :> {3})", "b": "1"}


@pytest.mark.parametrize(
    "text",
    ["-1", '"a b"', "TRUE", "r1", "<<>>", "{}", '<<1, "x">>', "{<<1>>, {2}}", "[a: 1, b: {}]"],
)
def test_values_are_shown_as_they_were_read(text: str) -> None:
    assert show(parse_value(text.replace(":", " |->"))) == text


def test_functions_and_intervals_are_read() -> None:
    assert show(parse_value("(1 :> {} @@ h1 :> 2..4)")) == "[1: {}, h1: {2, 3, 4}]"


@pytest.mark.parametrize("text", ["", "]", "<<1", "[a |->", "1 2"])
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"value|expected|unexpected"):
        parse_value(text)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("[a |-> 1, b |-> 2]", "[a |-> 1, b |-> 3]", ["v[b]: 2 -> 3"]),
        ("{1, 2}", "{2, 3}", ["v - 1", "v + 3"]),
        ("<<1>>", "<<1, 2>>", ["v, appended + 2"]),
        ("<<1, 2>>", "<<1>>", ["v: <<1, 2>> -> <<1>>"]),
        ("(r1 :> <<1, 2>>)", "(r1 :> <<1, 3>>)", ["v[r1][2]: 2 -> 3"]),
        ("[a |-> 1]", "[b |-> 1]", ["v: [a: 1] -> [b: 1]"]),
    ],
)
def test_differences_are_the_smallest(before: str, after: str, changes: list[str]) -> None:
    assert [str(c) for c in differences("v", parse_value(before), parse_value(after))] == changes


def test_an_arrow_goes_from_the_step_that_sends_to_the_step_that_takes() -> None:
    trace = [
        TraceState(1, "Initial predicate", {"wire": "{}", "has": "(h1 :> 0 @@ h2 :> 0)"}),
        TraceState(2, "Send", {"wire": '{[kind |-> "grant", to |-> h1]}', "has": "(h1 :> 0 @@ h2 :> 0)"}),
        TraceState(3, "Take", {"wire": '{[kind |-> "bye", from |-> h1]}', "has": "(h1 :> 1 @@ h2 :> 0)"}),
    ]
    steps = steps_of(trace)
    arrows = arrows_of(steps, Diagram(lane_of_missing="leader"))
    assert [(a.label, a.sender, a.receiver, a.first_row, a.last_row) for a in arrows] == [
        ("grant", "leader", "h1", 1, 2),
        ("bye", "h1", "leader", 2, None),
    ]
    picture = draw("a < b", steps, Diagram(network=("wire",), lane_of_missing="leader"))
    assert "a &lt; b" in picture
    assert all(f">{lane}</text>" in picture for lane in ("leader", "h1", "h2"))
    assert "has[h1]: 0 -&gt; 1" in picture


def test_cfg_sections_comments_and_overrides() -> None:
    cfg = parse_cfg(
        "\\* a comment with INVARIANT in it\nINIT Init NEXT Next\nCONSTANTS A = 1\n Timeout <- MCTimeout (* x *)\n"
        "INVARIANTS One Two\nPROPERTIES Three\nSYMMETRY Perms\n"
    )
    assert cfg.invariants == ("One", "Two")
    assert cfg.properties == ("Three",)
    assert cfg.has("SYMMETRY")
    assert not cfg.has("VIEW")
    narrowed = cfg.checking_only("Two").render()
    assert "INVARIANT Two" in narrowed
    assert "One" not in narrowed
    assert "Three" not in narrowed
    assert "Timeout <- MCTimeout" in narrowed
    bare = parse_cfg("SPECIFICATION Fair\nPROPERTY Three").without_fairness("I", "N").render()
    assert bare == "INIT I\nNEXT N\nPROPERTY Three\n"
    with pytest.raises(KeyError):
        cfg.checking_only("Four")


@pytest.fixture
def config() -> Config:
    return attrs.evolve(load_suite(Path(__file__).parent / "specs").config("MCCounter"), coverage=False)


GOOD_OUTPUT = Output(finished=True, generated=9, distinct=8, depth=8)


def test_success_needs_the_message_the_exit_code_and_no_error(config: Config) -> None:
    assert judge(config, CFG, run(0, GOOD_OUTPUT)).ok
    assert not judge(config, CFG, run(0, attrs.evolve(GOOD_OUTPUT, finished=False))).ok
    assert not judge(config, CFG, run(1, GOOD_OUTPUT)).ok
    assert not judge(config, CFG, run(0, attrs.evolve(GOOD_OUTPUT, errors=["1000: Out of memory"]))).ok
    assert judge(config, CFG, run(None, GOOD_OUTPUT)).result == "timeout"
    # With -continue TLC prints violations and still ends with 0.
    assert not judge(config, CFG, run(0, attrs.evolve(GOOD_OUTPUT, violated="Bounded"))).ok


@pytest.mark.parametrize("field", ["generated", "distinct", "depth"])
def test_a_changed_count_is_a_surprise(config: Config, field: str) -> None:
    output = attrs.evolve(GOOD_OUTPUT)
    setattr(output, field, 7)
    verdict = judge(config, CFG, run(0, output))
    assert verdict.surprises[0].startswith(f"{field} is 7")


def test_coverage_must_be_reported_and_complete(config: Config) -> None:
    watched = attrs.evolve(config, coverage=True, coverage_exempt={"Overflow": "never"})
    assert not judge(watched, CFG, run(0, GOOD_OUTPUT)).ok
    assert judge(watched, CFG, run(0, attrs.evolve(GOOD_OUTPUT, coverage={"Send": 1, "Overflow": 0}))).ok
    assert not judge(watched, CFG, run(0, attrs.evolve(GOOD_OUTPUT, coverage={"Send": 0, "Overflow": 0}))).ok
    assert not judge(watched, CFG, run(0, attrs.evolve(GOOD_OUTPUT, coverage={"Send": 1, "Overflow": 1}))).ok


def test_the_right_property_must_be_violated() -> None:
    violated = Output(violated="Bounded")
    assert judge_violation("Bounded", CFG, run(12, violated)).ok
    assert not judge_violation("Agree", CFG, run(12, violated)).ok
    assert not judge_violation("Bounded", CFG, run(0, violated)).ok
    assert not judge_violation("Bounded", CFG, run(0, GOOD_OUTPUT)).ok
    # TLC names no temporal property, and a refinement's action by its place: the only property of the cfg is meant.
    assert judge_violation("Steps", CFG, run(13, Output(violated="(temporal)"))).ok
    assert judge_violation("Steps", CFG, run(13, Output(violated="line 7, col 17 to line 7, col 26 of module A"))).ok
