"""Find what has to be known of a whole clip before its first frame is drawn, and group frames for the network."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.clip.kept import Memory, Seen, explain_seen, keeps, see
from coda_cli.explanation.clip.neurons import values_of
from coda_cli.explanation.neurons import drawn_map
from coda_cli.explanation.picture import Explanation, classify_batch, explain_batch
from coda_cli.explanation.request import Request
from coda_cli.machine import budget
from coda_cli.machine.ahead import ahead, threads
from coda_cli.machine.lanes import batch_pool
from coda_cli.machine.memory import as_many_as_fit
from coda_cli.media.view import View, fit
from coda_cli.render.clip import Curve
from coda_cli.render.colour import Magnitudes
from coda_cli.video.reading import Frame

MOST_CURVES = 5  # that people with any common form of colour blindness can tell apart


@dataclass(frozen=True)
class Group:
    """Frames of a clip that are computed together.

    Attributes:
        frames: one or more, of one size.
        views: what the network sees of each.
    """

    frames: tuple[Frame, ...]
    views: tuple[View, ...]


def grouped_views(
    frames: Iterable[Frame], net: Net, request: Request, batch: int | None = None
) -> Generator[Group, None, None]:
    """Read frames ahead, in a thread of their own, and group them.

    Args:
        frames: the frames in order, all of one size.
        net: the network; its view of each frame is made.
        request: what is asked.
        batch: how many to compute together; decided by their size unless given.

    Yields:
        Groups of frames in order.
    """
    p, targets = net.checkpoint.preprocessing, request.targets(net).most
    source = iter(frames)

    def following() -> tuple[Frame, View] | None:
        if (frame := next(source, None)) is None:
            return None
        return frame, fit(frame.rgb, p.resize, p.crop, request.fit, p.interpolation)

    first = following()
    if first is None:
        return
    size = first[0].rgb.nbytes
    at_once = budget.frames_at_once(net.device.type, first[1].pixels, targets)
    most = batch or budget.frames_held(at_once, size)
    group: list[tuple[Frame, View]] = []
    calls = ((None, following) for _ in itertools.count())
    with threads(1) as pool, closing(ahead(pool, calls, budget.frames_held(budget.FRAMES_AHEAD, size))) as read:
        for pair in itertools.chain([first], (pair for _, pair in read)):
            if pair is None:
                break
            group.append(pair)
            if len(group) >= most:
                yield _as_group(group)
                group = []
        if group:
            yield _as_group(group)


def _as_group(pairs: Sequence[tuple[Frame, View]]) -> Group:
    return Group(tuple(frame for frame, _ in pairs), tuple(view for _, view in pairs))


def explained(
    groups: Iterable[Group], net: Net, request: Request, targets: Targets, kept: Iterable[Seen] = ()
) -> Iterator[tuple[Group, list[Explanation]]]:
    """Explain groups of frames; the network works one group ahead of the caller.

    Args:
        groups: the frames.
        net: the network.
        request: what is asked.
        targets: the classes of the request, found in the network.
        kept: what the first pass kept of each frame, in their order, where there was one.

    Yields:
        Each group with the explanations of its frames, in order.

    Raises:
        CodaError: a frame cannot be explained.
    """
    following = iter(kept)

    def call(group: Group) -> Callable[[], Sequence[Explanation | CodaError]]:
        of_these = list(itertools.islice(following, len(group.views)))
        return partial(_explain, group.views, of_these, net, request, targets)

    calls = ((group, call(group)) for group in groups)
    with batch_pool(net.device.type) as pool, closing(ahead(pool, calls, 1)) as computed:
        for group, results in computed:
            yield group, all_explained(results)


def _explain(
    views: Sequence[View], kept: Sequence[Seen], net: Net, request: Request, targets: Targets
) -> Sequence[Explanation | CodaError]:
    """Explain frames from what is kept of them, or, where something is missing, from their views."""
    size = views[0].resolution
    if len(kept) == len(views) and all(seen.is_of(view) for seen, view in zip(kept, views, strict=True)):
        again = partial(explain_seen, net=net, request=request, targets=targets)
        return as_many_as_fit(net.model, list(zip(views, kept, strict=True)), size, again)
    explain = partial(explain_batch, net=net, request=request, targets=targets)
    return as_many_as_fit(net.model, views, size, explain)


def all_explained(results: Iterable[Explanation | CodaError]) -> list[Explanation]:
    """Take the explanations out of results; the first error among these is raised.

    Args:
        results: what ``explain_batch`` gives.

    Returns:
        The explanations, in order.

    Raises:
        CodaError: the first error among them.
    """
    found = []
    for result in results:
        if isinstance(result, CodaError):
            raise result
        found.append(result)
    return found


class Scales(NamedTuple):
    """What full colour stands for in all frames.

    Attributes:
        logit: the contribution of one pixel of the view, in logit units.
        neurons: the same for each neuron, in units of its activation.
        frames: from how many frames these were found.
    """

    logit: float
    neurons: tuple[float, ...]
    frames: int


@dataclass
class Survey:
    """What one forward pass over a clip found.

    Attributes:
        times: the time of each of n frames, in seconds.
        logits: the logits [classes] of each.
        kept: what is kept of each for the second pass.
        activations: the titles and activations of the neurons of each.
        sample: what the network sees of some frames, evenly spaced.
        every: the spacing of the sample, in frames.
        memory: how much is kept.
    """

    times: list[float] = field(default_factory=list)
    logits: list[NDArray[np.floating[Any]]] = field(default_factory=list)
    kept: list[Seen] = field(default_factory=list)
    activations: list[list[tuple[str, float]]] = field(default_factory=list)
    sample: list[View] = field(default_factory=list)
    every: int = 1
    memory: Memory = field(default_factory=Memory)

    @property
    def seen(self) -> int:
        """The number of frames seen so far."""
        return len(self.times)

    def add(self, time: float, frame: Seen, view: View, activations: Sequence[tuple[str, float]] = ()) -> None:
        """Add the next frame.

        Args:
            time: when it is shown, in seconds.
            frame: what the network found.
            view: what the network saw of it.
            activations: the titles and activations of its neurons.
        """
        if self.seen % self.every == 0:
            self.sample.append(view)
            most = max(4, min(2 * budget.SCALE_FRAMES, budget.SCALE_BYTES // view.rgb.nbytes))
            if len(self.sample) >= most:  # every other one is dropped, so that the rest stays evenly spaced
                self.sample, self.every = self.sample[::2], self.every * 2
        self.times.append(time)
        self.logits.append(frame.logits)
        self.kept.append(self.memory.kept(frame))
        self.activations.append(list(activations))

    def predicted(self) -> int:
        """Find the class predicted most often.

        Returns:
            Its index; of several, that of the one with the highest mean logit.
        """
        votes = np.bincount([int(row.argmax()) for row in self.logits], minlength=len(self.logits[0]))
        return int(np.lexsort((-self._mean(), -votes))[0])

    def targets(self, net: Net, request: Request) -> Targets:
        """Choose the classes of a request once for the whole clip.

        The predicted class is the one predicted in most frames; "top:K" goes by the mean logits.

        Args:
            net: the network.
            request: what is asked.

        Returns:
            Targets that no longer depend on the logits of a frame.
        """
        mean = self._mean()
        mean[self.predicted()] = mean.max() + 1
        chosen = request.targets(net).of(mean)
        return replace(request, classes=tuple(str(t.index) for t in chosen)).targets(net)

    def targets_of_frames(self, net: Net, request: Request) -> Targets:
        """Choose the classes of which curves are drawn where each frame explains its own: the most frequent of these.

        Args:
            net: the network.
            request: what is asked.

        Returns:
            At most MOST_CURVES targets.
        """
        asked = request.targets(net)
        counts = Counter(target.index for row in self.logits for target in asked.of(row.astype(np.float64)))
        chosen = tuple(str(index) for index, _ in counts.most_common(MOST_CURVES))
        return replace(request, classes=chosen).targets(net)

    def curves(self, targets: Targets, net: Net) -> list[Curve]:
        """Make the curves of the logits of targets over time.

        Args:
            targets: the targets.
            net: the network, whose class names the curves get.

        Returns:
            A curve for each; of the neurons that were asked for, where there are some.
        """
        times = np.array(self.times)
        if any(self.activations):
            return self._curves_of_neurons(times)
        return [
            Curve(target_name(t, net), times, self._logits_of(t), t.versus is not None)
            for t in targets.of(self._mean())
        ]

    def _curves_of_neurons(self, times: NDArray[np.float64]) -> list[Curve]:
        """The activations over time; of several, whose units differ, each as a share of its largest."""
        curves = []
        for n, (title, _) in enumerate(self.activations[0]):
            values = np.array([row[n][1] for row in self.activations])
            most = float(np.abs(values).max())
            if len(self.activations[0]) > 1 and most > 0:
                title, values = f"{title} (1 is {most:.3g})", values / most
            curves.append(Curve(title, times, values, what="activation of"))
        return curves

    def _logits_of(self, target: Target) -> NDArray[np.float64]:
        """The logits, or differences of logits, of one target over time [n]."""
        rows = ((row[target.index], 0 if target.versus is None else row[target.versus]) for row in self.logits)
        return np.array([float(logit) - float(other) for logit, other in rows])

    def _mean(self) -> NDArray[np.float64]:
        """The mean logits over all frames [classes], without a copy of them all."""
        total = np.zeros(len(self.logits[0]))
        for row in self.logits:
            total += row
        return total / self.seen

    def scale(self, net: Net, request: Request, targets: Targets, percentile: float) -> Scales:
        """Find one scale for all frames, and one for each neuron, from some frames that are evenly spaced.

        Args:
            net: the network.
            request: what is asked.
            targets: the classes of the request, found in the network.
            percentile: of the |contributions| of these frames, from 0 to 100.

        Returns:
            The percentiles, and the number of frames that they were taken from.
        """
        step = max(1, len(self.sample) // budget.SCALE_FRAMES)
        sample, kept = self.sample[::step], self.kept[:: step * self.every]
        size, magnitudes = budget.pictures_at_once(net.device.type, sample[0].pixels, targets.most), Magnitudes()
        of_neurons = [Magnitudes() for _ in request.neurons]
        for i in range(0, len(sample), size):
            results = _explain(sample[i : i + size], kept[i : i + size], net, request, targets)
            for explanation in all_explained(results):
                magnitudes.add(explanation.maps)
                for one, neuron in zip(of_neurons, explanation.inside.activations, strict=True):
                    one.add(drawn_map(neuron, explanation.view))
        neurons = tuple(one.percentile(percentile) for one in of_neurons)
        return Scales(magnitudes.percentile(percentile), neurons, len(sample))


def survey(
    net: Net,
    frames: Iterable[Frame],
    request: Request,
    batch: int | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> Survey:
    """Classify every frame of a clip, without decomposing any.

    Args:
        net: the network.
        frames: the frames in order.
        request: what is asked.
        batch: how many to compute together; decided by their size unless given.
        on_frame: called after each group of frames with the number of frames seen so far.

    Returns:
        The times, logits and sample of the frames.

    Raises:
        MediaError: the clip has no frame to explain.
    """
    found = Survey()
    groups = grouped_views(frames, net, request, batch)
    calls = ((group, partial(_look, group.views, net, request)) for group in groups)
    with batch_pool(net.device.type) as pool, closing(groups), closing(ahead(pool, calls, 1)) as computed:
        for group, rows in computed:
            for frame, (seen, activations), view in zip(group.frames, rows, group.views, strict=True):
                found.add(frame.time, seen, view, activations)
            if on_frame:
                on_frame(found.seen)
    if not found.seen:
        raise MediaError("no frame is left to explain")
    return found


def _look(views: Sequence[View], net: Net, request: Request) -> list[tuple[Seen, list[tuple[str, float]]]]:
    """What is found of some frames, and their neurons. Raises CodaError."""
    if keeps(net, request):
        found = see(views, net, request)
    else:
        found = [Seen(row) for row in classify_batch(views, net, request)]
    return list(zip(found, values_of(views, net, request), strict=True))


def target_name(target: Target, net: Net) -> str:
    """Name a target for captions.

    Args:
        target: a class, or a difference of two.
        net: the network.

    Returns:
        The class's name, or "A − B".
    """
    names: Sequence[str] = net.checkpoint.classes
    return names[target.index] if target.versus is None else f"{names[target.index]} − {names[target.versus]}"
