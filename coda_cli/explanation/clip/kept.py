"""What the first pass over a clip keeps of its frames, so that the second pass does not compute it again.

Of a hybrid that is the output of its cut: nothing is decomposed below, and the layers above are asked for the outputs
of the explained classes alone. Other networks are decomposed down to what they see, and nothing is kept of them.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Targets
from coda_cli.core.decompose import Decomposition, decompose
from coda_cli.core.hybrid import HybridNet
from coda_cli.core.networks import CodaNet
from coda_cli.errors import CodaError
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.refusals import refusal, too_small
from coda_cli.explanation.request import Request, computing, encoded
from coda_cli.machine import budget
from coda_cli.machine.batches import rows
from coda_cli.machine.memory import memory_left
from coda_cli.media.view import View


class Seen(NamedTuple):
    """A frame that the network has seen.

    Attributes:
        logits: [classes], float32, or float64 where the network computes in it.
        cut: the output of the cut, [h, w, C] in as few bytes as hold it; None where it is not kept.
        checksum: of the view that it was computed from; 0 where it is not kept.
    """

    logits: NDArray[np.floating[Any]]
    cut: Tensor | None = None
    checksum: int = 0

    def is_of(self, view: View) -> bool:
        """Tell whether this was kept, and of the same pixels.

        Args:
            view: what the network would see.

        Returns:
            The answer; False where the file was changed between the two passes.
        """
        return self.cut is not None and self.checksum == _checksum(view)


def keeps(net: Net, request: Request) -> bool:
    """Tell whether ``see`` can be asked for the frames of a clip.

    Args:
        net: the network. It is a hybrid on a CPU: a GPU computes a frame sooner than it has it from memory.
        request: what is asked. Of layers and neurons more would have to be kept.

    Returns:
        The answer.
    """
    inside = request.layer or request.neurons or net.checkpoint.concepts
    hybrid = isinstance(net.model, HybridNet) and isinstance(net.model.above, CodaNet)
    return hybrid and net.device.type == "cpu" and not inside


@torch.no_grad()
def see(views: Sequence[View], net: Net, request: Request) -> list[Seen]:
    """Classify frames of one size, and keep the cuts.

    Args:
        views: what the network sees of them.
        net: a hybrid.
        request: what is asked; only its precision is used here.

    Returns:
        What was found of each.

    Raises:
        MediaError: a frame is smaller than a kernel of the network, or memory does not hold even one.
    """
    model = net.model
    assert isinstance(model, HybridNet)
    try:
        x = encoded(views, net)
        with computing(x, request):
            found = rows(model, x, partial(_cuts_and_logits, model))
    except (ValueError, RuntimeError) as error:
        if (why := too_small(error, views[0], net)) is None:
            raise
        raise why from error
    return [
        Seen(
            row.to(torch.promote_types(row.dtype, torch.float32)).numpy(),
            _in_few_bytes(cut.permute(1, 2, 0)),
            _checksum(view),
        )
        for (cut, row), view in zip(found, views, strict=True)
    ]


def _cuts_and_logits(model: HybridNet, x: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """The output of the cut and the logits of each picture."""
    cuts = model.to_cut(x)
    return zip(cuts, model.above(cuts), strict=True)


def explain_seen(
    frames: Sequence[tuple[View, Seen]], net: Net, request: Request, targets: Targets
) -> list[Explanation | CodaError]:
    """Explain frames from what was kept of them.

    Args:
        frames: views of one size, each with what ``see`` found.
        net: the hybrid that saw them.
        request: what is asked.
        targets: the classes of the request, found in the network.

    Returns:
        For each frame its explanation, or why there is none.
    """
    model = net.model
    assert isinstance(model, HybridNet)
    assert isinstance(model.above, CodaNet)
    start = time.perf_counter()
    a = torch.stack([seen.cut for _, seen in frames if seen.cut is not None]).permute(0, 3, 1, 2)
    a = a.to(next(model.parameters()).dtype)
    logits = torch.from_numpy(np.stack([seen.logits for _, seen in frames]))
    weights = targets.weightings(logits)
    asked = weights.abs().sum((0, 1)).nonzero()[:, 0]
    with computing(a, request):
        d = decompose(model.above.only(asked), a, weights[:, :, asked], relative_tolerance=request.tolerance)
    d = _of_all_classes(d, asked, logits, weights)
    seconds = (time.perf_counter() - start) / len(frames)
    chosen = [tuple(targets.of(row)) for row in logits.double().numpy()]
    return [
        refusal(d[b], net) or Explanation(view, c, d[b].first(len(c)), seconds, (), net, request)
        for b, ((view, _), c) in enumerate(zip(frames, chosen, strict=True))
    ]


def _of_all_classes(d: Decomposition, asked: Tensor, logits: Tensor, weights: Tensor) -> Decomposition:
    """The decomposition of some classes, with the logits of the others beside theirs."""
    every = logits.to(d.logits.dtype).clone()
    every[:, asked] = d.logits
    return replace(d, logits=every, weights=weights.to(d.weights.dtype))


def _in_few_bytes(a: Tensor) -> Tensor:
    """The same numbers in memory of their own; in bfloat16 where no bit is lost."""
    short = a.to(torch.bfloat16, memory_format=torch.contiguous_format)
    return short if torch.equal(short.to(a.dtype), a) else a.clone(memory_format=torch.contiguous_format)


def _checksum(view: View) -> int:
    return zlib.crc32(np.ascontiguousarray(view.rgb).data)


class Memory:
    """How much of a clip's frames is kept: the first ones, as many as ``budget.KEPT_BYTES`` holds.

    Under a limit on memory it is at most half of what that leaves beside the memory for work.
    """

    def __init__(self) -> None:
        self._left = min(budget.KEPT_BYTES, max(0.0, memory_left() - budget.WORKING_MEMORY) / 2)

    def kept(self, seen: Seen) -> Seen:
        """Keep a frame, or its logits alone.

        Args:
            seen: what was found of the next frame.

        Returns:
            It, without its cut where there is no memory left for that.
        """
        size = 0 if seen.cut is None else seen.cut.numel() * seen.cut.element_size()
        if size > self._left:
            self._left = 0
            return Seen(seen.logits)
        self._left -= size
        return seen
