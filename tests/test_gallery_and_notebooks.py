"""The gallery and the notebooks are what their programs make, and the notebooks run."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from test_commands_in_documents import commands, refusal

ROOT = Path(__file__).resolve().parent.parent


def program_of(name: str) -> ModuleType:
    """A program of examples/, imported."""
    path = ROOT / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["gallery", "tutorial"])
def test_the_pictures_of_a_page_are_those_that_its_program_makes(page: str) -> None:
    gallery = program_of("gallery")
    pictures = [picture for picture, _ in gallery.shown(page)]
    text = (gallery.DOCS / f"{page}.md").read_text("utf-8")
    assert len(pictures) == len(set(pictures)) == text.count("![") > 6, (
        "a picture has no comment that says what it shows"
    )
    assert set((gallery.DOCS / "images" / page).iterdir()) == set(pictures), f"python examples/gallery.py {page}"
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.width <= gallery.WIDEST
        assert path.stat().st_size < (250_000 if path.suffix == ".jpg" else 500_000)


def test_the_commands_of_the_gallery_name_files_that_are_there() -> None:
    for arguments in commands((ROOT / "docs" / "gallery.md").read_text("utf-8")):
        assert refusal(arguments) is None, shlex.join(arguments)
        for word in arguments:
            assert not word.startswith("examples/") or (ROOT / word).exists(), word


@pytest.fixture
def notebooks() -> ModuleType:
    pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel")
    return program_of("notebooks/make")


def kept(name: str) -> dict[str, list[dict[str, object]]]:
    """A notebook that is kept, as JSON."""
    text = (ROOT / "examples" / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    found: dict[str, list[dict[str, object]]] = json.loads(text)
    return found


@pytest.mark.parametrize("name", ["first-explanations", "from-the-papers-notebooks"])
def test_a_notebook_runs_and_is_the_one_that_is_kept(
    name: str, notebooks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, sys.path)))  # the kernel is a process of its own
    run = notebooks.executed(notebooks.composed(notebooks.NOTEBOOKS[name]))
    stored = kept(name)["cells"]
    assert ["".join(cell["source"]) for cell in stored] == [cell.source for cell in run.cells]  # type: ignore[arg-type]
    for cell, old in zip(run.cells, stored, strict=True):
        if cell.cell_type == "code":
            assert len(cell.outputs) == len(old["outputs"]), cell.source  # type: ignore[arg-type]
            assert not [output for output in cell.outputs if output.get("name") == "stderr"], cell.source


def test_lines_that_a_kernel_sends_in_pieces_are_one_output(notebooks: ModuleType) -> None:
    cell = "import time\nfor piece in ('a', 'b', 'c'):\n    print(piece, flush=True)\n    time.sleep(0.5)"
    (ran,) = notebooks.executed(notebooks.composed([notebooks.code(cell)])).cells
    assert [(output.name, output.text) for output in ran.outputs] == [("stdout", "a\nb\nc\n")]


def test_the_notebooks_that_are_kept_are_those_of_the_program() -> None:
    folder = ROOT / "examples" / "notebooks"
    assert {path.stem for path in folder.glob("*.ipynb")} == {"first-explanations", "from-the-papers-notebooks"}
    for path in folder.glob("*.ipynb"):
        assert path.stat().st_size < 600_000
        cells = kept(path.stem)["cells"]
        assert all(cell["outputs"] for cell in cells if cell["cell_type"] == "code"), path.name
