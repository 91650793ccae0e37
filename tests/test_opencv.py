"""OpenCV that cannot be imported: one line with the way out, for the program and for Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import program
import pytest

from coda_cli.errors import UsageError

Coda = Callable[..., program.Result]
NO_LIBRARY = "libGL.so.1: cannot open shared object file: No such file or directory"
NOT_THERE = "No module named 'cv2'"
WAY_OUT = "pip install --force-reinstall opencv-python-headless"


def broken(folder: Path, said: str, name: str | None = None) -> Path:
    """A folder with a cv2 that raises an ImportError, which says ``said``."""
    (folder / "cv2.py").write_text(f"raise ImportError({said!r}, name={name!r})\n")
    return folder


@pytest.fixture
def imported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if neither OpenCV nor the module that imports it had been imported before."""
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.delitem(sys.modules, "coda_cli.opencv", raising=False)


def test_the_program_says_what_to_install_and_starts_nothing(coda_process: Coda, tmp_path: Path) -> None:
    picture = program.photo(tmp_path / "a.png")
    first = os.pathsep.join([str(broken(tmp_path, NO_LIBRARY)), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = coda_process("explain", picture, "-o", "out", status=2, env={"PYTHONPATH": first})
    assert NO_LIBRARY in result.error
    assert WAY_OUT in result.error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("imported_anew")
@pytest.mark.parametrize(("said", "name"), [(NO_LIBRARY, None), (NOT_THERE, "cv2")])
def test_what_is_missing_is_an_error_of_coda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, name: str | None
) -> None:
    monkeypatch.syspath_prepend(broken(tmp_path, said, name))
    with pytest.raises(UsageError, match=WAY_OUT):
        import_module("coda_cli.opencv")


@pytest.mark.usefixtures("imported_anew")
def test_memory_that_runs_out_while_it_loads_is_another_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(broken(tmp_path, "libavif.so: failed to map segment from shared object"))
    with pytest.raises(ImportError, match="failed to map segment"):
        import_module("coda_cli.opencv")
