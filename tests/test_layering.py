"""Imports point down, every library has one home, and only the shell prints: read off the source, nothing is run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "coda_cli"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE

# A module may import from folders of strictly lower rank and from its own folder. The package's own __init__ and
# __main__ stand above all: they show what lies below.
RANKS = {"errors": 0, "vocabulary": 0, "_help": 0, "opencv": 1, "machine": 1, "core": 2, "media": 3, "render": 3,
         "video": 4, "schema": 4, "checkpoints": 5, "study": 6, "training": 6, "explanation": 7, "ray": 8,
         "deprecated": 8, "cli": 8, "__init__": 9, "__main__": 9}  # fmt: skip

# Library: the folders (with a slash) and files that may import it.
HOMES: dict[str, tuple[str, ...]] = {
    "jinja2": ("explanation/page/",),
    "markupsafe": ("explanation/page/",),
    "typer": ("cli/",),
    "click": ("cli/",),
    "rich": ("cli/",),
    "captum": ("study/methods.py", "study/masks.py", "study/attribution.py"),
    "isal": ("media/png.py",),
    "imageio": ("video/animations.py",),
    "av": ("video/",),
    "PIL": ("media/",),
    "cv2": ("opencv.py",),
    "requests": ("checkpoints/fetch.py", "media/http.py"),
    "urllib3": ("checkpoints/fetch.py", "media/http.py"),
    "pillow_heif": ("media/heif.py",),
    "pydicom": ("media/dicom.py",),
    "fsspec": ("media/addresses.py",),
    "skimage": ("study/masks.py",),
    "timm": ("core/standard_nets.py",),
    "matplotlib": ("study/plots.py",),
    "gradio": ("explanation/demo/",),
    "fastapi": ("explanation/demo/",),
    "uvicorn": ("explanation/demo/",),
    "ray": ("ray.py", "explanation/cluster.py"),
    "pyarrow": (
        "explanation/summary/tables.py",
        "media/parquet.py",
        "media/parquet_output.py",
        "media/parquet_rows.py",
    ),
}
UNPICKLERS = ("checkpoints/unpickling.py", "training/state.py")
UNPICKLING = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "torch.load", "torch.serialization.load"}
PRINTERS = ("cli/",)


@dataclass(frozen=True)
class Import:
    """One imported name, dotted and absolute: ``from torch import load as l`` is torch.load."""

    name: str
    line: int


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[Import]:
    """Every import anywhere in the file: at the top, inside functions, under TYPE_CHECKING, or by import_module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and _dotted(node.func).split(".")[-1] in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield Import(argument.value, node.lineno)


def _dotted(node: ast.AST) -> str:
    """The dotted name that an expression spells, else ""."""
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


def _uses(tree: ast.AST) -> Iterator[Import]:
    """Attributes of imported modules, spelled with the module's real name: ``t.load`` after ``import torch as t``."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _dotted(node):
            first, _, rest = _dotted(node).partition(".")
            yield Import(f"{names.get(first, first)}.{rest}", node.lineno)


def _is_in(path: str, homes: tuple[str, ...]) -> bool:
    return any(path.startswith(home) if home.endswith("/") else path == home for home in homes)


def _wrong_direction(path: str, target: str) -> str | None:
    """Why the file ``path`` may not import ``target``, an absolute name inside the package."""
    own = path.removesuffix(".py").split("/")[0]
    other = [*target.split("."), "__init__"][1]
    if other not in RANKS:
        # ``from coda_cli import name``: a name of the package's __init__, which imports everything below it.
        return None if target == f"{PACKAGE}.__version__" else f"imports {target}, a public name of the whole package"
    if own == other or RANKS[other] < RANKS[own]:
        return None
    return f"imports {target}, which is not below it"


def _complaints_about(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and complaint for one file, its path relative to the package."""
    folder = path.removesuffix(".py").split("/")[0]
    if folder not in RANKS:
        yield 1, f"has no rank: add {folder!r} to the layers"
        return
    tree = ast.parse(source)
    is_package = path.endswith("__init__.py")
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    module = PACKAGE if path == "__init__.py" else ".".join([PACKAGE, *parts])
    for found in _imports(tree, module, is_package):
        library = found.name.split(".")[0]
        if library == PACKAGE:
            complaint = _wrong_direction(path, found.name)
            if complaint:
                yield found.line, complaint
        elif library in HOMES and not _is_in(path, HOMES[library]):
            yield found.line, f"imports {library}, at home in {', '.join(HOMES[library])}"
        elif (
            folder == "core"
            and library not in ("torch", "torchvision", "timm")
            and library not in sys.stdlib_module_names
        ):
            yield found.line, f"imports {library}; core imports torch, torchvision, timm and nothing else"
    for found in {*_imports(tree, module, is_package), *_uses(tree)}:
        names = {found.name, found.name.split(".")[0]}
        if names & UNPICKLING and not _is_in(path, UNPICKLERS):
            yield found.line, f"can unpickle ({found.name}); only {', '.join(UNPICKLERS)} may"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or _dotted(node.func) not in ("print", "builtins.print"):
            continue
        if not _is_in(path, PRINTERS):
            yield node.lineno, f"prints; only {', '.join(PRINTERS)} may"


def complaints(root: Path) -> list[str]:
    """One line for every rule that a file below ``root`` breaks."""
    found = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        found += [f"{path}:{line} {text}" for line, text in sorted(_complaints_about(path, file.read_text("utf-8")))]
    return found


def test_the_package_keeps_the_rules() -> None:
    assert len(list(ROOT.rglob("*.py"))) > 5
    assert complaints(ROOT) == []


# ---- the checker itself: what it must allow and what it must see -----------------------------------------------------


def _complaints_about_planted(root: Path, path: str, source: str) -> list[str]:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, encoding="utf-8")
    return complaints(root)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/dau.py", "import math\nimport torch.nn as nn\nfrom torch import Tensor\nimport coda_cli.core.held"),
        ("core/dau.py", "from .held import held\nfrom . import networks\nfrom coda_cli.errors import CodaError"),
        ("core/__init__.py", "from .held import held\nfrom . import held\nfrom ..errors import CodaError"),
        ("video/decoding.py", "def read():\n    import av\n    import coda_cli.media.stills"),
        ("video/animations.py", "def read():\n    import imageio.v3 as iio"),
        ("opencv.py", "from coda_cli.errors import UsageError\nimport cv2"),
        ("checkpoints/unpickling.py", "import pickle\nimport torch\nimport coda_cli.media.stills\ntorch.load('x')"),
        ("checkpoints/fetch.py", "import requests\nfrom coda_cli.checkpoints.published import PUBLISHED"),
        ("study/methods.py", "def ig():\n    from captum.attr import IntegratedGradients"),
        ("training/state.py", "import torch\nimport coda_cli.checkpoints.loading\ntorch.load('x', weights_only=True)"),
        ("explanation/naming.py", "from coda_cli import __version__\nimport json\njson.load"),
        ("explanation/picture.py", "from coda_cli import errors\nfrom coda_cli.schema import pictures"),
        ("cli/app.py", "import typer, rich\nfrom coda_cli.explanation import e\nprint('x')"),
        ("__init__.py", "from .explanation.picture import explain\nfrom coda_cli.core.decompose import decompose"),
        ("__main__.py", "from coda_cli.cli.app import main"),
        ("core/dau.py", "def save():\n    '''Text that says import typer and print(x).'''\n    self.print(torch.save)"),
    ],
)
def test_the_checker_allows_what_the_rules_allow(tmp_path: Path, path: str, source: str) -> None:
    assert _complaints_about_planted(tmp_path, path, source) == []


@pytest.mark.parametrize(
    ("path", "source", "line", "complaint"),
    [
        ("core/dau.py", "import torch\nfrom coda_cli.media.stills import read", 2, "coda_cli.media.stills.read"),
        ("core/dau.py", "def f():\n    from coda_cli.cli import app", 2, "coda_cli.cli.app"),
        ("core/dau.py", "from ..checkpoints import loading", 1, "coda_cli.checkpoints.loading"),
        ("core/__init__.py", "from ..schema import pictures", 1, "coda_cli.schema.pictures"),
        ("core/dau.py", "import coda_cli.explanation.run", 1, "coda_cli.explanation.run"),
        ("core/dau.py", "import coda_cli", 1, "imports coda_cli, which"),
        ("core/dau.py", "from coda_cli import decompose", 1, "coda_cli.decompose"),
        ("core/dau.py", "import importlib\nimportlib.import_module('coda_cli.cli.app')", 2, "coda_cli.cli.app"),
        ("core/dau.py", "if TYPE_CHECKING:\n    from coda_cli.render import colour", 2, "coda_cli.render.colour"),
        ("errors.py", "from coda_cli.core import held", 1, "coda_cli.core.held"),
        ("media/view.py", "from coda_cli.render.colour import c", 1, "coda_cli.render.colour.c"),
        ("render/colour.py", "from ..media import view", 1, "coda_cli.media.view"),
        ("training/loop.py", "from coda_cli.study import methods", 1, "coda_cli.study.methods"),
        ("schema/pictures.py", "import coda_cli.training.loop", 1, "coda_cli.training.loop"),
        ("checkpoints/loading.py", "from coda_cli import explain", 1, "coda_cli.explain"),
        ("explanation/run.py", "from coda_cli.cli.console import c", 1, "coda_cli.cli.console.c"),
        ("cli/app.py", "from coda_cli.__main__ import main", 1, "coda_cli.__main__.main"),
        ("plugins/new.py", "", 1, "has no rank"),
        ("core/dau.py", "import numpy as np", 1, "imports numpy"),
        ("core/dau.py", "def f():\n    import einops.layers", 2, "imports einops"),
        ("explanation/run.py", "import typer", 1, "imports typer"),
        ("explanation/run.py", "from rich.progress import track", 1, "imports rich"),
        ("study/localisation.py", "import captum.attr", 1, "imports captum"),
        ("media/stills.py", "import av", 1, "imports av"),
        ("core/networks.py", "import timm", 1, "imports timm, at home in core/standard_nets.py"),
        ("media/stills.py", "import imageio.v3", 1, "imports imageio"),
        ("explanation/naming.py", "from PIL import Image", 1, "imports PIL"),
        ("render/overlay.py", "import cv2", 1, "imports cv2, at home in opencv.py"),
        ("checkpoints/loading.py", "import requests", 1, "imports requests"),
        ("core/networks.py", "import torch\ntorch.load('x')", 2, "torch.load"),
        ("core/networks.py", "import torch as t\n\nf = t.load", 3, "torch.load"),
        ("core/networks.py", "from torch import load as read", 1, "torch.load"),
        ("core/networks.py", "import torch\ntorch.serialization.load('x')", 2, "torch.serialization.load"),
        ("checkpoints/fetch.py", "import pickle", 1, "pickle"),
        ("checkpoints/fetch.py", "from pickle import loads", 1, "pickle.loads"),
        ("explanation/run.py", "def f():\n    print('done')", 2, "prints"),
        ("core/dau.py", "import builtins\nbuiltins.print('x')", 2, "prints"),
    ],
)
def test_the_checker_sees_a_planted_breach(tmp_path: Path, path: str, source: str, line: int, complaint: str) -> None:
    _complaints_about_planted(tmp_path, "core/held.py", "import torch")
    found = _complaints_about_planted(tmp_path, path, source)
    assert len(found) >= 1
    assert all(text.startswith(f"{path}:{line} ") for text in found)
    assert complaint in found[0]
