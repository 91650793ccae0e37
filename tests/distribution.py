"""Builds what is released, a wheel and an sdist, and checks them; also as a program:

    python tests/distribution.py dist/               builds, checks what is inside, and asks twine
    python tests/distribution.py dist/ --install     the same, then installs the wheel alone and explains a picture
    python tests/distribution.py dist/ --install python3.11 python3.12 python3.13     the same with each of these

The program prints sizes and times, as docs/install.md states them, and a line for each fault, with which it ends with
exit status 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
LARGEST_WHEEL = 64_000_000  # bytes
NETWORKS = ("imagenet", "imagenette", "cifar10", "cifar10-bcos")
# What the program reads beside code; a new kind of file is missing in nobody's wheel.
KINDS = ("py", "html", "css", "js", "json")
OUTSIDE = ("tests", "docs", "examples", "weights")  # of the sdist, and of no wheel
BESIDE = ("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "mkdocs.yml")


def build(folder: Path, kind: str, source: Path = ROOT) -> Path:
    """Build a "wheel" or an "sdist" of a tree into a folder of its own below ``folder``."""
    place = folder / kind
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(place)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = place.iterdir()
    return built


def contents(built: Path) -> dict[str, int]:
    """The files of a wheel or an sdist, each with its size in bytes; those of an sdist without its first folder."""
    if built.suffix == ".whl":
        with zipfile.ZipFile(built) as archive:
            return {entry.filename: entry.file_size for entry in archive.infolist()}
    with tarfile.open(built) as archive:
        return {entry.name.partition("/")[2]: entry.size for entry in archive if entry.isfile()}


def faults_of_wheel(wheel: Path) -> Iterator[str]:
    """A line for everything that a wheel lacks, or has too much of."""
    names = set(contents(wheel))
    files = [path for kind in KINDS for path in (ROOT / "coda_cli").rglob(f"*.{kind}")]
    wanted = {path.relative_to(ROOT).as_posix() for path in files} | {
        "coda_cli/py.typed",
        "coda_cli/weights/index.json",
    }
    wanted |= {f"coda_cli/weights/{name}" for name in ("index.json", *(f"{n}.safetensors" for n in NETWORKS))}
    wanted |= {"coda_cli/py.typed"}
    yield from (f"{wheel.name} lacks {name}" for name in sorted(wanted - names))
    for name in sorted(names):
        first = PurePosixPath(name).parts[0]
        if first != "coda_cli" and not first.endswith(".dist-info") and "/share/man/man1/coda" not in name:
            yield f"{wheel.name} has {name}, which is no part of the program"
        if "__pycache__" in name:
            yield f"{wheel.name} has {name}, which is no source"
    for page in ("coda.1", "coda-explain.1", "coda-models-pull.1"):
        if not any(name.endswith(f".data/data/share/man/man1/{page}") for name in names):
            yield f"{wheel.name} lacks the manual page {page}"
    if wheel.stat().st_size > LARGEST_WHEEL:
        yield f"{wheel.name} has {wheel.stat().st_size} bytes; at most {LARGEST_WHEEL}"
    yield from _faults_of_metadata(wheel)


def _faults_of_metadata(wheel: Path) -> Iterator[str]:
    """A line for everything that the metadata of a wheel say otherwise than pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    with zipfile.ZipFile(wheel) as archive:
        said = Parser().parsestr(archive.read(f"{stem}.dist-info/METADATA").decode())
        scripts = archive.read(f"{stem}.dist-info/entry_points.txt").decode()
        licences = [name for name in archive.namelist() if name.startswith(f"{stem}.dist-info/licenses/")]
    for name, value in {
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "License-Expression": project["license"],
        "Requires-Python": project["requires-python"],
        "Description-Content-Type": "text/markdown",
    }.items():
        if said[name] != value:
            yield f"{wheel.name} says {name}: {said[name]}, and not {value}"
    if said.get_payload() != (ROOT / "README.md").read_text("utf-8"):
        yield f"{wheel.name} describes itself by another text than README.md"
    if not licences:
        yield f"{wheel.name} lacks the licence"
    if f"coda = {project['scripts']['coda']}" not in scripts:
        yield f"{wheel.name} installs no program named coda"


def faults_of_sdist(sdist: Path, wheel: Path, again: Path) -> Iterator[str]:
    """A line for everything that an sdist lacks. ``again`` is a wheel that was built from it."""
    names = set(contents(sdist))
    yield from (f"{sdist.name} lacks {name}" for name in (*BESIDE, "pyproject.toml") if name not in names)
    yield from (
        f"{sdist.name} lacks the folder {name}"
        for name in OUTSIDE
        if not any(other.startswith(f"{name}/") for other in names)
    )
    if contents(wheel) != contents(again):
        differing = sorted({name for name, _ in contents(wheel).items() ^ contents(again).items()})
        yield f"{sdist.name} makes another wheel than the tree does: {', '.join(differing[:5])}"


def wheel_of(sdist: Path, folder: Path) -> Path:
    """Build a wheel from an sdist, in a folder where nothing else of the tree is."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return build(folder, "wheel", source=folder / sdist.name.removesuffix(".tar.gz"))


def faults_by_twine(*built: Path) -> Iterator[str]:
    """A line for everything that twine finds, for example a description that a registry cannot show."""
    run = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)], capture_output=True, text=True
    )
    if run.returncode:
        yield f"twine: {' '.join((run.stdout + run.stderr).split())}"


def install_alone(wheel: Path, folder: Path, python: str) -> Iterator[str]:
    """Install a wheel into an empty environment of ``python``, explain a picture, print sizes and times."""
    begun = time.monotonic()
    subprocess.run([python, "-m", "venv", folder / "env"], check=True)
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([programs / "pip", "install", "--quiet", str(wheel)], check=True)
    said = subprocess.run([programs / "python", "-VV"], check=True, capture_output=True, text=True).stdout
    size = sum(path.lstat().st_size for path in (folder / "env").rglob("*"))
    largest = _largest(folder / "env")
    print(f"{said.split(' (')[0]}: installed in {time.monotonic() - begun:.0f} s, {size / 1e6:.0f} MB; {largest}")
    picture = ROOT / "examples" / "pictures" / "church.png"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CODA_"))}
    begun = time.monotonic()
    run = subprocess.run(
        [programs / "coda", "explain", str(picture), "-o", "out"], cwd=folder, env=clean, capture_output=True, text=True
    )
    print(run.stdout + run.stderr, end="")
    print(f"first picture explained in {time.monotonic() - begun:.1f} s")
    if run.returncode or not (folder / "out" / "church.church.overlay.png").exists():
        yield f"{wheel.name}, installed alone in {python}, explains no picture: exit status {run.returncode}"


def _largest(environment: Path) -> str:
    """What takes most of an environment: the folders of packages above 100 MB."""
    sizes = {
        folder.name: sum(path.lstat().st_size for path in folder.rglob("*"))
        for folder in environment.glob("lib*/**/site-packages/*")
        if folder.is_dir()
    }
    large = sorted((size, name) for name, size in sizes.items() if size > 100e6)
    return ", ".join(f"{name} {size / 1e6:.0f} MB" for size, name in reversed(large))


def main() -> int:
    """Build, check, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument(
        "--install",
        metavar="PYTHON",
        nargs="*",
        help="also install the wheel alone, with each of these interpreters (this one); downloads all it needs",
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        wheel, sdist = build(room, "wheel"), build(room, "sdist")
        faults = [*faults_of_wheel(wheel), *faults_of_sdist(sdist, wheel, wheel_of(sdist, room / "from-sdist"))]
        if importlib.util.find_spec("twine"):
            faults += faults_by_twine(wheel, sdist)
        else:
            print("twine is not installed: its check is left out")
        for built in (wheel, sdist):
            print(f"{built.name}: {built.stat().st_size / 1e6:.1f} MB, {len(contents(built))} files")
        for python in (asked.install or [sys.executable]) if asked.install is not None and not faults else ():
            with tempfile.TemporaryDirectory() as empty:
                faults += install_alone(wheel, Path(empty), python)
        print("\n".join(faults) or "no faults")
        if not faults:
            asked.folder.mkdir(parents=True, exist_ok=True)
            for built in (wheel, sdist):
                (asked.folder / built.name).write_bytes(built.read_bytes())
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
