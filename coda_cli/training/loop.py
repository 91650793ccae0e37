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
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.abilities import above
from coda_cli.core.bcosified import CentredNet
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet, build
from coda_cli.errors import TrainingError
from coda_cli.machine.precision import denormals_flushed
from coda_cli.training.batches import two_classes
from coda_cli.training.conversion import logits_and_maps, misalignment, start_converted
from coda_cli.training.datasets import Split
from coda_cli.training.features import start
from coda_cli.training.feed import Batch, Feed, Trainable, accuracy, finite
from coda_cli.training.origins import Origin
from coda_cli.training.recipes import Recipe
from coda_cli.training.results import Destination, Kept, Result
from coda_cli.training.state import LOG_FILE, STATE_FILE, Log, load_state, save_state

STATE_EVERY = 120.0  # seconds between two saved states
FIRST_FILE, FILE_EVERY = 60.0, 600.0  # seconds until there is a network on disk, and between two in a long epoch


@dataclass(frozen=True)
class Tick:
    """What a run reports after every step.

    Attributes:
        step: how many steps are done.
        steps: how many there are in the whole run.
        loss: of this step.
        images_per_second: mean rate since the last epoch began.
        seconds: spent on this run so far, earlier parts of a resumed run included.
    """

    step: int
    steps: int
    loss: float
    images_per_second: float
    seconds: float


@denormals_flushed()
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
    origin: Origin | None = None,
    destination: Destination | None = None,
) -> Result:
    """Train a network, and keep the log and the state of the run in a folder.

    Args:
        recipe: everything that decides the weights, beside the data.
        data: training split and held-out split.
        folder: where log and state are kept; it must exist.
        device: where to train.
        resume: go on with the run whose state is in ``folder``.
        time_budget: seconds after which this call saves the state and returns.
        compiled: use torch.compile where a compiler is at hand.
        on_step: is called after every step.
        on_epoch: is called after every epoch with its number, from 1 on, and the accuracy in [0, 1] on a held-out
            sample.
        origin: the network that it starts from.
        destination: where a network is kept while the run lasts: after the first minute, after every epoch, and when
            the time budget ends it. One that is clearly worse does not replace a better one.

    Returns:
        The network and how the run ended.

    Raises:
        TrainingError: gradient or weights are no longer finite, the data do not fill one batch, or the state in
            ``folder`` belongs to another recipe or other data.
        UsageError: the recipe cannot be trained, or the run begins and there is a log.
        MediaError: log or state cannot be written.
    """
    begun = time.monotonic()
    recipe.check()
    train_split, test_split = data[0].to(device), data[1].to(device)
    per_epoch = _steps_per_epoch(recipe, train_split)
    model = _new_model(recipe, train_split, device, None if resume else origin)
    feed = Feed(model, recipe, train_split, test_split, origin)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate)
    steps, step, before = recipe.epochs * per_epoch, 0, 0.0
    if resume:
        step, before = load_state(folder / STATE_FILE, recipe, train_split, model, optimiser)
    start = begun - before  # so that earlier parts of a resumed run count
    log = Log(folder / LOG_FILE, keep_until=step)
    kept = Kept(destination, recipe, train_split, feed)
    trained: nn.Module = above(model) if recipe.frozen else model
    forward: Callable[[Tensor], Tensor] = trained
    if compiled and can_compile(device):
        forward = torch.compile(trained, dynamic=False)
    saved = window_start = time.monotonic()
    file_due = begun + FIRST_FILE
    losses: list[Tensor] = []
    feed.train()
    while step < steps:
        progress = step / steps
        lr = learning_rate(recipe, step, steps)
        losses.append(_take_step(model, forward, optimiser, feed, step, steps, per_epoch))
        step += 1
        now = time.monotonic()
        rate = recipe.batch * len(losses) / (now - window_start)
        if on_step:
            on_step(Tick(step, steps, float(losses[-1]), rate, now - start))
        end_of_epoch, out_of_time = step % per_epoch == 0, now - begun > time_budget
        if end_of_epoch:
            quick = feed.quick_accuracy(progress)
            log.write(step, step // per_epoch, now - start, lr, float(torch.stack(losses).mean()), quick, rate)
            losses, window_start = [], time.monotonic()
        if (end_of_epoch and step < steps) or out_of_time or now > file_due:
            kept.offer(Result(model, False, step, now - start), progress, quick if end_of_epoch else None)
            file_due = time.monotonic() + FILE_EVERY
        if end_of_epoch or out_of_time or now - saved > STATE_EVERY:
            save_state(folder / STATE_FILE, recipe, train_split, model, optimiser, step, time.monotonic() - start)
            saved = time.monotonic()
        if end_of_epoch and on_epoch:  # what is told of is on the disk
            on_epoch(step // per_epoch, quick)
        if out_of_time and step < steps:
            return Result(model, False, step, time.monotonic() - start)
    final = _final_accuracy(model, feed.held_out, recipe, steps)
    return Result(model, True, step, time.monotonic() - start, final)


def _new_model(recipe: Recipe, data: Split, device: torch.device, origin: Origin | None) -> Trainable:
    """A network with the random weights that the recipe's seed gives, and those of the network it starts from."""
    torch.manual_seed(recipe.seed)
    model = build(recipe.architecture, recipe.with_classes(len(data.classes))).to(device)
    assert isinstance(model, Trainable)
    model.to(memory_format=torch.channels_last)
    if recipe.frozen:
        assert isinstance(model, HybridNet)
        model.below.requires_grad_(False).eval()
        if origin:
            start(model, origin, recipe, data)
    elif origin and isinstance(model, CentredNet) and not origin.architecture:
        start_converted(model, origin, recipe, data)
    elif origin:
        origin.fill(model)
    return model


def _steps_per_epoch(recipe: Recipe, split: Split) -> int:
    steps = len(split) // recipe.batch
    if not steps:
        raise TrainingError(
            f"{len(split)} training pictures do not fill one batch of {recipe.batch}; choose a smaller --batch"
        )
    return steps


def _take_step(
    model: Trainable,
    forward: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    feed: Feed,
    step: int,
    steps: int,
    per_epoch: int,
) -> Tensor:
    """Change the weights by one step, and give its loss. Raises TrainingError where the gradient is not finite."""
    progress, recipe = step / steps, feed.recipe
    batch = feed.batch(step, steps, per_epoch)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(recipe, step, steps)
    two = two_classes(batch.labels, batch.targets.shape[1], recipe, step) if recipe.matrix_l1 else None
    loss = _loss(model, forward, recipe, progress, batch, two)
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], recipe.clip)
    if not torch.isfinite(norm):
        raise _diverged("gradient is", step, steps, recipe)
    optimiser.step()
    return loss.detach()


def _loss(
    model: Trainable,
    forward: Callable[[Tensor], Tensor],
    recipe: Recipe,
    progress: float,
    batch: Batch,
    two: Tensor | None,
) -> Tensor:
    """The loss of one batch; with ``two`` classes of each picture also the mean |W(x)| of their rows."""
    # The model divides by the last temperature. Its own attribute must not change: torch.compile would start anew.
    sharpness = model.temperature / recipe.temperature(progress)
    out = _outputs(model, forward, batch, two, recipe)
    logits = (out.logits - model.bias) * sharpness + model.bias
    loss = F.binary_cross_entropy_with_logits(logits, batch.targets)
    if out.maps is not None and batch.maps is not None:
        loss = loss + recipe.alignment * misalignment(out.maps, batch.maps)
    if out.shares is not None:
        loss = loss + recipe.false_evidence * sharpness * false_evidence(out.shares, batch.targets)
    return loss if out.rows is None else loss + recipe.matrix_l1 * sharpness * out.rows.abs().mean()


def false_evidence(shares: Tensor, targets: Tensor) -> Tensor:
    """Measure what positions add to the logits of classes that a picture is not of: their positive shares alone.

    A sum of shares that is right can hide them: what one position adds, another takes away. On a grid of pictures they
    are what is drawn on the wrong ones.

    Args:
        shares: of the positions in the logits, float [B, classes, h, w].
        targets: probabilities of the classes, float [B, classes].

    Returns:
        Their sum over the positions, the mean over pictures and classes; a scalar.
    """
    return (shares.relu().sum((2, 3)) * (1 - targets)).mean()


def _final_accuracy(model: nn.Module, split: Split, recipe: Recipe, steps: int) -> float:
    """The accuracy after the last step. Raises TrainingError where that step gave weights that are not finite."""
    if not finite(model):  # no gradient follows the last step
        raise _diverged("weights are", steps, steps, recipe)
    return accuracy(model, split)


class _Outputs(NamedTuple):
    """Logits float32 [B, classes], and what else a loss is of: rows of W(x), maps, shares of positions in logits."""

    logits: Tensor
    rows: Tensor | None = None
    maps: list[Tensor] | None = None
    shares: Tensor | None = None


def _outputs(
    model: nn.Module, forward: Callable[[Tensor], Tensor], batch: Batch, two: Tensor | None, recipe: Recipe
) -> _Outputs:
    """What the loss of a batch is of; with ``two`` classes [B, 2] their rows of W(x)."""
    autocast, x = recipe.precision == "bfloat16", batch.x
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        if batch.maps is not None:
            assert isinstance(model, CentredNet)
            logits, maps = logits_and_maps(model, x)
            return _Outputs(logits.float(), maps=maps)
        if recipe.false_evidence:
            part = above(model)
            assert isinstance(part, CodaNet)
            shares = part.layers(x).float() / part.temperature
            return _Outputs(shares.sum((2, 3)) + part.bias, shares=shares)
        if two is None:
            return _Outputs(forward(x).float())
        assert isinstance(model, CodaNet)
        logits, rows = model.logits_and_rows(x, two)
        return _Outputs(logits.float(), rows.float())


def _diverged(what: str, step: int, steps: int, recipe: Recipe) -> TrainingError:
    return TrainingError(
        f"diverged at step {step} of {steps}: the {what} not finite; lower the learning rate "
        f"({recipe.learning_rate:g}), raise --warmup, and start again. No checkpoint was written"
    )


def can_compile(device: torch.device) -> bool:
    """Tell whether torch.compile has what it needs: a C++ compiler for CPUs, a C compiler for GPUs.

    Only on Linux is a compiler that is found the one that torch asks for. Python's headers are needed as well.

    Args:
        device: where the compiled network is to run.

    Returns:
        Whether compiling can be tried.
    """
    if sys.platform != "linux" or not Path(sysconfig.get_path("include"), "Python.h").exists():
        return False
    if device.type == "cuda":
        return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
    return device.type == "cpu" and shutil.which("g++") is not None


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Compute the learning rate of a step: a linear warm-up from 0, then half a cosine down to 0 at the last step.

    Args:
        recipe: its peak and the share of steps of the warm-up.
        step: from 0 on.
        steps: in the whole run.

    Returns:
        The rate.
    """
    warmup = max(1, round(recipe.warmup * steps))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
