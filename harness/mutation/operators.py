"""The mutation operators: where a syntax tree may be changed, and into what."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator

from attrs import frozen

TEXT_MAX = 110
"""Characters of the code shown in a mutant's name."""

_COMPARISONS: dict[type[ast.cmpop], tuple[tuple[str, type[ast.cmpop]], ...]] = {
    ast.Lt: (("boundary", ast.LtE), ("comparison", ast.GtE)),
    ast.LtE: (("boundary", ast.Lt), ("comparison", ast.Gt)),
    ast.Gt: (("boundary", ast.GtE), ("comparison", ast.LtE)),
    ast.GtE: (("boundary", ast.Gt), ("comparison", ast.Lt)),
    ast.Eq: (("comparison", ast.NotEq),),
    ast.NotEq: (("comparison", ast.Eq),),
    ast.Is: (("comparison", ast.IsNot),),
    ast.IsNot: (("comparison", ast.Is),),
    ast.In: (("comparison", ast.NotIn),),
    ast.NotIn: (("comparison", ast.In),),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_COPIES_WITH_CHANGES = {"evolve", "replace"}
_TYPE_ARGUMENT = {"isinstance": 1, "issubclass": 1, "cast": 0}
_FORM_OF_FIELDS = {"init", "eq", "repr", "order", "hash", "kw_only"}
_TEXT_FUNCTIONS = {"__repr__", "__str__"}

Functions = (ast.FunctionDef, ast.AsyncFunctionDef)
_Place = Callable[[ast.AST], None]
"""Puts another node where one is."""


@frozen
class Mutant:
    """One change of one module. `lines`: first and last of the statement that it is in; `put`: makes the change."""

    module: str
    function: str
    operator: str
    before: str
    after: str
    occurrence: int
    lines: tuple[int, int]
    in_function: bool
    put: Callable[[], None]

    @property
    def name(self) -> str:
        """What stays the same while lines move."""
        number = f" #{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.module}.{self.function} | {self.operator} | {self.before} -> {self.after}{number}"


@frozen
class _Scope:
    function: str
    in_function: bool
    names: dict[str, int]
    """Names bound in the function, with the line of their first binding."""


class _Finder:
    """Walks one module's tree and collects its mutants in the order of the source."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.found: list[Mutant] = []
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._lines = (1, 1)
        self._scope = _Scope("", False, {})

    # -- bookkeeping

    def _add(self, operator: str, before: ast.AST, after: ast.AST, put: _Place) -> None:
        old, new = _text(before), _text(after)
        function = self._scope.function or "(module)"
        key = (function, operator, old, new)
        self._counts[key] += 1
        replacement = ast.fix_missing_locations(ast.copy_location(after, before))
        mutant = Mutant(
            self.module,
            function,
            operator,
            old,
            new,
            self._counts[key],
            self._lines,
            self._scope.in_function,
            lambda: put(replacement),
        )
        self.found.append(mutant)

    # -- statements

    def body(self, owner: ast.AST, field: str) -> None:
        """All statements of a block."""
        statements: list[ast.stmt] = getattr(owner, field)
        for index, statement in enumerate(statements):
            self._statement(statement, _in_list(statements, index))

    def _statement(self, node: ast.stmt, put: _Place) -> None:
        if _is_excluded(node, in_function=self._scope.in_function):
            return
        before_lines, self._lines = self._lines, _header_lines(node)
        if self._scope.in_function and _may_be_dropped(node, self._scope.names):
            self._add("dropped statement", node, ast.Pass(), put)
        if isinstance(node, ast.ClassDef):
            self._inside(node)
        elif isinstance(node, Functions):
            self._function(node)
        elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            self._add("return None", node, ast.Return(ast.Constant(None)), put)
            self._expression(node.value, _in_field(node, "value"))
        elif isinstance(node, ast.AugAssign):
            self._operator(node, node.op, _in_field(node, "op"))
            self._children(node)
        else:
            if isinstance(node, ast.If | ast.While):
                self._condition(node.test, _in_field(node, "test"))
            self._children(node)
        self._lines = before_lines

    def _inside(self, node: ast.ClassDef) -> None:
        outer = self._scope
        prefix = f"{outer.function}." if outer.function else ""
        self._scope = _Scope(f"{prefix}{node.name}", outer.in_function, outer.names)
        self.body(node, "body")
        self._scope = outer

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._children(node.args)  # defaults belong to the scope outside
        outer = self._scope
        joint = ".<locals>." if outer.in_function else "."
        name = f"{outer.function}{joint}{node.name}" if outer.function else node.name
        self._scope = _Scope(name, True, _bindings(node))
        if node.name not in _TEXT_FUNCTIONS and not node.name.startswith("_trace"):
            self.body(node, "body")
        self._scope = outer

    def _children(self, node: ast.AST) -> None:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "type_params", "pattern"):
                continue
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    self.body(node, field)
                    continue
                for index, each in enumerate(value):
                    self._child(each, _in_list(value, index))
            else:
                self._child(value, _in_field(node, field))

    def _child(self, value: object, put: _Place) -> None:
        if isinstance(value, ast.expr):
            self._expression(value, put)
        elif isinstance(value, ast.match_case):
            before_lines = self._lines
            self._lines = (value.pattern.lineno, value.body[0].lineno - 1)
            if value.guard is not None:
                self._condition(value.guard, _in_field(value, "guard"))
                self._expression(value.guard, _in_field(value, "guard"))
            self._lines = before_lines
            self.body(value, "body")
        elif isinstance(value, ast.AST):
            self._children(value)

    # -- expressions

    def _condition(self, test: ast.expr, put: _Place) -> None:
        """Negates a condition, unless negating its only comparison or removing its `not` is the same."""
        single = isinstance(test, ast.Compare) and len(test.ops) == 1
        if not single and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self._add("negated condition", test, ast.UnaryOp(ast.Not(), copy.deepcopy(test)), put)

    def _expression(self, node: ast.expr, put: _Place) -> None:
        if isinstance(node, ast.JoinedStr):
            return
        for operator, after in _expression_mutants(node):
            if self._scope.in_function or not _is_number(node):
                self._add(operator, node, after, put)
        if isinstance(node, ast.BinOp):
            if not (_is_text(node.left) or _is_text(node.right)):
                self._operator(node, node.op, _in_field(node, "op"))
        elif isinstance(node, ast.IfExp):
            self._condition(node.test, _in_field(node, "test"))
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            for generator in node.generators:
                for index, test in enumerate(generator.ifs):
                    self._condition(test, _in_list(generator.ifs, index))
        if isinstance(node, ast.Call):
            self._call(node)
        elif not isinstance(node, ast.Constant):
            self._children(node)

    def _call(self, node: ast.Call) -> None:
        type_argument = _TYPE_ARGUMENT.get(node.func.id) if isinstance(node.func, ast.Name) else None
        self._expression(node.func, _in_field(node, "func"))
        for index, argument in enumerate(node.args):
            if index != type_argument:
                self._expression(argument, _in_list(node.args, index))
        for keyword in node.keywords:
            if isinstance(node.func, ast.Name) and node.func.id == "field" and keyword.arg in _FORM_OF_FIELDS:
                continue
            self._expression(keyword.value, _in_field(keyword, "value"))

    def _operator(self, node: ast.BinOp | ast.AugAssign, operator: ast.operator, put: _Place) -> None:
        if type(operator) in _ARITHMETIC:
            after = copy.deepcopy(node)
            other = _ARITHMETIC[type(operator)]()
            after.op = other
            self._add("arithmetic", node, after, lambda _whole: put(other))


def _expression_mutants(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """(operator, changed copy) for what one node itself may become."""
    match node:
        case ast.Compare():
            for index, each in enumerate(node.ops):
                for operator, other in _COMPARISONS[type(each)]:
                    compare = copy.deepcopy(node)
                    compare.ops[index] = other()
                    yield operator, compare
        case ast.BoolOp():
            swapped = copy.deepcopy(node)
            swapped.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "boolean connective", swapped
            for index in range(len(node.values)):
                rest = [copy.deepcopy(each) for at, each in enumerate(node.values) if at != index]
                yield "dropped operand", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.UnaryOp(op=ast.Not()):
            yield "removed not", copy.deepcopy(node.operand)
        case ast.UnaryOp(op=ast.USub()):
            yield "arithmetic", copy.deepcopy(node.operand)
        case ast.Constant(value=bool(flag)):
            yield "constant", ast.Constant(not flag)
        case ast.Constant(value=int(number)):
            yield "constant", ast.Constant(number + 1)
            yield "constant", ast.Constant(number - 1)
        case ast.Slice():
            for bound, step in (("lower", 1), ("upper", -1)):
                value = getattr(node, bound)
                if value is not None and not isinstance(value, ast.Constant):
                    moved = copy.deepcopy(node)
                    setattr(moved, bound, _plus(value, step))
                    yield "slice off by one", moved
        case ast.Call():
            yield from _call_mutants(node)


def _call_mutants(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Call(func=ast.Name(id=called)) if called in _OPPOSITES:
            other_call = copy.deepcopy(node)
            other_call.func = ast.Name(_OPPOSITES[called], ast.Load())
            yield "opposite function", other_call
        case ast.Call(func=ast.Name(id="range")):
            for index, value in enumerate(node.args[:2]):
                if not isinstance(value, ast.Constant):
                    moved_call = copy.deepcopy(node)
                    step = -1 if index == 1 or len(node.args) == 1 else 1
                    moved_call.args[index] = _plus(value, step)
                    yield "range off by one", moved_call
        case ast.Call(func=ast.Name(id=called)) if called in _COPIES_WITH_CHANGES:
            for index, keyword in enumerate(node.keywords):
                if keyword.arg is not None:
                    unchanged = copy.deepcopy(node)
                    del unchanged.keywords[index]
                    yield "dropped change", unchanged


def _plus(value: ast.expr, step: int) -> ast.BinOp:
    operator = ast.Add() if step > 0 else ast.Sub()
    return ast.BinOp(copy.deepcopy(value), operator, ast.Constant(1))


def _in_field(owner: ast.AST, field: str) -> _Place:
    return lambda node: setattr(owner, field, node)


def _in_list(owner: list[ast.stmt] | list[ast.expr], index: int) -> _Place:
    nodes: list[ast.AST] = owner  # type: ignore[assignment]  # whatever replaces an expression is one

    def put(node: ast.AST) -> None:
        nodes[index] = node

    return put


def _text(node: ast.AST) -> str:
    text = "(nothing)" if isinstance(node, ast.Pass) else " ".join(ast.unparse(node).split("\n")[0].split())
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 3] + "..."


def _header_lines(node: ast.stmt) -> tuple[int, int]:
    """The lines whose execution means that this statement's own expressions are evaluated."""
    body = getattr(node, "body", None)
    if isinstance(body, list) and body:
        return node.lineno, max(node.lineno, body[0].lineno - 1)
    if isinstance(node, ast.Match):
        return node.lineno, max(node.lineno, node.cases[0].pattern.lineno - 1)
    return node.lineno, node.end_lineno or node.lineno


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool)


def _is_type_alias(value: ast.expr) -> bool:
    """Names, subscripts and unions of them: `Event = Tick | Hello`."""
    parts = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.BitOr, ast.Tuple, ast.List, ast.Load)
    union_or_generic = isinstance(value, ast.Subscript) or (
        isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)
    )
    return union_or_generic and all(isinstance(each, (*parts, ast.Constant)) for each in ast.walk(value))


def _is_excluded(node: ast.stmt, *, in_function: bool) -> bool:
    match node:
        case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Global() | ast.Nonlocal():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id="assert_never"))):
            return True
        case ast.If(test=test) if any(
            isinstance(each, ast.Attribute) and each.attr == "trace" for each in ast.walk(test)
        ):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")]):
            return True
        case ast.Assign(value=value) if not in_function:
            return _is_type_alias(value)
    return False


def _may_be_dropped(node: ast.stmt, names: dict[str, int]) -> bool:
    match node:
        case ast.Expr(value=ast.Call() | ast.Await() | ast.Yield() | ast.YieldFrom()):
            return True
        case ast.Delete() | ast.Raise() | ast.Continue() | ast.Break() | ast.Return(value=None):
            return True
        case ast.Assign(targets=targets):
            return any(_changes_state(each, names, node.lineno) for each in targets)
        case ast.AugAssign(target=target):
            return _changes_state(target, names, node.lineno)
        case ast.AnnAssign(target=target, value=value):
            return value is not None and _changes_state(target, names, node.lineno)
    return False


def _changes_state(target: ast.expr, names: dict[str, int], line: int) -> bool:
    """Whether an assignment to the target changes something that was there before."""
    if isinstance(target, ast.Tuple | ast.List):
        return all(_changes_state(each, names, line) for each in target.elts)
    if isinstance(target, ast.Name):
        return names.get(target.id, line) < line
    return isinstance(target, ast.Attribute | ast.Subscript)


def _bindings(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, int]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = {each.arg: 0 for each in every if each is not None}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] = min(names.get(node.id, node.lineno), node.lineno)
    return names


def find(module: str, tree: ast.Module) -> list[Mutant]:
    """All mutants of a module. Each `put` changes `tree` itself, so one process makes at most one of them."""
    finder = _Finder(module)
    finder.body(tree, "body")
    return finder.found
