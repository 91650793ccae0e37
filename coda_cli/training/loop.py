"""The training loop, in plain sight. A run can be stopped at any step and resumed to the same weights.

Loss: binary cross entropy of the sigmoid probabilities, mean over batch and classes (CVPR 2021, section 4).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.checkpoints.class_names import wnids_and_synonyms
from coda_cli.checkpoints.headers import read_metadata
from coda_cli.checkpoints.loading import save
from coda_cli.checkpoints.manifest import METADATA_KEY, Accuracy, Checkpoint, Preprocessing
from coda_cli.core.bcos_nets import BcosNet
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet, build, classify, encode
from coda_cli.errors import CheckpointError, TrainingError
from coda_cli.training.batches import batch_of_step, resized, two_classes
from coda_cli.training.datasets import Split
from coda_cli.training.recipes import Recipe
from coda_cli.training.state import LOG_FILE, STATE_FILE, Log, load_state, save_state

STATE_EVERY = 120.0  # seconds between two saved states
QUICK_TEST = 2000  # held-out pictures looked at after every epoch; the final accuracy is of all

Trainable = CodaNet | BcosNet | HybridNet


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


@dataclass
class Result:
    """How a run ended.

    Attributes:
        model: the network, in eval mode where the run is finished.
        finished: False where the time budget ended the run early.
        steps: how many steps are done.
        seconds: spent on the run, earlier parts included.
        accuracy: of the whole held-out split, in [0, 1]; None where the run was ended early.
    """

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
    model = _new_model(recipe, len(train_split.classes), device)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    per_epoch = _steps_per_epoch(recipe, train_split)
    steps, step, before = recipe.epochs * per_epoch, 0, 0.0
    if resume:
        step, before = load_state(folder / STATE_FILE, recipe, train_split, model, optimiser)
    start = begun - before  # so that earlier parts of a resumed run count
    log = Log(folder / LOG_FILE, keep_until=step)
    forward = torch.compile(model, dynamic=False) if compiled and can_compile(device) else model
    saved = window_start = time.monotonic()
    losses: list[Tensor] = []
    model.train()
    while step < steps:
        progress = step / steps
        lr = learning_rate(recipe, step, steps)
        losses.append(_take_step(model, forward, optimiser, recipe, train_split, step, steps, per_epoch))
        step += 1
        now = time.monotonic()
        rate = recipe.batch * len(losses) / (now - window_start)
        if on_step:
            on_step(Tick(step, steps, float(losses[-1]), rate, now - start))
        end_of_epoch, out_of_time = step % per_epoch == 0, now - begun > time_budget
        if end_of_epoch:
            quick = _quick_accuracy(model, test_split, recipe, progress)
            log.write(step, step // per_epoch, now - start, lr, float(torch.stack(losses).mean()), quick, rate)
            if on_epoch:
                on_epoch(step // per_epoch, quick)
            losses, window_start = [], time.monotonic()
        if end_of_epoch or out_of_time or now - saved > STATE_EVERY:
            save_state(folder / STATE_FILE, recipe, train_split, model, optimiser, step, time.monotonic() - start)
            saved = time.monotonic()
        if out_of_time and step < steps:
            return Result(model, False, step, time.monotonic() - start)
    final = _final_accuracy(model, test_split, recipe, steps)
    return Result(model, True, step, time.monotonic() - start, final)


def _new_model(recipe: Recipe, classes: int, device: torch.device) -> Trainable:
    """A network with the random weights that the recipe's seed gives."""
    torch.manual_seed(recipe.seed)
    model = build(recipe.architecture, recipe.with_classes(classes)).to(device)
    assert isinstance(model, Trainable)
    model.to(memory_format=torch.channels_last)
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
    recipe: Recipe,
    split: Split,
    step: int,
    steps: int,
    per_epoch: int,
) -> Tensor:
    """Change the weights by one step, and give its loss. Raises TrainingError where the gradient is not finite."""
    progress = step / steps
    images, labels = batch_of_step(split, recipe, step, per_epoch, recipe.side(progress))
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(recipe, step, steps)
    two = two_classes(labels, len(split.classes), recipe, step) if recipe.matrix_l1 else None
    loss = _loss(model, forward, recipe, progress, images, labels, two)
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    if not torch.isfinite(norm):
        raise _diverged("gradient is", step, steps, recipe)
    optimiser.step()
    return loss.detach()


def _loss(
    model: Trainable,
    forward: Callable[[Tensor], Tensor],
    recipe: Recipe,
    progress: float,
    images: Tensor,
    labels: Tensor,
    two: Tensor | None,
) -> Tensor:
    """The loss of one batch; with ``two`` classes of each picture also the mean |W(x)| of their rows."""
    # The model divides by the last temperature. Its own attribute must not change: torch.compile would start anew.
    sharpness = model.temperature / recipe.temperature(progress)
    logits, rows = _outputs(model, forward, images, two, recipe.precision)
    logits = (logits - model.bias) * sharpness + model.bias
    loss = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, logits.shape[1]).float())
    return loss if rows is None else loss + recipe.matrix_l1 * sharpness * rows.abs().mean()


def _quick_accuracy(model: nn.Module, split: Split, recipe: Recipe, progress: float) -> float:
    """The accuracy on a sample of pictures of the size that is trained at the moment."""
    sample = resized(split, recipe.side(progress), limit=QUICK_TEST)
    quick = accuracy(model, sample, autocast=recipe.precision == "bfloat16")
    model.train()
    return quick


def _final_accuracy(model: nn.Module, split: Split, recipe: Recipe, steps: int) -> float:
    """The accuracy after the last step. Raises TrainingError where that step gave weights that are not finite."""
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):  # no gradient follows the last step
        raise _diverged("weights are", steps, steps, recipe)
    return accuracy(model, split)


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
    result: Result,
    recipe: Recipe,
    data: tuple[Split, Split],
    path: Path,
    name: str,
    *,
    about: str,
    licence: str = "",
    replace: bool = True,
) -> Path:
    """Write the network of a finished run as a self-describing file.

    Args:
        result: of ``train``, finished.
        recipe: that it was trained by.
        data: training split and held-out split.
        path: of the file, with the suffix .safetensors.
        name: of the network.
        about: what the file says about the data.
        licence: under which terms the file may be used.
        replace: whether a file of this name may be replaced.

    Returns:
        ``path``.

    Raises:
        TakenError: there is a file of this name that may not be replaced.
        MediaError: the file cannot be written.
    """
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
            "recipe": _told(recipe),
            "pictures": len(train_split),
            "steps": result.steps,
            "seconds": round(result.seconds),
        },
        licence=licence,
    )
    save(result.model, checkpoint, path, replace=replace)
    return path


def _told(recipe: Recipe) -> dict[str, Any]:
    """What a network's file says about its recipe, beyond what describes the network."""
    return {key: value for key, value in asdict(recipe).items() if key not in ("arguments", "architecture")}


def is_of_run(path: Path, recipe: Recipe) -> bool:
    """Whether a file is a network that a run of this recipe has written: its last part, run again, replaces it.

    Args:
        path: of the file.
        recipe: of the run.

    Returns:
        The answer.
    """
    try:
        described = json.loads(read_metadata(path).get(METADATA_KEY, "{}"))
        return bool(described["training"]["recipe"] == json.loads(json.dumps(_told(recipe))))
    except (CheckpointError, KeyError, TypeError, ValueError, RecursionError):
        return False


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


def accuracy(model: nn.Module, split: Split, *, autocast: bool = False) -> float:
    """Measure the share of pictures whose highest logit is their label's.

    Args:
        model: the network; it is set to eval mode.
        split: the pictures, on the device of the network.
        autocast: compute in bfloat16 where that is faster.

    Returns:
        A share in [0, 1].
    """
    model.eval()
    with torch.autocast(split.images.device.type, torch.bfloat16, enabled=autocast):
        right = classify(model, split.images).argmax(1) == split.labels
    return int(right.sum()) / len(split)
