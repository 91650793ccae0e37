"""The papers' figures of the measurements. Only these need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coda_cli.errors import UsageError
from coda_cli.media.files import write_with
from coda_cli.media.sources import RECORD_KEY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RED, GREY = "#1c1c1e", "#cd2a30", "#8a8a90"
OTHERS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", INK)
FORMATS = (".png", ".svg", ".pdf")


def check_path(path: Path) -> None:
    """Find out before a long measurement whether its figure can be written.

    Args:
        path: of the figure.

    Raises:
        UsageError: the suffix is not one of FORMATS, the folder is not there, or matplotlib is not installed.
    """
    import importlib.util

    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path}: figures are written as {', '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install matplotlib")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no folder {path.parent}")


def localisation_figure(scores: Mapping[str, NDArray[np.float64]], uniform: float, title: str) -> Figure:
    """Draw box plots of localisation scores, with lines for a perfect map and for evenly spread evidence.

    Args:
        scores: by label, float64 [grids, n] in [0, 1].
        uniform: what evenly spread evidence scores.
        title: of the figure.

    Returns:
        A figure for ``save``.
    """
    figure, axes = _figure(1.2 + 1.1 * len(scores), 3.6)
    axes.axhline(1.0, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.axhline(uniform, color=GREY, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.text(0.5, 1.012, "perfect", color=GREY, fontsize=8, va="bottom")
    axes.text(0.5, uniform + 0.012, "even", color=GREY, fontsize=8, va="bottom")
    boxes = axes.boxplot(
        [s.ravel() for s in scores.values()],
        tick_labels=[_in_lines(label) for label in scores],
        widths=0.5,
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 2, "markerfacecolor": GREY, "markeredgecolor": "none"},
        medianprops={"color": INK},
        showmeans=True,
        meanprops={"marker": "D", "markersize": 4, "markerfacecolor": INK, "markeredgecolor": "none"},
    )
    for n, box in enumerate(boxes["boxes"]):
        box.set(facecolor=RED if n == 0 else "#e4e4e8", alpha=0.55 if n == 0 else 1.0, edgecolor=INK, linewidth=0.8)
    axes.set(
        ylim=(-0.02, 1.08), ylabel="share of positive evidence\nin the right cell", xlim=(0.45, len(scores) + 0.55)
    )
    axes.set_title(title, fontsize=9, loc="left")
    return figure


def removal_figure(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], title: str) -> Figure:
    """Draw the mean probability over the share of removed pixels.

    A curve that lies on another is dashed, so that both are seen, and so are those for which the colours start again.

    Args:
        curves: by label, shares of the pixels [points + 1] and probabilities [points + 1], both in [0, 1].
        title: of the figure.

    Returns:
        A figure for ``save``.
    """
    beside = len(curves) > 3
    figure, axes = _figure(5.2 + 2.2 * beside, 3.4)
    drawn: list[NDArray[np.float64]] = []
    for n, (label, (shares, means)) in enumerate(curves.items()):
        dashed = n > len(OTHERS) or any(len(c) == len(means) and np.allclose(c, means, atol=2e-3) for c in drawn)
        colour, style = OTHERS[(n - 1) % len(OTHERS)] if n else RED, (0, (2.5, 2.5)) if dashed else "-"
        axes.plot(100 * shares, means, color=colour, linewidth=1.6, label=label, linestyle=style)
        drawn.append(means)
    axes.set(xlabel="% of the pixels removed", ylabel="probability of the true class", ylim=(0, 1))
    if beside:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")
    return figure


def depth_figure(layers: Sequence[tuple[str, Sequence[float | None], Sequence[float | None]]], title: str) -> Figure:
    """Draw how much of the logits the positions of each layer carry, and how much they cancel.

    Args:
        layers: from the input up: name, and the 10th, 50th and 90th percentile of what is carried and of the ratio of
            magnitudes to the sum.
        title: of the figure.

    Returns:
        A figure for ``save``.
    """
    names, at = [name for name, *_ in layers], np.arange(len(layers))
    carried, ratio = (np.array([layer[n] for layer in layers], np.float64).T for n in (1, 2))  # None becomes NaN
    figure, axes = _figure(1.6 + 0.16 * max(24, len(layers)), 3.8)
    axes.axhspan(0.9, 1.1, color="#e4e4e8", linewidth=0)
    axes.fill_between(at, carried[0], carried[2], color=RED, alpha=0.2, linewidth=0)
    axes.plot(at, carried[1], color=RED, linewidth=1.6)
    axes.set(ylim=(-1.05, 2.05), xlim=(-0.5, len(layers) - 0.5), ylabel="share of the logit that positions carry")
    axes.yaxis.label.set_color(RED)
    every = max(1, len(names) // 40)
    axes.set_xticks(at[::every], names[::every], rotation=90, fontsize=6)
    beside = axes.twinx()
    beside.plot(at, ratio[1], color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
    beside.set(yscale="log", ylabel="magnitudes / sum")
    beside.tick_params(labelsize=8)
    beside.spines["top"].set_visible(False)
    axes.set_title(title, fontsize=9, loc="left")
    return figure


def _in_lines(label: str) -> str:
    """A method and its parameters one below the other, and long names in two lines."""
    name, *parameters = label.replace(",", ":").split(":")
    if len(name) > 12:
        name = "-\n".join(name.rsplit("-", 1))
    return "\n".join([name, *parameters])


def save(figure: Figure, path: Path, *, replace: bool = True) -> None:
    """Write a figure, whole or not at all. A PNG is marked as coda's own, so that no run takes it for a photograph.

    Args:
        figure: the figure.
        path: with one of the suffixes FORMATS.
        replace: whether a file of this name may be replaced.

    Raises:
        TakenError: there is a file of this name that may not be replaced.
        MediaError: the file cannot be written.
    """
    kind = path.suffix.lower().lstrip(".")
    marked = {RECORD_KEY: "figure"} if kind == "png" else None
    write_with(path, lambda stream: figure.savefig(stream, format=kind, dpi=160, metadata=marked), replace=replace)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, sizes in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes
