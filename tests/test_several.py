"""coda evaluate over several networks and methods, and over all pictures of a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Coda

from coda_cli.checkpoints.loading import load

LOCALISATION = ("localisation", "--grid", "2x2", "--grids", "2", "--threshold", "0")
REMOVAL = ("removal", "--pictures", "3", "--points", "2")


@pytest.mark.parametrize(("command", "window"), [(LOCALISATION, 32), (REMOVAL, 16)], ids=["localisation", "removal"])
def test_several_methods_and_networks_are_each_measured_as_alone(
    coda: Coda, scenes: Path, tmp_path: Path, command: tuple[str, ...], window: int
) -> None:
    shutil.copy(load("cifar10").path, tmp_path / "mine.safetensors")
    networks, methods = ("cifar10", "mine.safetensors"), ("ours", f"occlusion:window={window},stride={window}")
    asked = [word for name in networks for word in ("-m", name)] + [word for m in methods for word in ("--method", m)]
    together = coda("evaluate", *command, scenes, *asked, "--json", "--plot", "all.png").records
    pairs = [(name, method) for name in networks for method in methods]
    assert [r["method"] for r in together] == [method for _, method in pairs]
    for record, (name, method) in list(zip(together, pairs, strict=True))[-1:]:
        alone = coda("evaluate", *command, scenes, "-m", name, "--method", method, "--json").record
        assert record | {"seconds": 0} == alone | {"seconds": 0}
    assert (tmp_path / "all.png").stat().st_size > 10_000
    heading, *lines = coda("evaluate", *command, scenes, *asked[:2], *asked[4:]).lines
    assert heading.split()[:2] == ["network", "method"]
    assert [tuple(line.split()[:2]) for line in lines] == pairs[:2]
    said = coda("evaluate", *command, scenes, *asked, "--scores", "s.jsonl", status=2).error
    assert said.startswith("--scores: is a file of one method on one network")
    said = coda("evaluate", *command, scenes, "-m", "cifar10", "-m", "cifar10", status=2).error
    assert said == "--model cifar10: is given twice"


def test_what_was_measured_before_an_error_is_not_lost(coda: Coda, scenes: Path) -> None:
    """The pictures are those that one network sorts; no grid of them can be made for the other."""
    result = coda("evaluate", *LOCALISATION, scenes, "-m", "cifar10", "-m", "cifar10-bcos", status=1)
    assert [line.split()[0] for line in result.lines] == ["network", "cifar10"]
    assert result.error.endswith("above 0; try a lower --threshold, or more pictures")  # not --grid 2x2


def test_all_pictures_of_a_folder_count_when_asked(coda: Coda, scenes: Path) -> None:
    command = ("evaluate", "removal", scenes / "test", "--pictures", "1000", "--points", "1", "--json")
    some, every = coda(*command), coda(*command, "--all")
    count = len(list((scenes / "test").rglob("*.png")))
    assert (some.record["pictures"], every.record["pictures"]) == (-(-count // 10), count)
    assert "every tenth, as coda train holds them out; --all takes all" in some.err
    assert "tenth" not in every.err
