"""What ``coda train`` prints while a network is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from coda_cli.cli.console import console

if TYPE_CHECKING:
    from pathlib import Path

    from coda_cli.cli.console import Advance
    from coda_cli.training.loop import Tick
    from coda_cli.training.recipes import Recipe
    from coda_cli.training.results import Result


def how(recipe: Recipe) -> str:
    """Say what the accuracy of a run counts."""
    return "as by the network it comes from" if recipe.distil else "correctly"


@contextmanager
def beside_others() -> Iterator[None]:
    """Train on one thread where other programs have the cores, and say so."""
    from coda_cli.machine.lanes import one_thread_if_busy

    with one_thread_if_busy() as busy:
        if busy:
            console.say("other programs keep all cores busy: training on one thread; OMP_NUM_THREADS=N takes N")
        yield


class Told:
    """What is printed while a network is trained."""

    def __init__(self, recipe: Recipe, advance: Advance, budget: float = math.inf) -> None:
        self.recipe, self.advance = recipe, advance
        self.end = time.monotonic() + budget  # ``budget`` is in seconds from now
        self.shares: list[float] = []
        self.first: Tick | None = None
        self.last: Tick | None = None

    def step(self, tick: Tick) -> None:
        """Show how far training is; every 200 steps also its loss and speed."""
        self.first, self.last = self.first or tick, tick
        self.advance(tick.step, tick.steps)
        if tick.step % 200 == 0:
            console.detail(f"step {tick.step}: loss {tick.loss:.4f}, {tick.images_per_second:.0f} pictures/s")

    def epoch(self, epoch: int, share: float) -> None:
        """Print how many held-out pictures are classified correctly after an epoch, and what is expected of the run."""
        from coda_cli.training.choice import expected_accuracy

        self.shares.append(share)
        text = f"epoch {epoch} of {self.recipe.epochs}: {share:.1%} of a held-out sample classified {how(self.recipe)}"
        first, last = self.first, self.last
        if epoch < self.recipe.epochs and first and last and last.step > first.step:
            whole = (last.seconds - first.seconds) / (last.step - first.step) * (last.steps - last.step)
            left = min(whole, max(0.0, self.end - time.monotonic()))
            text += f"; about {left / 60:.0f} minutes left" if left > 90 else f"; about {left:.0f} s left"
            more = (self.recipe.epochs - epoch) * (left / whole if whole else 1)  # epochs that are still made
            if left < whole:
                text += f" of the time budget, for {more:.0f} more epochs"
            if (end := expected_accuracy(self.shares, round(more) + len(self.shares))) is not None:
                text += f", about {end:.0%} expected at the end"
        console.say(text)

    def stopped(self, path: Path) -> None:
        """Say after Ctrl-C what is on the disk by then: the network so far."""
        if self.last and path.exists():
            console.interrupted(f"interrupted; {path} is the network so far, the same command with --resume continues")

    def ended(self, result: Result, held_out: int) -> None:
        """Say how many of the held-out pictures are classified correctly, or that the time budget ended the run."""
        if not result.finished:
            console.say(
                f"the time budget is spent after step {result.steps}; the network so far is on disk, the same command "
                f"with --resume continues"
            )
            return
        console.say(
            f"{result.accuracy:.2%} of {held_out} held-out pictures classified {how(self.recipe)}; "
            f"{result.seconds / 60:.0f} minutes"
        )
