"""What ``help(coda_cli)`` and the Tab key show: the public names as their files write them, without a wait for torch.

pydoc takes every public name of a module with ``inspect.getmembers`` and shows its docstring and its signature. The
prompt of Python takes every name to see whether it can be called. All of this stands in the source, so the definition
is read from there and run alone: without the imports of its file, without the bodies of its functions, and with default
values as they are written. The result looks like the real function or class and does nothing. Code that uses a name
gets the real one.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import cache, cached_property
from inspect import isfunction
from pathlib import Path
from types import FrameType
from typing import Any

_FOLDER = Path(__file__).parent
# These decorators decide what is shown. All others leave the docstring and the signature as they are.
_DECORATORS = {
    "cached_property": cached_property, "classmethod": classmethod, "dataclass": dataclass, "property": property,
    "staticmethod": staticmethod,
}  # fmt: skip


def is_only_shown(frame: FrameType) -> bool:
    """Say whether a name is asked for only to show it: by ``help(module)``, ``python -m pydoc module`` or the Tab key.

    Args:
        frame: of the code that asks for a name.

    Returns:
        Whether that is ``inspect``, called from pydoc, or else ``rlcompleter``.
    """
    lister: FrameType | None = frame
    while lister and lister.f_globals.get("__name__") == "inspect":
        lister = lister.f_back
    # As a program pydoc is called __main__; its specification has its name in both cases.
    module = getattr(lister and lister.f_globals.get("__spec__"), "name", None)
    return module == ("rlcompleter" if lister is frame else "pydoc")


@cache  # pydoc asks three times: for classes, for functions, for data
def stand_in(name: str, home: str) -> Any:
    """Make what is shown in place of a public name.

    Args:
        name: of a function or class that stands at the top of its file.
        home: its module, without the package: "explanation.picture".

    Returns:
        A function or class with the docstring, the signature, and the methods and properties of the real one; or None
        where the package has no source files, as in a frozen program.
    """
    path = _FOLDER.joinpath(*home.split(".")).with_suffix(".py")
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except OSError:
        return None
    # The imports from __future__ stay: they keep annotations as text.
    tree.body = [
        _without_work(node)
        for node in tree.body
        if getattr(node, "name", None) == name or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    ]
    # It is made as a definition of this module: dataclass looks up the module of a class, and its home is not imported.
    names: dict[str, Any] = {**_DECORATORS, "__name__": __name__, "_Written": _Written, "field": field}
    exec(compile(ast.fix_missing_locations(tree), path, "exec"), names)
    _move(names[name], f"{__package__}.{home}")
    return names[name]


def _move(made: Any, home: str) -> None:
    """Say of a function, or of a class and its methods, that the module ``home`` has them."""
    for name in vars(made):
        method = getattr(made, name)
        if isfunction(method) and method.__module__ == __name__:
            method.__module__ = home
            # pydoc finds inherited docstrings only for the classes of imported modules.
            if method.__doc__ is None and hasattr(object, name):
                method.__doc__ = getattr(object, name).__doc__
    made.__module__ = home


@dataclass(frozen=True)
class _Written:
    """A value that is not computed: it shows the text that the source has for it."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _without_work(node: ast.stmt) -> ast.stmt:
    """A definition, or a statement of a class, without all that needs other modules; it changes ``node`` itself."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.decorator_list = [d for d in node.decorator_list if _name(d) in _DECORATORS]
    if isinstance(node, ast.FunctionDef):
        node.body = [ast.Pass()] if ast.get_docstring(node) is None else node.body[:1]
        node.args.defaults = [_written(default) for default in node.args.defaults]
        node.args.kw_defaults = [default and _written(default) for default in node.args.kw_defaults]
    elif isinstance(node, ast.ClassDef):
        node.bases, node.keywords = [], []
        node.body = [_without_work(part) for part in node.body]
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        node.value = _written(node.value)
    return node


def _written(value: ast.expr) -> ast.expr:
    """The value itself if it is a literal, or the ``field`` of a dataclass; else a ``_Written`` in its place."""
    if isinstance(value, ast.Call) and _name(value) == "field":
        for keyword in value.keywords:
            keyword.value = _written(keyword.value)
        return value
    try:
        ast.literal_eval(value)
    except ValueError:
        return ast.Call(ast.Name("_Written", ast.Load()), [ast.Constant(ast.unparse(value))], [])
    return value


def _name(node: ast.expr) -> str | None:
    """The name that a decorator or a call begins with, unless it is dotted."""
    called = node.func if isinstance(node, ast.Call) else node
    return called.id if isinstance(called, ast.Name) else None
