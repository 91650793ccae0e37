"""What has to be known of a whole clip before its first frame is drawn, and the way of frames to the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.errors import MediaError
from coda_cli.explanation.picture import Request, classify_views, explain_views
from coda_cli.machine import budget
from coda_cli.machine.ahead import ahead
from coda_cli.machine.lanes import batch_pool
from coda_cli.media.view import View, fit
from coda_cli.render.clip import Curve
from coda_cli.render.colour import Magnitudes
from coda_cli.video.reading import Frame


def grouped_views(
    frames: Iterable[Frame], net: Net, request: Request, batch: int | None = None
) -> Generator[list[tuple[Frame, View]], None, None]:
    """Frames with what the network sees of them, read ahead in a thread of their own, in batches of one size."""
    p, targets = net.checkpoint.preprocessing, request.targets(net).most
    source = iter(frames)

    def following() -> tuple[Frame, View] | None:
        if (frame := next(source, None)) is None:
            return None
        return frame, fit(frame.rgb, p.resize, p.crop, request.fit)

    group: list[tuple[Frame, View]] = []
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[Frame, View] | None]] = deque(
            pool.submit(following) for _ in range(budget.FRAMES_AHEAD)
        )
        try:
            while (pair := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(following))
                group.append(pair)
                if len(group) >= (batch or budget.frames_at_once(net.device.type, pair[1].pixels, targets)):
                    yield group
                    group = []
            if group:
                yield group
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass
class Survey:
    """What one forward pass over a clip found: logits [n, classes] of its frames at ``times`` [n], and some views."""

    times: list[float] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    sample: list[View] = field(default_factory=list)  # evenly spaced
    every: int = 1  # the spacing

    @property
    def seen(self) -> int:
        """How many frames."""
        return len(self.times)

    def add(self, time: float, logits: NDArray[np.float32], view: View) -> None:
        """Take note of the next frame."""
        if self.seen % self.every == 0:
            self.sample.append(view)
            most = max(4, min(2 * budget.SCALE_FRAMES, budget.SCALE_BYTES // view.rgb.nbytes))
            if len(self.sample) >= most:  # every other one goes: the rest stays evenly spaced
                self.sample, self.every = self.sample[::2], self.every * 2
        self.times.append(time)
        self.logits.append(logits)

    def predicted(self) -> int:
        """The class predicted most often; of equals the one with the higher mean logit."""
        votes = np.bincount([int(row.argmax()) for row in self.logits], minlength=len(self.logits[0]))
        return int(np.lexsort((-self._mean(), -votes))[0])

    def targets(self, net: Net, request: Request) -> Targets:
        """The classes of a request for the whole clip: the vote decides who is predicted, "top:K" goes by the mean."""
        mean = self._mean()
        mean[self.predicted()] = mean.max() + 1
        chosen = request.targets(net).of(mean)
        return replace(request, classes=tuple(str(t.index) for t in chosen)).targets(net)

    def curves(self, targets: Targets, net: Net) -> list[Curve]:
        """The logits of targets over time."""
        return [
            Curve(name_of(t, net), np.array(self.times), self._of(t), t.versus is not None)
            for t in targets.of(self._mean())
        ]

    def _of(self, target: Target) -> NDArray[np.float64]:
        rows = ((row[target.index], 0 if target.versus is None else row[target.versus]) for row in self.logits)
        return np.array([float(logit) - float(other) for logit, other in rows])

    def _mean(self) -> NDArray[np.float64]:
        """Over all frames [classes], without a copy of every frame's."""
        total = np.zeros(len(self.logits[0]))
        for row in self.logits:
            total += row
        return total / self.seen

    def scale(self, net: Net, request: Request, targets: Targets, percentile: float) -> tuple[float, int]:
        """The ``percentile`` of |contribution| over evenly spaced frames, and of how many."""
        sample = self.sample[:: max(1, len(self.sample) // budget.SCALE_FRAMES)]
        size = budget.pictures_at_once(net.device.type, sample[0].pixels, targets.most)
        magnitudes = Magnitudes()
        for i in range(0, len(sample), size):
            for explanation in explain_views(sample[i : i + size], net, request, targets):
                magnitudes.add(explanation.maps)
        return magnitudes.percentile(percentile), len(sample)


def survey(
    net: Net,
    frames: Iterable[Frame],
    request: Request,
    batch: int | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Survey:
    """Classify every frame of a clip, without decomposing any."""
    found = Survey()

    def classify(group: Sequence[tuple[Frame, View]]) -> list[tuple[float, NDArray[np.float32], View]]:
        rows = classify_views([view for _, view in group], net, request)
        return [(frame.time, row, view) for (frame, view), row in zip(group, rows, strict=True)]

    groups = grouped_views(frames, net, request, batch)
    with batch_pool(net.device.type) as pool, closing(groups):
        for group in ahead(pool, classify, groups, 1):
            for classified in group:
                found.add(*classified)
            if on_frame:
                on_frame(found.seen)
    if not found.seen:
        raise MediaError("no frame is left to explain")
    return found


def name_of(target: Target, net: Net) -> str:
    """How a target is called in captions."""
    names: Sequence[str] = net.checkpoint.classes
    return names[target.index] if target.versus is None else f"{names[target.index]} − {names[target.versus]}"
