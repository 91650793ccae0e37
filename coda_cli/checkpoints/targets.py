"""From the classes that a user asks for to weightings of a network's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_cli.checkpoints.labels import resolve_class
from coda_cli.checkpoints.manifest import Checkpoint, known
from coda_cli.errors import UsageError


@dataclass(frozen=True)
class Target:
    """A class, or the difference of two.

    Attributes:
        index: of the class.
        versus: of the class that is subtracted; None where a single class is explained.
    """

    index: int
    versus: int | None = None


class Targets:
    """The classes of a request, found before any work; "top:K" and the prediction wait for the logits of a picture.

    Attributes:
        versus: index of the class that is subtracted from each; None where single classes are explained.
    """

    def __init__(self, classes: Sequence[str], versus: str | None, checkpoint: Checkpoint) -> None:
        """Find the classes.

        Args:
            classes: each a text that ``labels.resolve_class`` takes, "top:K", or "all"; none is the predicted class.
            versus: turns every class A into the difference A minus this class.
            checkpoint: the network's description.

        Raises:
            UsageError: the network does not have a class, or a class would only be subtracted from itself.
        """
        count, others = len(checkpoint.classes), known()
        self._fixed: list[int] = []
        self._top = 0 if classes else 1
        for text in classes:
            if text == "all":
                self._fixed += range(count)
            elif text.startswith("top:"):
                self._top = max(self._top, _top_count(text, count))
            else:
                self._fixed.append(resolve_class(text, checkpoint, others))
        self.versus = None if versus is None else resolve_class(versus, checkpoint, others)
        if not self._top and set(self._fixed) == {self.versus}:
            raise UsageError(f"--versus {versus}: is the class asked for; a class minus itself is 0")

    def of(self, logits: NDArray[np.float64]) -> list[Target]:
        """List the targets for one picture, each once, in the order asked for; the top ones come first.

        Args:
            logits: float64 [classes].

        Returns:
            At least one target.
        """
        best = [int(i) for i in np.argsort(-logits, kind="stable")[: self._top]]
        chosen = [i for i in dict.fromkeys(best + self._fixed) if i != self.versus]
        if not chosen and self.versus is not None:
            # The prediction is the class to subtract: the class with the second highest logit takes its place.
            chosen = [int(i) for i in np.argsort(-logits, kind="stable") if i != self.versus][:1]
        return [Target(i, self.versus) for i in chosen]

    @property
    def depend_on_logits(self) -> bool:
        """Whether the logits of a picture decide what is explained."""
        return self._top > 0

    @property
    def most(self) -> int:
        """The largest number of targets that a picture can have."""
        return self._top + len(set(self._fixed))

    def weightings(self, logits: Tensor) -> Tensor:
        """Turn the targets of a batch into weightings of logits, for ``decompose``.

        Args:
            logits: float [B, classes].

        Returns:
            float32 [B, K, classes], K being the largest number of targets in the batch; pictures with fewer targets
            have rows of zeros at the end.
        """
        rows = [self.of(row) for row in logits.cpu().double().numpy()]
        weights = torch.zeros(len(rows), max(map(len, rows)), logits.shape[1])
        for b, targets in enumerate(rows):
            for k, target in enumerate(targets):
                weights[b, k, target.index] = 1
                if target.versus is not None:
                    weights[b, k, target.versus] = -1
        return weights


def _top_count(text: str, count: int) -> int:
    """K of "top:K". Raises UsageError."""
    try:
        k = int(text.removeprefix("top:"))
    except ValueError:
        k = 0
    if not 1 <= k <= count:
        raise UsageError(f"--class {text}: top:K takes K from 1 to {count}, the number of classes")
    return k
