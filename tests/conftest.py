"""Fixtures for tests of the program as a program; see program.py."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, here and in the children that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import fsspec
import numpy as np
import program
import pytest
import squares
import torch
import torchvision
from isal.isal_zlib import crc32
from PIL import Image

from coda_cli.checkpoints import loading
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import weights_folder
from coda_cli.cli import console
from coda_cli.core import dau_kernels, decompose
from coda_cli.core.networks import classify
from coda_cli.machine import budget
from coda_cli.training.datasets import Split
from coda_cli.training.origins import Origin, find_origin

Coda = Callable[..., program.Result]

# What coda and rich draw depends on these; the tests, and the children they start, always see an ordinary terminal's
# environment, on a machine for continuous integration (which sets CI) too, and none of the settings of a user of coda.
os.environ["TERM"] = "xterm-256color"
for _name in ("CI", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
    os.environ.pop(_name, None)
for _name in [name for name in os.environ if name.startswith("CODA_")]:
    os.environ.pop(_name)
os.environ["XDG_CONFIG_HOME"] = os.devnull  # where no coda.toml of the developer is

# A shell starts programs in the background with SIGINT ignored, and their children inherit that. The tests of Ctrl-C
# need the usual handler, in this process and in its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nohup ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


@pytest.fixture(scope="session", autouse=True)
def _no_run_is_long() -> Iterator[None]:
    """A run that takes ten seconds says how far it is; what a test reads on stderr must not depend on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "PLAIN_EVERY", math.inf)
        yield


@pytest.fixture(scope="session", autouse=True)
def _weights_hashed_once() -> Iterator[None]:
    """The bundled weights, which no test changes, are hashed once: a sixteenth of most runs."""
    honest = loading.file_sha256
    once = cache(honest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "file_sha256", lambda path: (once if path.parent == weights_folder() else honest)(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def _factors_found_once() -> Iterator[None]:
    """The norms' factors of the same weights are found once: they are pure numbers, and an eighth of most runs."""
    found: dict[object, dau_kernels.NormFactors] = {}
    honest = dau_kernels.norm_factors

    def factors(A: torch.Tensor) -> dau_kernels.NormFactors:
        if type(A) is not torch.Tensor:  # a pretended GPU's
            return honest(A)
        values = A.detach().cpu().contiguous()
        digest = crc32(values.view(torch.uint8).numpy())  # twenty times as fast as what is safe against malice
        key = (A.shape, A.dtype, A.device, torch.get_num_threads(), digest)
        if key not in found:
            found[key] = honest(A)
            if len(found) > 60:
                del found[next(iter(found))]
        return dau_kernels.NormFactors(*(part.clone() for part in found[key]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dau_kernels, "norm_factors", factors)
        yield


@pytest.fixture(scope="session", autouse=True)
def _cuts_found_once() -> Iterator[None]:
    """Where an ordinary network is cut follows from its layers and weights: it is found once, which takes a second."""
    found: dict[object, str] = {}
    honest = loading.find_cut

    def find_cut(model: torch.nn.Module, side: int) -> str:
        weights = [crc32(w.contiguous().flatten().view(torch.uint8).numpy()) for w in model.state_dict().values()]
        key = (tuple(map(type, model.modules())), repr(model), tuple(weights), side)
        if key not in found:
            found[key] = honest(model, side)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "find_cut", find_cut)
        yield


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out pictures that lie where the shipped network sorts them: five classes or more, two of each."""
    root = tmp_path_factory.mktemp("scenes") / "data"
    for name in program.CIFAR10:
        (root / "test" / name).mkdir(parents=True)
        (root / "train" / name).mkdir(parents=True)
        for n in range(7):  # of all classes together at least one batch
            Image.new("RGB", (32, 32)).save(root / "train" / name / f"{n}.png")
    colours = np.random.default_rng(0).integers(0, 256, (160, 4, 4, 3), dtype=np.uint8)
    pictures = np.stack([np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in colours])
    logits = classify(load("cifar10").model, torch.from_numpy(pictures).permute(0, 3, 1, 2))
    for index, name in enumerate(program.CIFAR10):
        for n in torch.nonzero(logits.argmax(1) == index)[:2].flatten().tolist():
            Image.fromarray(pictures[n]).save(root / "test" / name / f"{n}.png")
    assert sum(len(list(folder.iterdir())) == 2 for folder in (root / "test").iterdir()) >= 5
    return root


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """The memory of this process as a place with addresses; it is empty, and left empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def data() -> tuple[Split, Split]:
    """Coloured squares to train on and to test on; no test changes them."""
    return squares.squares(120, 0), squares.squares(45, 1)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: sums are added in one order."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.fixture
def seeded() -> None:
    """Torch's random numbers are the same in every test."""
    torch.manual_seed(0)


@pytest.fixture(params=[budget.WRITTEN_RANK, 1], ids=["factored", "written"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested of DAU layers holds for weights that are written out and for those that are not."""
    monkeypatch.setattr(budget, "WRITTEN_RANK", request.param)


@pytest.fixture
def one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs of a batch meet in every layer, on whatever machine this runs; for the lanes see test_lanes.py."""
    monkeypatch.setattr(decompose, "parts", lambda x: (x,))


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a ResNet-18 of torchvision with 1,000 classes; its weights are random."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ordinary") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def origin(ordinary: Path) -> Origin:
    """That network, to start from."""
    return find_origin("torchvision:resnet18", ordinary)
