"""Fixtures for tests of the program as a program; see program.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import program
import pytest

Coda = Callable[..., program.Result]


@pytest.fixture
def coda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Coda:
    """``coda(*args, status=0, input=None, env=None, cwd=None)``: the real ``main`` in this process, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path, env: dict[str, str] | None = None, **more: object) -> program.Result:
        # Nothing is pulled: what messages say must not depend on this machine's cache.
        nothing_pulled = {"CODA_CACHE_DIR": str(tmp_path / ".cache")}
        return program.run(*args, env=nothing_pulled | (env or {}), **more)  # type: ignore[arg-type]

    return run


@pytest.fixture
def coda_process(tmp_path: Path) -> Coda:
    """The same as a real child: for streams, signals, imports and times."""

    def run(*args: str | Path, cwd: Path = tmp_path, **more: object) -> program.Result:
        return program.run_process(*args, cwd=cwd, **more)  # type: ignore[arg-type]

    return run
