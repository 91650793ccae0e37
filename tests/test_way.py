"""The way of a picture: how many calls lie between the command and the gradient, and through which files they go."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from conftest import Coda
from program import photos

import coda_cli

PACKAGE = str(Path(coda_cli.__file__).parent)
_CALLER = threading.local()


def _stack(frame: FrameType | None) -> list[CodeType]:
    """The functions of the package on a stack, the outermost first."""
    found = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            found.append(frame.f_code)
        frame = frame.f_back
    return found[::-1]


def _functions(stack: list[CodeType]) -> list[tuple[str, str]]:
    """(file, function) of a stack; a function and what is defined inside it count once."""
    found: list[tuple[str, str]] = []
    for code in stack:
        step = code.co_filename.removeprefix(PACKAGE + "/"), code.co_qualname
        if not found or not (step[0] == found[-1][0] and step[1].startswith(f"{found[-1][1]}.<locals>")):
            found.append(step)
    return found


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Filled with the functions from the command to the first gradient; threads continue their caller's stack."""
    found: list[tuple[str, str]] = []
    submit, grad = concurrent.futures.ThreadPoolExecutor.submit, torch.autograd.grad

    def submitted(pool: Any, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        before = getattr(_CALLER, "stack", []) + _stack(sys._getframe(1))

        def continued() -> Any:
            _CALLER.stack = before
            return call(*args, **more)

        return submit(pool, continued)

    def taken(*args: Any, **more: Any) -> Any:
        if not found:
            found.extend(_functions(getattr(_CALLER, "stack", []) + _stack(sys._getframe(1))))
        return grad(*args, **more)

    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", submitted)
    monkeypatch.setattr(torch.autograd, "grad", taken)
    return found


def _after(way: list[tuple[str, str]], command: tuple[str, str]) -> list[tuple[str, str]]:
    return way[way.index(command) + 1 :]


def _climbs(way: list[tuple[str, str]]) -> list[str]:
    """Files that a way comes back to after it has left them."""
    files = [file for n, (file, _) in enumerate(way) if n == 0 or way[n - 1][0] != file]
    return [file for n, file in enumerate(files) if file in files[:n]]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_is_seven_calls_from_its_gradient_and_none_climbs_back(
    coda: Coda, tmp_path: Path, way: list[tuple[str, str]], threads: int
) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        coda("explain", "in", "-o", "out")
    finally:
        torch.set_num_threads(before)
    command = ("cli/explain.py", "explain")
    calls = _after(way, command)
    assert len(calls) <= 7, calls
    assert _climbs([command, *calls]) == []


def test_the_checker_sees_a_climb() -> None:
    assert _climbs([("a.py", "f"), ("b.py", "g"), ("b.py", "h"), ("a.py", "f")]) == ["a.py"]
    assert _climbs([("a.py", "f"), ("a.py", "g"), ("b.py", "h")]) == []
