"""The training loop, in plain sight. A run can be stopped at any step and resumed to the same weights.

Loss: binary cross entropy of the sigmoid probabilities, mean over batch and classes (CVPR 2021, section 4).
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import sysconfig
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
from coda_cli.training.batches import batch_of_step, resized, two_classes
from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe
from coda_cli.training.state import LOG_FILE, STATE_FILE, Log, load_state, save_state

STATE_EVERY = 120.0  # seconds between two saved states
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
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    per_epoch = len(train_split) // recipe.batch
    if not per_epoch:
        raise TrainingError(
            f"{len(train_split)} training pictures do not fill one batch of {recipe.batch}; choose a smaller --batch"
        )
    steps, step, before = recipe.epochs * per_epoch, 0, 0.0
    if resume:
        step, before = load_state(folder / STATE_FILE, recipe, train_split, model, optimiser)
    log = Log(folder / LOG_FILE, keep_until=step)
    forward = torch.compile(model, dynamic=False) if compiled and can_compile(device) else model

    saved = window_start = time.monotonic()
    losses: list[Tensor] = []
    model.train()
    while step < steps:
        progress = step / steps
        images, labels = batch_of_step(train_split, recipe, step, per_epoch, recipe.side(progress))
        lr = learning_rate(recipe, step, steps)
        for group in optimiser.param_groups:
            group["lr"] = lr
        # The model divides by the last temperature. Its own attribute must not change: torch.compile would start anew.
        sharpness = model.temperature / recipe.temperature(progress)
        two = two_classes(labels, len(train_split.classes), recipe, step) if recipe.matrix_l1 else None
        logits, rows = _outputs(model, forward, images, two, recipe.precision)
        logits = (logits - model.bias) * sharpness + model.bias
        loss = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).float())
        if rows is not None:
            loss = loss + recipe.matrix_l1 * sharpness * rows.abs().mean()
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
            save_state(folder / STATE_FILE, recipe, train_split, model, optimiser, step, seconds)
            saved = time.monotonic()
        if out_of_time and step < steps:
            return Result(model, False, step, before + time.monotonic() - start)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):  # no gradient follows the last step
        raise _diverged("weights are", step, steps, recipe)
    model.eval()
    final = accuracy(model, test_split)
    return Result(model, True, step, before + time.monotonic() - start, final)


def _outputs(
    model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, two: Tensor | None, precision: str
) -> tuple[Tensor, Tensor | None]:
    """Logits float32 [B, classes] of pictures [B, 3, s, s], and of ``two`` classes [B, 2] of each the rows of W(x)."""
    x = encode(images).contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        if two is None:
            return forward(x).float(), None
        assert isinstance(model, CodaNet)
        logits, rows = model.logits_and_rows(x, two)
        return logits.float(), rows.float()


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

    On Linux, where a compiler that is found is one that torch asks for, and with the headers of Python.
    """
    if sys.platform != "linux" or not Path(sysconfig.get_path("include"), "Python.h").exists():
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


def accuracy(model: nn.Module, split: Split, *, autocast: bool = False) -> float:
    """Share of pictures whose highest logit is their label's."""
    model.eval()
    with torch.autocast(split.images.device.type, torch.bfloat16, enabled=autocast):
        right = classify(model, split.images).argmax(1) == split.labels
    return int(right.sum()) / len(split)
