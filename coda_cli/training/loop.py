"""The training loop, in plain sight. A run can be stopped at any step and resumed to the same weights.

Loss: binary cross entropy of the sigmoid probabilities, mean over batch and classes (CVPR 2021, section 4). Everything
random in step n is drawn from a generator seeded by (seed, n), so that a resumed run repeats what an uninterrupted one
would have done.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.checkpoints.loading import save
from coda_cli.checkpoints.manifest import Accuracy, Checkpoint, Preprocessing, wnids_and_synonyms
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet, build, classify, encode
from coda_cli.errors import TrainingError
from coda_cli.media.stills import write_with
from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe

STATE_FILE, LOG_FILE = "training-state.pt", "log.csv"
LOG_FIELDS = ("step", "epoch", "seconds", "learning_rate", "loss", "accuracy", "images_per_second")
STATE_EVERY = 120.0  # seconds between two saved states
MOST_STRETCH = 1.2  # crops are up to this much wider or higher than square ones
QUICK_TEST = 2000  # held-out pictures looked at after every epoch; the final accuracy is of all


@dataclass(frozen=True)
class Tick:
    """What a run reports after every step."""

    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds: float  # spent on this run so far, resumed parts included


@dataclass
class Result:
    """How a run ended. ``accuracy`` is of the whole held-out split in [0, 1], None when it was stopped early."""

    model: nn.Module
    finished: bool
    steps: int
    seconds: float
    accuracy: float | None = None


def train(
    recipe: Recipe,
    data: tuple[Split, Split],
    folder: Path,
    *,
    device: torch.device,
    resume: bool = False,
    time_budget: float = math.inf,
    compiled: bool = True,
    on_step: Callable[[Tick], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Result:
    """Train a network on ``data`` (training split, held-out split), keeping log and state in ``folder``.

    ``time_budget`` (seconds of this call) ends the run early with its state saved; ``resume`` goes on from there.
    ``compiled`` uses torch.compile where a compiler is at hand. Raises TrainingError when gradient or weights are no
    longer finite or the state in ``folder`` belongs to another recipe or other data.
    """
    start = time.monotonic()
    recipe.check()
    train_split, test_split = data[0].to(device), data[1].to(device)
    torch.manual_seed(recipe.seed)
    model = build(recipe.architecture, recipe.with_classes(len(train_split.classes))).to(device)
    assert isinstance(model, CodaNet | BcosNet | HybridNet)
    model_classes = len(train_split.classes)
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    per_epoch = len(train_split) // recipe.batch
    if not per_epoch:
        raise TrainingError(f"{len(train_split)} training pictures do not fill one batch of {recipe.batch}")
    steps, step, before = recipe.epochs * per_epoch, 0, 0.0
    if resume:
        step, before = _load_state(folder / STATE_FILE, recipe, train_split, model, optimiser)
    log = _Log(folder / LOG_FILE, keep_until=step)
    forward = torch.compile(model, dynamic=False) if compiled and can_compile(device) else model
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")

    saved = window_start = time.monotonic()
    losses: list[Tensor] = []
    model.train()
    while step < steps:
        progress = step / steps
        images, labels = batch_of_step(train_split, recipe, step, per_epoch, recipe.side(progress))
        lr = learning_rate(recipe, step, steps)
        for group in optimiser.param_groups:
            group["lr"] = lr
        x = encode(images).contiguous(memory_format=torch.channels_last)
        rows = None
        with autocast:
            if recipe.matrix_l1:
                assert isinstance(model, CodaNet)
                logits, rows = model.logits_and_rows(x, two_classes(labels, model_classes, recipe, step))
            else:
                logits = forward(x)
        # The model divides by the last temperature. Its own attribute must not change: torch.compile would start anew.
        sharpness = model.temperature / recipe.temperature(progress)
        logits = (logits.float() - model.bias) * sharpness + model.bias
        loss = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).float())
        if rows is not None:
            loss = loss + recipe.matrix_l1 * sharpness * rows.float().abs().mean()
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        if not torch.isfinite(norm):
            raise _diverged("gradient is", step, steps, recipe)
        optimiser.step()
        step += 1
        losses.append(loss.detach())
        now = time.monotonic()
        rate = recipe.batch * len(losses) / (now - window_start)
        if on_step:
            on_step(Tick(step, steps, float(losses[-1]), rate, before + now - start))
        end_of_epoch, out_of_time = step % per_epoch == 0, now - start > time_budget
        if end_of_epoch:
            sample = resized(test_split, recipe.side(progress), limit=QUICK_TEST)
            quick = accuracy(model, sample, autocast=recipe.precision == "bfloat16")
            mean_loss = float(torch.stack(losses).mean())
            log.write(step, step // per_epoch, before + now - start, lr, mean_loss, quick, rate)
            if on_epoch:
                on_epoch(step // per_epoch, quick)
            model.train()
            losses, window_start = [], time.monotonic()
        if end_of_epoch or out_of_time or now - saved > STATE_EVERY:
            seconds = before + time.monotonic() - start
            _save_state(folder / STATE_FILE, recipe, train_split, model, optimiser, step, seconds)
            saved = time.monotonic()
        if out_of_time and step < steps:
            return Result(model, False, step, before + time.monotonic() - start)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):  # no gradient follows the last step
        raise _diverged("weights are", step, steps, recipe)
    model.eval()
    final = accuracy(model, test_split)
    return Result(model, True, step, before + time.monotonic() - start, final)


def _diverged(what: str, step: int, steps: int, recipe: Recipe) -> TrainingError:
    return TrainingError(
        f"diverged at step {step} of {steps}: the {what} not finite; lower the learning rate "
        f"({recipe.learning_rate:g}), raise --warmup, and start again. No checkpoint was written"
    )


def finish(
    result: Result, recipe: Recipe, data: tuple[Split, Split], path: Path, name: str, *, about: str, licence: str = ""
) -> Path:
    """Write the network of a finished run as a self-describing file; returns its path. ``about`` describes the data."""
    train_split, test_split = data
    assert result.accuracy is not None
    wnids, synonyms = wnids_and_synonyms(train_split.classes)
    checkpoint = Checkpoint(
        name=name,
        architecture=recipe.architecture,
        arguments=recipe.with_classes(len(train_split.classes)),
        classes=train_split.classes,
        wnids=wnids,
        synonyms=synonyms,
        preprocessing=Preprocessing(resize=recipe.size, crop=recipe.size),
        accuracy=Accuracy(value=result.accuracy, pictures=len(test_split), split="held out"),
        training={
            "data": about,
            "recipe": {key: value for key, value in asdict(recipe).items() if key not in ("arguments", "architecture")},
            "pictures": len(train_split),
            "steps": result.steps,
            "seconds": round(result.seconds),
        },
        licence=licence,
    )
    save(result.model, checkpoint, path)
    return path


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs on ``device``: a C++ compiler for CPUs, Triton and one for C for GPUs.

    On Linux, where a compiler that is found is one that torch asks for.
    """
    if sys.platform != "linux":
        return False
    if device.type == "cuda":
        return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
    return device.type == "cpu" and shutil.which("g++") is not None


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up from 0, then half a cosine down to 0 at the last step."""
    warmup = max(1, round(recipe.warmup * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def batch_of_step(split: Split, recipe: Recipe, step: int, per_epoch: int, side: int) -> tuple[Tensor, Tensor]:
    """The augmented pictures float32 [batch, 3, side, side] and labels int64 [batch] of one step of a run."""
    # One permutation per epoch, made anew for each step: cheap, and nothing has to be remembered for a resume.
    order = torch.randperm(len(split), generator=_generator(recipe.seed, step // per_epoch, 0))
    first = (step % per_epoch) * recipe.batch
    chosen = order[first : first + recipe.batch].to(split.labels.device)
    return augment(split.images[chosen], recipe, _generator(recipe.seed, step, 1), side), split.labels[chosen]


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator, side: int) -> Tensor:
    """Pictures uint8 [B, 3, s, s] to float32 [B, 3, side, side] in [0, 1], each its own way, all at once.

    Each is cropped at random, scaled to ``side``, mirrored, and changed in brightness and contrast, as far as the
    recipe asks for it.
    """
    x = images.float() / 255
    while x.shape[-1] >= 2 * side:  # bilinear sampling alone would alias
        x = F.avg_pool2d(x, 2)
    B = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(B, generator=generator)

    stretch = MOST_STRETCH if recipe.smallest_crop < 1 else 1.0
    area, aspect = uniform(recipe.smallest_crop, 1), uniform(-1, 1).mul(math.log(stretch)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    mirrored = uniform(0, 1) < (0.5 if recipe.flip else 0)
    theta = torch.zeros(B, 2, 3)  # in grid_sample's coordinates the picture reaches from -1 to 1
    theta[:, 0, 0], theta[:, 1, 1] = torch.where(mirrored, -width, width), height
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    grid = F.affine_grid(theta.to(x.device), [B, 3, side, side], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    contrast = uniform(1 - recipe.jitter, 1 + recipe.jitter).to(x.device)[:, None, None, None]
    brightness = uniform(-recipe.jitter / 2, recipe.jitter / 2).to(x.device)[:, None, None, None]
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((x - mean) * contrast + mean + brightness).clamp(0, 1)


def two_classes(labels: Tensor, count: int, recipe: Recipe, step: int) -> Tensor:
    """The class of every picture and another one drawn evenly from the rest, int64 [B, 2]."""
    generator = _generator(recipe.seed + 7_919, step, 1)  # not the one that augments
    others = torch.randint(count - 1, (len(labels),), generator=generator).to(labels.device)
    return torch.stack([labels, (labels + 1 + others) % count], 1)


def _generator(seed: int, n: int, stream: int) -> torch.Generator:
    # Odd multipliers keep (seed, n, stream) apart; the generator hashes its seed itself.
    return torch.Generator().manual_seed((seed * 1_000_003 + n) * 2 + stream)


def resized(split: Split, side: int, limit: int) -> Split:
    """A fixed sample of at most ``limit`` pictures, scaled to ``side``."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:limit].to(split.labels.device)
    images = split.images[chosen]
    if images.shape[-1] != side:
        scaled = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True)
        images = scaled.round().to(torch.uint8)
    return Split(images, split.labels[chosen], split.classes)


def accuracy(model: nn.Module, split: Split, *, autocast: bool = False) -> float:
    """Share of pictures whose highest logit is their label's."""
    model.eval()
    with torch.autocast(split.images.device.type, torch.bfloat16, enabled=autocast):
        right = classify(model, split.images).argmax(1) == split.labels
    return int(right.sum()) / len(split)


# ---- state and log ---------------------------------------------------------------------------------------------------


def _save_state(
    path: Path,
    recipe: Recipe,
    data: Split,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    state = {
        "recipe": _identity(recipe),
        "data": _described(data),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    write_with(path, lambda stream: torch.save(state, stream))


def _load_state(
    path: Path, recipe: Recipe, data: Split, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    if not path.exists():
        raise TrainingError(f"{path}: no state to resume from; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        belongs = state["recipe"]
    except Exception as error:  # whatever torch meets in a file that is cut off, or is another
        raise TrainingError(f"{path}: damaged, or not the state of a run; start anew in another folder") from error
    if belongs != _identity(recipe):
        raise TrainingError(
            f"{path}: belongs to a run with another recipe; resume with the options it was started with"
        )
    described = state.get("data", _described(data))
    if described != _described(data):
        raise TrainingError(f"{path}: belongs to a run on other data: {described}; this is {_described(data)}")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"], state["seconds"]


def _described(data: Split) -> str:
    return f"{len(data)} pictures of the classes {', '.join(data.classes)}"


def _identity(recipe: Recipe) -> str:
    return json.dumps(asdict(recipe), sort_keys=True)


class _Log:
    """A CSV file of one line per epoch; lines after the step that a resumed run starts from are dropped."""

    def __init__(self, path: Path, keep_until: int) -> None:
        self.path = path
        rows = []
        if keep_until and path.exists():
            with path.open(newline="") as stream:
                rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= keep_until]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, LOG_FIELDS)
        writer.writeheader()
        writer.writerows(rows)
        write_with(path, lambda stream: stream.write(text.getvalue().encode()))  # whole, or as it was

    def write(self, *values: float) -> None:
        """Append one line, in the order of LOG_FIELDS."""
        with self.path.open("a", newline="") as stream:
            csv.writer(stream).writerow(f"{v:.6g}" if isinstance(v, float) else v for v in values)
