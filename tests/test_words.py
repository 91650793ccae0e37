"""Docstrings say what a stranger needs to know, and functions stay small: read off the source, nothing is run."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "coda_cli"
MOST_PARAMETERS = 12  # of a function outside cli/, where a parameter is an option of a command
LONG, LONG_SHARE = 30, 0.04  # lines of a function without its docstring, and the share that may be longer
LONGEST_FILE = 400
# Sentences that only their author understands, and words that the table in docs/architecture.md gives another meaning.
RIDDLES = ("is no time", "nobody else between", "that was all", "what is on its way", "touch the network")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@dataclass(frozen=True)
class Place:
    """Where something is defined, and under which name."""

    path: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.name}"


def modules(package: Path, *, cli: bool) -> Iterator[tuple[str, ast.Module]]:
    """Path below the package and tree of every module, with or without those of the command line."""
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package).as_posix()
        if cli or not path.startswith("cli/"):
            yield path, ast.parse(file.read_text("utf-8"))


def public(tree: ast.Module, path: str) -> Iterator[tuple[Place, Definition]]:
    """Everything that a module offers: functions and classes, and the methods of classes."""
    for node in tree.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        yield Place(path, node.lineno, node.name), node
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, Function) and not part.name.startswith("_"):
                    yield Place(path, part.lineno, f"{node.name}.{part.name}"), part


def functions(tree: ast.Module, path: str) -> Iterator[tuple[Place, Function]]:
    """Every function of a module, private and nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield Place(path, node.lineno, node.name), node


def has_decorator(node: Definition, *names: str) -> bool:
    """Whether one of ``names`` decorates a function."""
    return any(ast.unparse(d).split("(")[0].split(".")[-1] in names for d in node.decorator_list)


def parameters(node: Function) -> list[str]:
    """The names of a function's arguments, without stars; self and cls are none."""
    a = node.args
    every = (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg)
    return [x.arg for x in every if x and x.arg not in ("self", "cls")]


def documented(docstring: str) -> list[str] | None:
    """The names that stand under ``Args:``, with stars or without; None where there is no such section."""
    lines = inspect.cleandoc(docstring).splitlines()
    if "Args:" not in lines:
        return None
    names, depth = [], None
    for line in lines[lines.index("Args:") + 1 :]:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            break
        depth = indent if depth is None else depth
        if indent == depth and (found := re.match(r"\*{0,2}(\w+)(?: \([^)]*\))?:", line.strip())):
            names.append(found[1])
    return names


def complaints(package: Path) -> list[str]:
    """One line for everything public outside cli/ whose docstring is missing or does not name every argument."""
    found = []
    for path, tree in modules(package, cli=False):
        if not ast.get_docstring(tree):
            found.append(f"{path}:1 has no docstring")
        for place, node in public(tree, path):
            if isinstance(node, Function) and has_decorator(node, "overload", "override", "setter"):
                continue
            docstring = ast.get_docstring(node)
            if not docstring:
                found.append(f"{place} has no docstring")
                continue
            if isinstance(node, ast.ClassDef):
                found += _of_constructor(place, node)
                continue
            found += _missing(place, documented(docstring), parameters(node))
    return found


def _of_constructor(place: Place, node: ast.ClassDef) -> list[str]:
    """What the docstring of a class, or of its ``__init__``, does not say of the arguments it is made with."""
    for part in node.body:
        if isinstance(part, Function) and part.name == "__init__":
            named = documented(ast.get_docstring(node) or "")
            if named is None:
                named = documented(ast.get_docstring(part) or "")
            return _missing(Place(place.path, part.lineno, f"{place.name}.__init__"), named, parameters(part))
    return []


def _missing(place: Place, named: list[str] | None, wanted: list[str]) -> list[str]:
    """What a list of arguments lacks, or has beyond those there are."""
    if not wanted:
        return [f"{place} documents arguments that it does not take: {', '.join(named)}"] if named else []
    if named is None:
        return [f"{place} has no Args: section; its arguments are {', '.join(wanted)}"]
    absent, unknown = [n for n in wanted if n not in named], [n for n in named if n not in wanted]
    return [
        *([f"{place} does not document {', '.join(absent)}"] if absent else []),
        *([f"{place} documents arguments that it does not take: {', '.join(unknown)}"] if unknown else []),
    ]


def length(node: Function) -> int:
    """Lines of a function without its decorators and its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) and first.end_lineno:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_everything_public_has_a_docstring_that_names_every_argument() -> None:
    found = complaints(PACKAGE)
    assert not found, f"{len(found)} places:\n" + "\n".join(found)


def test_no_function_outside_the_command_line_takes_more_arguments_than_one_can_keep_in_mind() -> None:
    many = [
        f"{place}: {len(parameters(node))}"
        for path, tree in modules(PACKAGE, cli=False)
        for place, node in functions(tree, path)
        if len(parameters(node)) > MOST_PARAMETERS
    ]
    assert not many, "\n".join(many)


def test_few_functions_are_long() -> None:
    lengths = {p: length(node) for path, tree in modules(PACKAGE, cli=True) for p, node in functions(tree, path)}
    over = {place: n for place, n in lengths.items() if n > LONG}
    listed = "\n".join(f"{place}: {n}" for place, n in sorted(over.items(), key=lambda item: -item[1]))
    assert len(over) <= LONG_SHARE * len(lengths), f"{len(over)} of {len(lengths)} functions:\n{listed}"


def test_no_file_is_long() -> None:
    lines = {f.relative_to(PACKAGE): f.read_text("utf-8").count("\n") for f in PACKAGE.rglob("*.py")}
    assert not {path: n for path, n in lines.items() if n > LONGEST_FILE}


def test_no_riddles() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}: {riddle}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for riddle in RIDDLES
        if riddle in " ".join(file.read_text("utf-8").casefold().split())
    ]
    assert not found, "\n".join(found)


# ---- the checker itself: what it must allow and what it must see -----------------------------------------------------

GOOD = '''"""A module."""

def scaled(values, *more, by=2.0, **rest):
    """Multiply values.

    Args:
        values: float32 [h, w], logit units.
        *more: further ones,
            which may take a second line: as here.
        by (float): the factor.
        **rest: passed on.

    Returns:
        As ``values``.
    """

def nothing():
    """Take no arguments."""

class Scale:
    """A factor.

    Args:
        by: the factor.
    """

    def __init__(self, by):
        self.by = by

    @property
    def half(self):
        """Half of it."""

    def _private(self, x): ...
'''


def _planted(root: Path, source: str) -> list[str]:
    (root / "module.py").write_text(source)
    return complaints(root)


def test_the_checker_allows_what_is_documented(tmp_path: Path) -> None:
    assert _planted(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("line", "instead", "complaint"),
    [
        ('"""A module."""\n', "", "module.py:1 has no docstring"),
        ("        by (float): the factor.\n", "", "scaled does not document by"),
        ("        *more: further ones,\n", "        less: further ones,\n", "scaled does not document more"),
        ("        **rest: passed on.\n", "        **rest: passed on.\n        x: no.\n", "does not take: x"),
        ('    """Take no arguments."""', "    ...", "nothing has no docstring"),
        ("    Args:\n        by: the factor.\n", "", "Scale.__init__ has no Args: section; its arguments are by"),
        ('        """Half of it."""', "        ...", "Scale.half has no docstring"),
    ],
)
def test_the_checker_sees_what_is_not(tmp_path: Path, line: str, instead: str, complaint: str) -> None:
    assert line in GOOD
    assert any(complaint in text for text in _planted(tmp_path, GOOD.replace(line, instead, 1)))


def test_a_function_is_as_long_as_its_lines_without_the_docstring() -> None:
    tree = ast.parse('def f(\n    x,\n):\n    """Two\n    lines."""\n    return x\n')
    assert isinstance(tree.body[0], ast.FunctionDef)
    assert length(tree.body[0]) == 4
