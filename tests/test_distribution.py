"""The wheel and the sdist: what they hold and say, and that the checker sees what is wrong with one."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import distribution
import pytest


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distribution.build(tmp_path_factory.mktemp("built"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distribution.build(tmp_path_factory.mktemp("built"), "sdist")


def test_a_wheel_has_everything_that_the_program_reads_and_nothing_else(wheel: Path) -> None:
    assert list(distribution.faults_of_wheel(wheel)) == []
    assert (distribution.ROOT / "weights" / "imagenet.safetensors").stat().st_size < 40_000_000


def test_an_sdist_has_the_tree_and_makes_the_same_wheel(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    again = distribution.wheel_of(sdist, tmp_path)
    assert list(distribution.faults_of_sdist(sdist, wheel, again)) == []


def test_a_registry_takes_both(wheel: Path, sdist: Path) -> None:
    if importlib.util.find_spec("twine") is None:
        pytest.skip("twine is not installed: pip install twine")
    assert list(distribution.faults_by_twine(wheel, sdist)) == []


# ---- the checker itself ----------------------------------------------------------------------------------------------


def changed(wheel: Path, folder: Path, left_out: str, added: str = "") -> Path:
    """A copy of a wheel without its large files, without one more, and with another."""
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            if name != left_out:
                new.writestr(name, b"" if name.endswith(".safetensors") else old.read(name))
        if added:
            new.writestr(added, "")
    return copy


@pytest.mark.parametrize(
    ("left_out", "added", "fault"),
    [
        ("coda_cli/weights/imagenet.safetensors", "", "lacks coda_cli/weights/imagenet.safetensors"),
        ("coda_cli/py.typed", "", "lacks coda_cli/py.typed"),
        ("", "tests/conftest.py", "has tests/conftest.py"),
        ("LICENCE", "", "lacks the licence"),
    ],
)
def test_a_fault_is_seen(wheel: Path, tmp_path: Path, left_out: str, added: str, fault: str) -> None:
    if left_out == "LICENCE":
        (left_out,) = (name for name in distribution.contents(wheel) if name.endswith("licenses/LICENSE"))
    assert any(fault in line for line in distribution.faults_of_wheel(changed(wheel, tmp_path, left_out, added)))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (".github/workflows/tests.yml", "lacks .github/workflows/tests.yml"),
        ("Containerfile", "lacks Containerfile"),
        ("notes.txt", "has notes.txt, which is not under version control"),
    ],
)
def test_a_file_too_few_or_too_many_in_a_source_is_seen(wheel: Path, sdist: Path, name: str, fault: str) -> None:
    holds = distribution.contents(sdist)
    holds = {other: size for other, size in holds.items() if other != name} | ({} if name in holds else {name: 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "contents", lambda built: holds if built == sdist else {})
        assert list(distribution.faults_of_sdist(sdist, wheel, wheel)) == [f"{sdist.name} {fault}"]


def test_a_wheel_that_a_source_does_not_make_is_seen(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    other = changed(wheel, tmp_path, "coda_cli/py.typed")
    (fault,) = distribution.faults_of_sdist(sdist, wheel, other)
    assert "coda_cli/py.typed" in fault
