"""Builds what is released, a wheel and an sdist, and checks them; also as a program:

    python tests/distribution.py dist/               builds, checks what is inside, and asks twine
    python tests/distribution.py dist/ --install     the same, then installs the wheel alone and explains a picture
    python tests/distribution.py dist/ --install python3.11 python3.12 python3.13     the same with each of these

The program prints the sizes, and of installations the table of sizes and times that docs/install.md has. It prints a
line for each fault, with which it ends with exit status 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
LARGEST_WHEEL = 64_000_000  # bytes
NETWORKS = ("imagenet", "imagenette", "cifar10", "cifar10-bcos")
# What the program reads beside code; a new kind of file is missing in nobody's wheel.
KINDS = ("py", "html", "css", "js", "json")
ADDED = {"PKG-INFO"}  # by the build, to an sdist


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


def tree() -> set[str]:
    """The files that an sdist holds: those under version control; of an sdist's tree all that do not come of a run."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}
    return {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part.endswith("_cache") for part in path.parts)
    } - ADDED


def faults_of_sdist(sdist: Path, wheel: Path, again: Path) -> Iterator[str]:
    """A line for everything that an sdist lacks or has too much of. ``again`` is a wheel that was built from it."""
    names, wanted = set(contents(sdist)) - ADDED, tree()
    yield from (f"{sdist.name} lacks {name}" for name in sorted(wanted - names))
    yield from (f"{sdist.name} has {name}, which is not under version control" for name in sorted(names - wanted))
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


@dataclass(frozen=True)
class Clock:
    """How long a program took on the clock, and how long it and its children kept processors busy, in seconds."""

    wall: float
    processor: float

    def __str__(self) -> str:
        return f"{self.wall:.0f} s ({self.processor:.0f} s of processors)"


def clocked(command: Sequence[str | Path], folder: Path, environment: dict[str, str]) -> Clock:
    """Run a program in a folder; what it prints is shown if it fails, which is raised."""
    busy, begun = os.times(), time.monotonic()
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall, now = time.monotonic() - begun, os.times()
    if run.returncode:
        print(run.stdout + run.stderr, end="", file=sys.stderr)
        run.check_returncode()
    return Clock(wall, now.children_user - busy.children_user + now.children_system - busy.children_system)


# What a torch with CUDA brings that one without has not: packages of NVIDIA, a compiler, and libraries of torch itself.
CUDA = r"/site-packages/(nvidia|triton|cuda)|/torch/lib/lib[^/]*(cuda|cudnn|nv)[^/]*\.so"


@dataclass(frozen=True)
class Sizes:
    """What lies in an environment, in MB."""

    coda: int
    all: int
    cuda: int

    @classmethod
    def of(cls, environment: Path) -> Sizes:
        """Measure an environment into which coda has been installed."""
        sizes = {path.relative_to(environment): path.lstat().st_size for path in environment.rglob("*")}

        def sum_of(pattern: str) -> int:
            return round(sum(size for path, size in sizes.items() if re.search(pattern, path.as_posix())) / 1e6)

        return cls(sum_of("/site-packages/coda_cli"), sum_of(""), sum_of(CUDA))


@dataclass(frozen=True)
class Trial:
    """What one installation took, as a row of the table in docs/install.md."""

    python: str
    install: Clock
    sizes: Sizes
    first: Clock
    again: Clock

    def row(self) -> str:
        """The row, in Markdown."""
        cells = (self.python, self.install, self.sizes.coda, self.sizes.all, self.sizes.cuda, self.first, self.again)
        return f"| {' | '.join(map(str, cells))} |"


TABLE = """\
| Python | installed in | coda, MB | with all it needs, MB | of it for NVIDIA GPUs, MB | first picture | second time |
|---|---|---|---|---|---|---|"""


def install_alone(wheel: Path, folder: Path, python: str) -> Trial:
    """Install a wheel into an empty environment of ``python``, and explain a picture twice.

    Raises:
        CalledProcessError: if a program ends with another exit status than 0.
        AssertionError: if the explanation is not there.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CODA_"))}
    programs = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    begun = clocked([python, "-m", "venv", folder / "env"], folder, clean)
    filled = clocked([programs / "pip", "install", "--quiet", wheel], folder, clean)
    said = subprocess.run([programs / "coda", "--version"], env=clean, check=True, capture_output=True, text=True)
    version = subprocess.run([programs / "python", "-V"], check=True, capture_output=True, text=True)
    print(f"{version.stdout.strip()}: {said.stdout.strip()}", file=sys.stderr)
    picture = str(ROOT / "examples" / "pictures" / "church.png")
    first, again = (
        clocked([programs / "coda", "explain", picture, "-o", name], folder, clean) for name in ("first", "again")
    )
    for name in ("first", "again"):
        assert (folder / name / "church.church.overlay.png").exists(), f"{python}: no explanation in {name}"
    install = Clock(begun.wall + filled.wall, begun.processor + filled.processor)
    return Trial(version.stdout.split()[1], install, Sizes.of(folder / "env"), first, again)


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
        rows = []
        for python in (asked.install or [sys.executable]) if asked.install is not None and not faults else ():
            with tempfile.TemporaryDirectory() as empty:
                try:
                    rows.append(install_alone(wheel, Path(empty), python).row())
                except (AssertionError, OSError, subprocess.CalledProcessError) as error:
                    faults.append(f"{wheel.name}, installed alone: {error}")
        if rows:
            print("\n".join([TABLE, *rows]))
        print("\n".join(faults) or "no faults")
        if not faults:
            asked.folder.mkdir(parents=True, exist_ok=True)
            for built in (wheel, sdist):
                (asked.folder / built.name).write_bytes(built.read_bytes())
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
