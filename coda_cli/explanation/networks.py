"""Compare several networks on one picture: the maps of each in a row, and what changes from the first to the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target, Targets
from coda_cli.errors import CodaError, ExactnessError, UsageError
from coda_cli.explanation.compare import (
    AllMaps,
    Map,
    OnResult,
    files_of,
    make_comparison,
    map_tiles,
    run_methods,
    write,
)
from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.phrases import (
    equation,
    map_change_text,
    predicted_text,
    regions_change_text,
    regions_text,
    told_apart,
)
from coda_cli.explanation.picture import classify_batch, explain_batch
from coda_cli.explanation.record import Drawing, make_record, top_classes
from coda_cli.explanation.request import Input, Request, input_of, with_regions
from coda_cli.explanation.runs.differences import between
from coda_cli.explanation.runs.maps import Kept, Subtracted
from coda_cli.media.sources import Item
from coda_cli.media.stills import reading
from coda_cli.render.outlines import outlined
from coda_cli.render.overlay import PAPER, drawing_size, enlarged, framed, heatmap, in_rows
from coda_cli.schema.comparisons import Comparison
from coda_cli.schema.parts import Sums
from coda_cli.schema.pictures import Record
from coda_cli.study.by_name import is_exact

RGB = NDArray[np.uint8]
EVERY, PREDICTED = "all", "top:1"
BLANK = np.full((1, 1, 3), PAPER, np.uint8)
Group = tuple[Target | None, ...]  # what each network is explained for on one sheet; None where it lacks the class


@dataclass(frozen=True)
class _Side:
    """What one network says of a picture, for each of its targets."""

    net: Net
    source: Input
    logits: NDArray[np.float32]
    targets: tuple[Target, ...]
    found: AllMaps
    record: Record | None  # with the sums; None where no method splits the logits
    pixels: Map  # [K, h, w], the maps of that record; none where there is none


@dataclass(frozen=True)
class _Shown:
    """One network and class, as it is recorded and drawn."""

    source: Input
    record: Comparison
    maps: Map  # [methods, h, w]
    explained: tuple[Record, Kept] | None  # of this class alone
    difference: Subtracted | None = None  # of the map, to that of the first network


def notes_on_classes(nets: Sequence[Net], request: Request) -> list[str]:
    """Find the classes that are asked for and that a network does not have, and networks with no class in common.

    Args:
        nets: the networks.
        request: what is asked.

    Returns:
        A sentence for each.

    Raises:
        UsageError: no network has a class, or all classes are asked for.
    """
    names = told_apart([net.checkpoint.name for net in nets])
    sentences = [
        f"{name} has no class in common with {names[0]}, by name: their maps are not subtracted"
        for name, net in zip(names[1:], nets[1:], strict=True)
        if not {*net.checkpoint.classes} & {*nets[0].checkpoint.classes}
    ]
    for text in request.classes:
        if text == EVERY:
            raise UsageError(f"--class {EVERY}: is for one network; name classes for several, or write top:K")
        found = [_targets(net, text) for net in nets]
        missing = [error for error in found if isinstance(error, UsageError)]
        if len(missing) == len(nets):
            raise missing[0]
        sentences += [
            f"{name} is left out for --class {text}: {str(error).split('; ')[0]}"
            for name, error in zip(names, found, strict=True)
            if isinstance(error, UsageError)
        ]
    return sentences


def most_shown(nets: Sequence[Net], request: Request) -> int:
    """Count the networks on all sheets of a picture.

    Args:
        nets: the networks.
        request: what is asked, as ``notes_on_classes`` accepts it.

    Returns:
        How many there are at most.
    """
    found = [_targets(net, text) for text in request.classes or (PREDICTED,) for net in nets]
    return sum(targets.most for targets in found if isinstance(targets, Targets))


def _targets(net: Net, text: str) -> Targets | UsageError:
    """What one text means for a network; or why it means nothing."""
    try:
        return Request((text,)).targets(net)
    except UsageError as error:
        return error


def compare_networks(
    item: Item,
    nets: Sequence[Net],
    request: Request,
    methods: Sequence[str],
    naming: Naming,
    *,
    force: bool = False,
    inputs: Iterable[Path] = (),
    on_method: Callable[[int, int], None] | None = None,
    on_result: OnResult | None = None,
) -> Iterator[Comparison]:
    """Explain one file by several networks, and write a sheet, arrays and a record for every class asked for.

    Without a class, each network is explained for its own prediction. Where the first and another network are explained
    for the same class, by name, their maps are subtracted.

    Args:
        item: the input.
        nets: the networks.
        request: what is asked; a network that does not have a class is left out for it.
        methods: their names, see ``study.by_name``; at least one.
        naming: where files go.
        force: whether files that exist are replaced.
        inputs: files that are never replaced.
        on_method: called after each method with the number of methods done and the number of all, over all networks.
        on_result: called with the picture, the record and the maps of each network once a sheet is written.

    Yields:
        The record of each class: of the first network that has it, with the others in it.

    Raises:
        UsageError: no such method.
        MediaError: the input cannot be read, or a file exists that may not be replaced.
        CodaError: a method fails.
    """
    try:
        with reading(item.content) as picture:
            sources = [input_of(item, picture, net, request.fit) for net in nets]
        sources = [with_regions(source, request) for source in sources]
        logits = [classify_batch([s.view], net, request)[0] for s, net in zip(sources, nets, strict=True)]
        if not all(np.isfinite(row).all() for row in logits):
            raise ExactnessError("the logits of a network are not finite; nothing can be compared")
        groups = _groups(nets, request, logits)
        policy = FilePolicy("overwrite" if force else "error", inputs, advice=FORCE_REPLACES)
        files = files_of(item, [_name_and_index(nets, group) for group in groups], naming, policy)
        sides = []
        for n, net in enumerate(nets):
            step = partial(_report, on_method, n, len(nets)) if on_method else None
            targets = tuple(dict.fromkeys(target for group in groups if (target := group[n])))
            sides.append(_side(net, sources[n], logits[n], targets, request, methods, step))
        for group, names in zip(groups, files, strict=True):
            shown = _differing(
                [_shown(side, target, request) for side, target in zip(sides, group, strict=True) if target]
            )
            record = shown[0].record.model_copy(update={"others": tuple(one.record for one in shown[1:])})
            record = write(record, _sheet(shown), _arrays(shown), names, naming.folder, replace=force)
            if on_result:
                for one in shown:
                    on_result(one.source, one.record, one.maps)
            yield record
    except CodaError as error:
        raise error.about(item.name)  # noqa: B904 (it is the same error)


def _report(on_method: Callable[[int, int], None], n: int, networks: int, done: int, of: int) -> None:
    """Tell how many methods are done over all networks, when ``done`` are of the n-th."""
    on_method(n * of + done, networks * of)


def _groups(nets: Sequence[Net], request: Request, logits: Sequence[NDArray[np.float32]]) -> list[Group]:
    """What each network is explained for, sheet by sheet; the k-th of "top:K" stands beside the k-th of the others."""
    groups = dict[Group, None]()
    for text in request.classes or (PREDICTED,):
        found = [_targets(net, text) for net in nets]
        lists = [
            [] if isinstance(targets, UsageError) else targets.of(row.astype(np.float64))
            for targets, row in zip(found, logits, strict=True)
        ]
        groups |= dict.fromkeys(zip_longest(*lists))
    return list(groups)


def _name_and_index(nets: Sequence[Net], group: Group) -> tuple[str, str]:
    """What a sheet is called, and its index: the class, or the classes where networks have several."""
    pairs = [(net.checkpoint.classes[t.index], str(t.index)) for net, t in zip(nets, group, strict=True) if t]
    names, indices = (list(dict.fromkeys(column)) for column in zip(*pairs, strict=True))
    more = [f"and {len(names) - 2} more"] if len(names) > 2 else []
    return " ".join([*names[:2], *more]), "-".join(indices)


def _side(
    net: Net,
    source: Input,
    logits: NDArray[np.float32],
    targets: tuple[Target, ...],
    request: Request,
    methods: Sequence[str],
    on_method: Callable[[int, int], None] | None,
) -> _Side:
    """Run the methods on one network for all its targets, and split their logits where one of the methods does."""
    if not targets:
        return _Side(net, source, logits, (), AllMaps((), {}, ()), None, np.zeros((0, 1, 1), np.float32))
    found = run_methods(net, source.view, targets, methods, on_method)
    record, pixels = None, np.zeros((0, 1, 1), np.float32)
    if any(is_exact(method.text) for method in found.methods):
        asked = Request(tuple(str(target.index) for target in targets), fit=request.fit, regions=request.regions)
        (result,) = explain_batch([source.view], net, asked, asked.targets(net))
        if isinstance(result, CodaError):
            raise result
        record, pixels = make_record(result, source, Drawing()), result.maps
    return _Side(net, source, logits, targets, found, record, pixels)


def _shown(side: _Side, target: Target, request: Request) -> _Shown:
    """One network and one of its classes."""
    k, logit = side.targets.index(target), float(side.logits[target.index])
    record = make_comparison(side.source, side.net, target, logit, request.fit, side.found, k)
    more: dict[str, object] = {"predicted": top_classes(side.net, torch.from_numpy(side.logits))[0]}
    explained = None
    if side.record:
        part = side.record.explained[k]
        more["sums"] = Sums(**{name: getattr(part, name) for name in Sums.model_fields})
        more["regions"] = part.regions
        explained = (
            side.record.model_copy(update={"explained": (part,)}),
            Kept(side.pixels[k : k + 1], side.source.view.rgb),
        )
    maps = np.stack([method.maps[k] for method in side.found.methods])
    return _Shown(side.source, record.model_copy(update=more), maps, explained)


def _differing(shown: Sequence[_Shown]) -> list[_Shown]:
    """The same with the difference of each to the first, where the logits of both were split."""
    first, compared = shown[0], [shown[0]]
    for one in shown[1:]:
        if first.explained and one.explained:
            record, maps = between(first.explained[0], one.explained[0], (first.explained[1], one.explained[1]))
            changed = one.record.model_copy(update={"difference": record})
            one = replace(one, record=changed, difference=maps[0] if maps else None)
        compared.append(one)
    return compared


def _arrays(shown: Sequence[_Shown]) -> dict[str, NDArray[np.generic]]:
    """What the npz file holds; of the second network and those after it under names that end in its number."""
    arrays = dict[str, NDArray[np.generic]]()
    for n, one in enumerate(shown, 1):
        end = f"_{n}" if n > 1 else ""
        arrays[f"maps{end}"] = one.maps
        arrays[f"methods{end}"] = np.array([m.method for m in one.record.methods])
        if one.difference:
            arrays[f"difference{end}"] = one.difference.values
    return arrays


def _sheet(shown: Sequence[_Shown]) -> RGB:
    """Draw a row for each network: what it saw, its maps, and what changed from the first network's map."""
    labels = told_apart([one.record.network.name for one in shown])
    rows = []
    for one, label in zip(shown, labels, strict=True):
        view = one.source.view.rgb
        size = drawing_size((view.shape[1], view.shape[0]))
        lines = [predicted_text(one.record), *([equation(one.record.sums)] if one.record.sums else [])]
        if not one.record.sums:
            lines.append(f"{one.record.explained.name}: logit {one.record.logit:.3f}")
        if one.record.network.cut:
            lines.append(one.record.network.title)
        if one.record.regions:
            lines.append(regions_text(one.record.regions))
        seen = _outlined(one.source, enlarged(view, size))
        row = [framed(seen, None, label, lines), *map_tiles(one.maps, one.record, size)]
        rows.append([*row, _difference_tile(one, f"{label} − {labels[0]}")] if one.difference else row)
    columns = max(map(len, rows))
    return in_rows([tile for row in rows for tile in (*row, *[BLANK] * (columns - len(row)))], columns)


def _outlined(source: Input, drawn: RGB) -> RGB:
    """What the network saw, with the outlines of regions."""
    left, top, right, bottom = source.view.box
    scale = drawn.shape[1] / (right - left), drawn.shape[0] / (bottom - top)
    regions = [(region.name, region.outlines) for region in source.found.regions]
    return outlined(drawn, regions, scale, (left, top)) if regions else drawn


def _difference_tile(one: _Shown, title: str) -> RGB:
    """Draw what changed from the first network's map to this one."""
    assert one.difference
    assert one.record.difference
    (target,) = one.record.difference.targets
    assert target.map
    values = one.difference.values.astype(np.float32)
    large = enlarged(values, drawing_size((values.shape[1], values.shape[0])))
    lines = [map_change_text(target, target.map), f"full colour ±{target.map.scale:.2g} logit a pixel"]
    if target.regions:
        lines.append(f"share of the evidence: {regions_change_text(target)}")
    return framed(heatmap(large, target.map.scale), target.map.scale, title, lines)
