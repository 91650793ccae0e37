"""The house in order: lint, types, and what a built wheel carries."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from coda_cli.cli.man import pages

ROOT = Path(__file__).resolve().parent.parent


# What every commit passes: .pre-commit-config.yaml runs the same.
CHECKS = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])


@pytest.mark.parametrize("command", CHECKS, ids=" ".join)
def test_the_tree_passes(command: list[str]) -> None:
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_hooks_before_a_commit_are_these_checks() -> None:
    yaml = pytest.importorskip("yaml")
    configured = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repository in configured["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in configured["repos"]} == {"local"}  # nothing from elsewhere
    assert [hook["entry"].split() for hook in hooks] == [["python", "-m", *command] for command in CHECKS]
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in hooks)


def test_a_wheel_carries_the_default_weights_and_everything_the_program_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = [
        "weights/index.json",
        "weights/imagenet.safetensors",
        "weights/imagenette.safetensors",
        "weights/cifar10.safetensors",
        "weights/cifar10-bcos.safetensors",
        "checkpoints/classes.json",
        "py.typed",
    ]
    files = [p for kind in ("py", "html", "css", "js") for p in (ROOT / "coda_cli").rglob(f"*.{kind}")]
    wanted += [str(p.relative_to(ROOT / "coda_cli")) for p in files]
    assert {f"coda_cli/{name}" for name in wanted} <= names
    data = f"coda_cli-{wheel.name.split('-')[1]}.data/data/share/man/man1"
    assert {f"{data}/{page}" for page in pages("")} == {name for name in names if "/man/" in name}
    assert not any(name.startswith(("tests/", "examples/")) for name in names)
    assert wheel.stat().st_size < 64_000_000
    assert (ROOT / "weights" / "imagenet.safetensors").stat().st_size < 40_000_000


def test_nothing_in_the_project_names_a_path_of_a_machine_or_a_registry() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not a git checkout")
    # Put together here, or this file would name them itself.
    forbidden = re.compile(
        "|".join(["/" + "work/", "/" + "root/", "/" + "tmp/w", "pypi" + r"\.org", "python" + "hosted"]).encode()
    )
    for name in files.stdout.splitlines():  # also pictures, which carry their record, and weights
        found = forbidden.search((ROOT / name).read_bytes())
        assert not found, f"{name}: {found and found.group()!r}"
