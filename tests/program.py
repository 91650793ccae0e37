"""The program as a program: the real ``main`` inside this process, or a real child. What tests see is what a user sees.

Every run is held to what is always promised: the exit status the test expects, no traceback, nothing on stderr but
coda's own lines, and, with --json, nothing on stdout but strict JSON that says which schema it is.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

import numpy as np
import pytest
import torch
import typer.main
from numpy.typing import NDArray
from PIL import Image

from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.checkpoints.saving import save
from coda_cli.cli import app as cli_app
from coda_cli.cli.console import console
from coda_cli.core.networks import build
from coda_cli.errors import STOPPING
from coda_cli.schema.pictures import from_json

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HELD = Path(__file__).resolve().parent / "held"
PATIENCE = 300  # seconds for a child; only one that hangs takes as long, whatever else this machine does
MODEL = "cifar10"  # what the tests run, whatever the default is: small pictures, known classes, fast
_COMMAND = cache(typer.main.get_command)  # reading the signatures of all commands takes 40 ms, a fifth of many a run
_OURS = re.compile(r"CODA_|NO_COLOR$|FORCE_COLOR$|TTY_|COLUMNS$|CI$")  # the developer's shell must not matter


@dataclass(frozen=True)
class Result:
    """How a run of the program ended and what it wrote to its streams."""

    args: tuple[str, ...]
    exit_status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of stdout."""
        return self.out.removesuffix("\n").split("\n") if self.out else []

    @property
    def records(self) -> list[dict[str, Any]]:
        """Every line of stdout as a JSON object; NaN and Infinity are no JSON."""
        return [strict_json(line) for line in self.lines]

    @property
    def record(self) -> dict[str, Any]:
        """The only line of stdout as a JSON object."""
        (record,) = self.records
        return record

    @property
    def errors(self) -> list[str]:
        """The messages of the errors on stderr, a line each."""
        return [line.removeprefix("coda: error: ") for line in self.err.splitlines() if line.startswith("coda: error:")]

    @property
    def error(self) -> str:
        """The only error on stderr."""
        (error,) = self.errors
        return error

    def __str__(self) -> str:
        return f"coda {' '.join(self.args)}\n-> {self.exit_status}\n-- stdout\n{self.out}\n-- stderr\n{self.err}"


def strict_json(text: str) -> dict[str, Any]:
    """A JSON object in which no number is NaN or infinite."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON: {text[:200]}")

    value = json.loads(text, parse_constant=refuse)
    assert isinstance(value, dict)
    return value


def run(
    *args: str | Path,
    status: int = 0,
    input: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run ``coda ARGS`` in this process, with ``input`` on stdin; anything but the exit ``status`` fails the test."""
    texts = tuple(map(str, args))
    before = _threads()
    with pytest.MonkeyPatch.context() as patch, _captured(patch) as (out, err):
        for name in [name for name in os.environ if _OURS.match(name)]:
            patch.delenv(name)
        for name, value in {"CODA_MODEL": MODEL, **(env or {})}.items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        patch.setattr(sys, "argv", ["coda", *texts])
        patch.setattr(typer.main, "get_command", _COMMAND)
        data = input.encode() if isinstance(input, str) else input or b""
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        ended = _run_main()
        sys.stdout.flush()
        sys.stderr.flush()
        result = Result(texts, ended, _read(out), _read(err))
    assert _threads() <= before, f"threads still run after {result}"
    return checked(result, status)


def _threads() -> set[str]:
    """The threads of this process but the lanes, which stay for the next batch.

    A test's server must answer in its one thread (``local_server``): a thread for each request may outlive the answer.
    """
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("lane")}


def _run_main() -> int:
    # The program's voice and its signal handlers belong to a process, and this process runs it many times.
    console.verbosity, console._rich, console._said_interrupted = 0, None, False
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    try:
        cli_app.main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        console.verbosity, console._rich, console._said_interrupted = 0, None, False
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _captured(patch: pytest.MonkeyPatch) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Both streams into files, at the level of file descriptors: C libraries write past Python's."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            # As Python sets them up for a pipe: names that are no UTF-8 cannot be printed on stdout.
            with (
                open(1, "w", encoding="utf-8", closefd=False) as stdout,
                open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as stderr,
            ):
                patch.setattr(sys, "stdout", stdout)
                patch.setattr(sys, "stderr", stderr)
                yield out, err
        finally:
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)
            os.close(kept[0])
            os.close(kept[1])


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


def run_process(
    *args: str | Path,
    status: int = 0,
    input: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    python: Sequence[str] = (),
) -> Result:
    """Run ``python -m coda_cli ARGS`` as a child; ``python`` are options of the interpreter."""
    data = input.encode() if isinstance(input, str) else input or b""
    child = subprocess.run(
        command(*args, python=python), input=data, env=environment(env), cwd=cwd, capture_output=True, timeout=PATIENCE
    )
    result = Result(tuple(map(str, args)), child.returncode, child.stdout.decode(), child.stderr.decode())
    return result if python else checked(result, status)


def peak_memory(*args: str | Path, cwd: Path) -> int:
    """The most memory in bytes that a child running ``coda ARGS`` had resident. Linux; skips elsewhere.

    Not ``ru_maxrss``: a child's starts at what its parent had.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("reads /proc")
    code = (
        "import sys; from coda_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1], file=sys.stderr)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return 1024 * int(child.stderr.splitlines()[-1])


class Child(subprocess.Popen[bytes]):
    """A running child of a test; where its records are held, ``go`` is the file that lets it go on."""

    go: Path | None = None

    def let_go(self) -> None:
        """Write all that is left to write."""
        if self.go:
            self.go.touch()


@contextmanager
def started(
    *args: str | Path, cwd: Path, stdout: int = subprocess.PIPE, group: bool = False, most: int | None = None
) -> Iterator[Child]:
    """``python -m coda_cli ARGS`` as a running child, for tests that meddle with it; it does not outlive the block.

    With ``group`` the child and its own children are a group of processes, as a terminal has them. With ``most`` they
    write so many records, whichever come first, and the next ones when it is let go: whoever disturbs the run does not
    come too late.
    """
    with tempfile.TemporaryDirectory() as folder:
        held = {} if most is None else {
            "HELD_FOLDER": folder,
            "HELD_MOST": str(most),
            "PYTHONPATH": os.pathsep.join((str(HELD), *filter(None, [os.environ.get("PYTHONPATH")]))),
        }  # fmt: skip
        with Child(
            command(*args),
            cwd=cwd,
            env=environment(held),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            start_new_session=group,
        ) as child:
            child.go = Path(folder, "go")
            try:
                yield child
            finally:
                if child.poll() is None:
                    child.kill()


def wait_for_records(output: Path, count: int, child: subprocess.Popen[bytes]) -> None:
    """Wait until a child that is still at work has written so many records."""
    until = time.monotonic() + PATIENCE
    while len(list(output.rglob("*.coda.json"))) < count:
        assert time.monotonic() < until
        assert child.poll() is None, "it ended before it was disturbed"
        time.sleep(0.01)


def children_of(pid: int, word: bytes) -> list[int]:
    """The children of a process with this word in their command lines. Linux."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread or a process that ends while one looks
            for child in map(int, (task / "children").read_text().split()):
                with suppress(FileNotFoundError, ProcessLookupError):
                    if word in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(child)
    return found


def wait_for_the_end(pids: Sequence[int]) -> None:
    """Wait until processes of others have ended, also where nobody asks how: their first process may not. Linux."""
    until = time.monotonic() + PATIENCE
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                assert time.monotonic() < until
                time.sleep(0.05)


def finish(child: Child, status: int) -> Result:
    """Let a started child go on and wait for it; it must end with ``status``."""
    child.let_go()
    out, err = child.communicate(timeout=PATIENCE)
    arguments = child.args if isinstance(child.args, list) else []
    return checked(Result(tuple(arguments[3:]), child.returncode, (out or b"").decode(), err.decode()), status)


def command(*args: str | Path, python: Sequence[str] = ()) -> list[str]:
    """The command line of a child."""
    return [sys.executable, *python, "-m", "coda_cli", *map(str, args)]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment for a child, without what would change the program."""
    kept = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
    return kept | {"OMP_NUM_THREADS": "1", "CODA_MODEL": MODEL} | dict(more or {})


def checked(result: Result, status: int) -> Result:
    """The result, if it is what every run promises."""
    assert result.exit_status == status, f"expected exit status {status}: {result}"
    assert "Traceback" not in result.err + result.out, str(result)
    strange = [line for line in result.err.splitlines() if not line.startswith("coda: ")]
    assert not strange, f"not coda's own words on stderr: {strange} {result}"
    if status not in (0, 130, 143):
        assert result.errors, f"failed without an error message: {result}"
    if "--json" in result.args:
        assert all(record["schema"] for record in result.records)
    return result


def looked_at(coda: Callable[..., Result], *args: str | Path, **more: Any) -> Result:
    """A run that writes nothing and explains class 0, its records on stdout."""
    return coda("explain", *args, "--class", "0", "--write", "none", "--json", **more)


def names_of(result: Result) -> list[str]:
    """The inputs of a run with --json, in order."""
    return [record["source"]["path"] for record in result.records]


def check_whole(folder: Path) -> None:
    """Everything in an output folder is whole: no temporary files, and records whose files are there."""
    assert not [name for name in tree(folder) if name.endswith(".part")]
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            from_json(picture.info["coda"])
    for path in folder.rglob("*.json"):
        record = from_json(path.read_text(encoding="utf-8"))
        assert all((folder / name).exists() for e in record.explained for name in e.files.values())


class FullDisk:
    """``os`` as the writer of files sees it, on a disk that is full after a number of files."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        os.fsync(handle)
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- inputs ----------------------------------------------------------------------------------------------------------


def scene(width: int = 50, height: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """A picture uint8 [H, W, 3] with smooth shapes and some grain, different for every seed and side."""
    generator = np.random.default_rng((seed, width, height))
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int64)
    grain = generator.integers(-12, 13, (height, width, 3))
    picture: NDArray[np.uint8] = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    return picture


def photo(path: Path, width: int = 50, height: int = 40, seed: int = 0) -> Path:
    """Such a picture as a file, in the format of its suffix; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene(width, height, seed)).save(path)
    return path


def moving(path: Path) -> Path:
    """An animation of three pictures, in the format of its suffix."""
    frames = [Image.fromarray(scene(seed=seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def photos(folder: Path, *names: str) -> list[Path]:
    """Pictures of these names, each with a content of its own."""
    return [photo(folder / name, seed=seed) for seed, name in enumerate(names)]


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder with their bytes; names relative and with /."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def woollen(path: Path, classes: tuple[str, ...] = ("Cardigan", "cardigan")) -> Path:
    """A network whose classes differ in case alone, as two of ImageNet's do: Cardigan, a dog, and cardigan."""
    torch.manual_seed(0)
    arguments = {
        "channels": [6, 4, 2],
        "kernels": [3, 1],
        "strides": [2, 1],
        "ranks": [2, 2],
        "norm": "SQ",
        "temperature": 1.0,
    }
    checkpoint = Checkpoint(
        name="woollen",
        architecture="coda_net",
        arguments=arguments,
        classes=classes,
        preprocessing=Preprocessing(resize=16, crop=16),
    )
    save(build("coda_net", arguments), checkpoint, path)
    return path


def example(script: str) -> ModuleType:
    """A program of examples/ as a module."""
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[script] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def example_run(script: str, *arguments: str | Path) -> tuple[str, str]:
    """What ``python examples/SCRIPT ARGUMENTS`` and the children that it starts write to stdout and to stderr."""
    path = str(EXAMPLES / script)
    with pytest.MonkeyPatch.context() as patch, _captured(patch) as (out, err), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # as Python does where nothing is asked for
        patch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")
        sys.stdout.flush()
        sys.stderr.flush()
        return _read(out), _read(err)
