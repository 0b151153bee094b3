"""The catalogue of properties: a table of where each one is checked, made from where its name occurs.

    python -m spec.catalogue            print the table
    python -m spec.catalogue --write    put it into spec/README.md
    python -m spec.catalogue --check    exit with 1 if the table there says what is not so

The names are the source of truth: a module belongs into a column if it lies in the column's place and its code, not
only its comments, names the property. Checkers of histories have names of their own: spec/properties.toml has them. A
column that is empty without a reason is an error, and so is a reason for one that is not. What a property says, and why
a column of it is empty, is in spec/properties.toml.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from harness.seeded_bugs import all_bugs
from harness.simulation import model_bugs

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "spec" / "README.md"
PROPERTIES = ROOT / "spec" / "properties.toml"
BEGIN, END = "<!-- properties: made by python -m spec.catalogue --write -->", "<!-- end of properties -->"
DRAWN_PLACES = ("tests/model/*.py", "tests/core/*.py", "tests/faults/test_exploration.py")
CHECKERS = ROOT / "harness" / "faults" / "checkers"
VERDICTS = ROOT / "harness" / "faults" / "verdicts.py"
BUGGY = ("mutants", "model_bugs", "hunt")
SHOWN_MAX = 4
"""Modules named in one cell; of more the others are counted."""


@frozen
class Property:
    """One entry of properties.toml. `checkers`: functions of harness/faults/checkers that look for it, as
    "module.function". `empty`: column -> why there is nothing in it."""

    name: str
    group: str
    statement: str
    checkers: list[str] = Factory(list)
    empty: dict[str, str] = Factory(dict)


class CatalogueError(ValueError):
    """The catalogue is not in order; one line for each problem."""


def properties() -> list[Property]:
    """All entries, in their order."""
    return [Property(**entry) for entry in tomllib.loads(PROPERTIES.read_text(encoding="utf-8"))["property"]]


@cache
def words_of(path: Path) -> frozenset[str]:
    """Everything that occurs in a file as a word; of Python its names and texts, without comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    return frozenset(re.findall(r"\w+", text) if path.suffix != ".py" else _words_of_code(ast.parse(text)))


def _words_of_code(tree: ast.Module) -> Iterator[str]:
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield from re.findall(r"\w+", text)
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield from name.split(".")
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Modules that a Python file imports, with their full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def files_of(patterns: tuple[str, ...]) -> list[Path]:
    """The files of some places, sorted."""
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


@cache
def entries(place: str, kind: str) -> list[dict[str, Any]]:
    """All entries of one kind in the TOML files of a directory of tla/."""
    files = sorted((ROOT / "tla" / place).glob("*.toml"))
    return [entry for path in files for entry in tomllib.loads(path.read_text(encoding="utf-8")).get(kind, [])]


def mentions(name: str, patterns: tuple[str, ...]) -> list[Path]:
    """Files of these places in which the name occurs as a word, but for those that only have seeded bugs."""
    return [path for path in files_of(patterns) if name in words_of(path) and not path.stem.endswith(BUGGY)]


def link(path: Path) -> str:
    """A link to a file, as seen from README.md."""
    relative = path.relative_to(ROOT)
    inside = relative.parts[0] == "spec"
    target = relative.relative_to("spec") if inside else Path("..") / relative
    return f"[{path.stem}]({target.as_posix()})"


def linked(paths: Iterable[Path]) -> str:
    """Links, as many as fit a cell."""
    found = list(paths)
    more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
    return ", ".join(link(path) for path in found[:SHOWN_MAX]) + more


def specification(name: str) -> str:
    """TLA+ modules that define the property or a property of this name in a model, and configs that check it."""
    defines = re.compile(rf"^{name}\b[^=\n]*==", re.MULTILINE)
    modules = [path for path in mentions(name, ("tla/*.tla",)) if defines.search(path.read_text(encoding="utf-8"))]
    configs = sum(
        name in config.get("properties", []) and config.get("expect", "pass") == "pass"
        for config in entries("manifest", "config")
    )
    return f"{linked(modules)}; {configs} configs" if modules else ""


def of(*patterns: str) -> Callable[[str], str]:
    """A column: modules of these places that mention the property."""
    return lambda name: linked(mentions(name, patterns))


def hypothesis_tests(name: str) -> str:
    """Tests that draw their examples, machines, and the networks and checks that these use."""
    return linked(path for path in mentions(name, DRAWN_PLACES) if path in drawn())


@cache
def drawn() -> frozenset[Path]:
    """What uses Hypothesis itself, or is used by what does."""
    files = files_of(DRAWN_PLACES)
    found = {path for path in files if "hypothesis" in imports_of(path)}
    while used := {path for path in files if any(_module(path) in imports_of(user) for user in found)} - found:
        found |= used
    return frozenset(found)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def fault_suite(name: str) -> str:
    """Checkers of histories that properties.toml names, and what checks sidecars' orders.

    Raises:
        CatalogueError: a checker is not there, or no run is judged by it.
    """
    places: list[Path] = []
    for checker in next((entry.checkers for entry in properties() if entry.name == name), []):
        module, _, function = checker.rpartition(".")
        path = CHECKERS / f"{module}.py"
        if not path.exists() or not re.search(rf"^def {function}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            raise CatalogueError(f"{name}: harness/faults/checkers has no {checker}")
        if function not in words_of(VERDICTS):
            raise CatalogueError(f"{name}: harness/faults/verdicts.py does not use {checker}")
        places.append(path)
    return linked([*dict.fromkeys(places), *mentions(name, ("harness/sidecars/checks.py",))])


def bugs(name: str) -> str:
    """How many seeded bugs break the property, by where they are."""
    killed = sum(mutant["killed_by"] == name for mutant in entries("mutants", "mutant"))
    parts = [f"{killed} in [tla/mutants](../tla/mutants)"] if killed else []
    for place, seeded in {**all_bugs(), "harness/simulation/model_bugs.py": model_bugs.BUGS}.items():
        count = sum(name in bug.properties for bug in seeded)
        if count:
            parts.append(f"{count} in {link(ROOT / place)}")
    controls = mentions(name, ("harness/CONTROLS.md",))
    return ", ".join(parts + [link(path) for path in controls])


COLUMNS: dict[str, Callable[[str], str]] = {
    "TLA+": specification,
    "model": of("spec/model/*.py"),
    "Hypothesis": hypothesis_tests,
    "simulator": of("harness/simulation/*.py", "harness/round_book.py", "harness/raftsim/*.py"),
    "fault suite": fault_suite,
    "seeded bugs": bugs,
}


def table() -> str:
    """The table of all properties, in Markdown.

    Raises:
        CatalogueError: a column is empty without a reason, or has a reason and is not empty.
    """
    problems: list[str] = []
    reasons: list[str] = []
    lines = ["| property | in one sentence | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for entry in properties():
        cells = []
        for column, look in COLUMNS.items():
            cell, reason = look(entry.name), entry.empty.get(column)
            if not cell and reason is None:
                problems.append(f"{entry.name}: column {column} is empty, and properties.toml does not say why")
            if cell and reason is not None:
                problems.append(f"{entry.name}: properties.toml says why column {column} is empty, but it has {cell}")
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append(cell or (f"- ({reasons.index(reason) + 1})" if reason is not None else ""))
        unknown = entry.empty.keys() - COLUMNS.keys()
        problems += [f"{entry.name}: properties.toml names column {column}, which does not exist" for column in unknown]
        lines.append(f"| `{entry.name}` | {entry.statement} | " + " | ".join(cells) + " |")
    if problems:
        raise CatalogueError("\n".join(problems))
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes])


def replaced(text: str, begin: str, end: str, content: str) -> str:
    """`text` with `content` between two markers.

    Raises:
        CatalogueError: the markers are not there.
    """
    if begin not in text or end not in text:
        raise CatalogueError(f"{README.name} has no markers {begin} and {end}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def drift(text: str) -> list[str]:
    """What the table in `text` claims and is not so, one line each. That it could name more is no drift."""
    present = dict(_rows(text.partition(BEGIN)[2].partition(END)[0]))
    problems = []
    for name, wanted in _rows(table()):
        if name not in present:
            problems.append(f"{name} has no row")
            continue
        (statement, *cells), (should_be, *made) = present[name], wanted
        if statement != should_be:
            problems.append(f"{name}: the sentence is not that of properties.toml")
        for column, cell, fresh in zip(COLUMNS, cells, made, strict=True):
            if cell.startswith("- (") != fresh.startswith("- ("):
                problems.append(f"{name}: column {column} says {cell}, it should be {fresh}")
            problems += [
                f"{name}: column {column} names {target}, which does not mention it"
                for target in re.findall(r"\]\(([^)]+)\)", cell)
                if not _is_about(name, (README.parent / target).resolve())
            ]
            if _counted(cell) > _counted(fresh):
                problems.append(f"{name}: column {column} says {cell}, there are {fresh}")
    return problems


def _is_about(name: str, path: Path) -> bool:
    """Whether a file names the property, or has a checker of it."""
    if path.parent == CHECKERS:
        return any(
            c.startswith(f"{path.stem}.") for entry in properties() if entry.name == name for c in entry.checkers
        )
    return path.is_dir() or (path.exists() and name in words_of(path))


def _rows(text: str) -> list[tuple[str, list[str]]]:
    found = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `"))
    return [(name.strip("`"), cells) for name, *cells in found]


def _counted(cell: str) -> int:
    return sum(map(int, re.findall(r"(\d+) (?:in|configs)", cell)))


def main(arguments: list[str]) -> int:
    """Entry point; returns the exit code."""
    known: dict[str, Any] = {"--write": None, "--check": None}
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        print(f"spec.catalogue: unknown option {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    present = README.read_text(encoding="utf-8")
    try:
        if "--write" in arguments:
            README.write_text(replaced(present, BEGIN, END, table()), encoding="utf-8")
        elif "--check" not in arguments:
            print(table())
        problems = drift(present) if "--check" in arguments else []
    except CatalogueError as error:
        problems = str(error).splitlines()
    for problem in problems:
        print(f"spec/README.md: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
