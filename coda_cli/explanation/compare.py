"""Compare many methods on one picture: their maps side by side, and how far the sum of each is from the logit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from coda_cli.checkpoints.loading import Net
from coda_cli.checkpoints.targets import Target
from coda_cli.core.abilities import bias_of, is_dynamic_linear
from coda_cli.core.decompose import decompose
from coda_cli.errors import CodaError, ExactnessError, MediaError
from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy, withdraw
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.picture import classify_batch
from coda_cli.explanation.record import class_part, network_part, source_part, versions
from coda_cli.explanation.request import Input, Request, encoded, input_of
from coda_cli.media.files import prepare, write_with
from coda_cli.media.sources import RECORD_KEY, Item
from coda_cli.media.stills import reading, write_png
from coda_cli.media.view import View
from coda_cli.render.colour import robust_scale
from coda_cli.render.overlay import drawing_size, enlarged, framed, heatmap, in_rows
from coda_cli.schema.comparisons import Comparison, MethodPart
from coda_cli.schema.parts import ViewPart, to_json
from coda_cli.study.by_name import (
    METHODS,
    is_complete,
    is_exact,
    libraries_of,
    method_of,
    parameters_of,
    unit_of,
    usual,
)
from coda_cli.vocabulary import Fit

RGB = NDArray[np.uint8]
Map = NDArray[np.float32]
COLUMNS = 4
OnResult = Callable[[Input, Comparison, Map], None]


def compare(
    item: Item,
    net: Net,
    request: Request,
    methods: Sequence[str],
    naming: Naming,
    *,
    force: bool = False,
    inputs: Iterable[Path] = (),
    on_method: Callable[[int, int], None] | None = None,
    on_result: OnResult | None = None,
) -> Iterator[Comparison]:
    """Explain one file under several methods, and write a sheet, arrays and a record for every class asked for.

    Args:
        item: the input.
        net: the network; it need not be dynamic linear.
        request: what is asked.
        methods: their names, see ``study.by_name``. Where none is given, all that work with the network are used, and
            the record says which do not work, and why.
        naming: where files go.
        force: whether files that exist are replaced.
        inputs: files that are never replaced.
        on_method: called after each method with the number of methods done and the number of all.
        on_result: called with the picture and the maps of each class once its files are written.

    Yields:
        The record of each class.

    Raises:
        UsageError: no such method or class.
        MediaError: the input cannot be read, or a file exists that may not be replaced.
        CodaError: a method that was asked for fails.
    """
    try:
        with reading(item.content) as picture:
            source = input_of(item, picture, net, request.fit)
        logits = classify_batch([source.view], net, request)[0].astype(np.float64)
        if not np.isfinite(logits).all():
            raise ExactnessError("the network's logits are not finite; nothing can be compared")
        targets = request.targets(net).of(logits)
        policy = FilePolicy("overwrite" if force else "error", inputs, advice=FORCE_REPLACES)
        classes = [(net.checkpoint.classes[target.index], str(target.index)) for target in targets]
        files = files_of(item, classes, naming, policy)
        found = run_methods(net, source.view, targets, methods, on_method)
        for k, (target, names) in enumerate(zip(targets, files, strict=True)):
            record = make_comparison(source, net, target, float(logits[target.index]), request.fit, found, k)
            maps = np.stack([method.maps[k] for method in found.methods])
            arrays = {"maps": maps, "methods": np.array([m.method for m in record.methods])}
            record = write(record, sheet(source.view.rgb, maps, record), arrays, names, naming.folder, replace=force)
            if on_result:
                on_result(source, record, maps)
            yield record
    except CodaError as error:
        raise error.about(item.name)  # noqa: B904 (it is the same error)


def files_of(
    item: Item, classes: Sequence[tuple[str, str]], naming: Naming, policy: FilePolicy
) -> list[dict[str, Path]]:
    """Find the paths of the files about every class.

    Args:
        item: the input.
        classes: what each is called in the names of files, and its index there.
        naming: where files go.
        policy: what happens to files that exist.

    Returns:
        For each class its paths, by kind: png, npz, json.

    Raises:
        MediaError: a file exists that may not be replaced.
    """
    found: dict[Path, dict[str, Path]] = {}
    for name, index in classes:
        png = naming.path(item, "compare", name, index)
        if png in found:  # different class names can give one file name: Cardigan and cardigan
            png = naming.path(item, "compare", f"{name} {index}", index)
        found[png] = {kind: png.with_suffix(f".{kind}") for kind in ("png", "npz", "json")}
    for path in (path for names in found.values() for path in names.values()):
        policy.place(path)
    return list(found.values())


@dataclass(frozen=True)
class MethodMaps:
    """The maps of K classes that one method gives.

    Attributes:
        text: the method, with its parameters.
        maps: float32 [K, h, w].
        seconds: the time for one of the K.
    """

    text: str
    maps: Map
    seconds: float


@dataclass(frozen=True)
class AllMaps:
    """The maps of every method that works with a network.

    Attributes:
        methods: those that work.
        left_out: for each of the others the reason why it does not.
        constants: of every class, what of its logit no map should have.
    """

    methods: tuple[MethodMaps, ...]
    left_out: dict[str, str]
    constants: tuple[float, ...]


def run_methods(
    net: Net,
    view: View,
    targets: Sequence[Target],
    methods: Sequence[str],
    on_method: Callable[[int, int], None] | None,
) -> AllMaps:
    """Run every method once, for all classes together: methods by masks compute each masked picture only once.

    Args:
        net: the network.
        view: what it sees of the picture.
        targets: K classes.
        methods: their names; where none is given, all that work with the network.
        on_method: as for ``compare``.

    Returns:
        The maps of all methods.

    Raises:
        CodaError: a method that was asked for fails, or none works.
    """
    x, classes = encoded([view], net), [target.index for target in targets]
    found, left_out = list[MethodMaps](), dict[str, str]()
    every = methods or default_methods(view)
    for text in every:
        start = time.perf_counter()
        try:
            maps = method_of(text)(net.model, x, classes).float().cpu().numpy()
        except ExactnessError as error:
            if methods or is_dynamic_linear(net.model):
                raise
            left_out[text] = str(error)
        except CodaError as error:
            if methods:
                raise
            left_out[text] = str(error)
        else:
            found.append(MethodMaps(text, maps, (time.perf_counter() - start) / len(classes)))
        if on_method:
            on_method(len(found) + len(left_out), len(every))
    if not found:
        raise MediaError(f"no method works with {net.checkpoint.name}: {'; '.join(left_out.values())}")
    explained = any(is_exact(method.text) for method in found)
    return AllMaps(tuple(found), left_out, _constants(net, x, classes, explained))


def _constants(net: Net, x: Tensor, classes: Sequence[int], explained: bool) -> tuple[float, ...]:
    """What of each class's logit belongs to no pixel; of an ordinary network at its cut, if it is explained there."""
    if is_dynamic_linear(net.model) or not explained:
        return (bias_of(net.model),) * len(classes)
    return tuple(decompose(net.model, x, list(classes)).constant_shares.sum(2)[0].tolist())


def make_comparison(
    source: Input, net: Net, target: Target, logit: float, fitted: Fit, found: AllMaps, k: int
) -> Comparison:
    """Make the record about one network and class.

    Args:
        source: the picture, and what the network sees of it.
        net: the network.
        target: the class.
        logit: of the class.
        fitted: how the picture was made to fit.
        found: the maps of all methods.
        k: which of their classes it is.

    Returns:
        The record, without the names of files.
    """
    bias = found.constants[k]
    view, (width, height) = source.view, source.view.resolution
    return Comparison(
        source=source_part(source),
        network=network_part(net),
        view=ViewPart(fit=fitted, width=width, height=height, box=view.box),
        explained=class_part(net.checkpoint, target.index),
        logit=logit,
        bias=bias,
        methods=tuple(_method_part(method, k, logit - bias) for method in found.methods),
        left_out=found.left_out,
        together=len(found.methods[0].maps),
        device=str(net.device),
        versions=versions(libraries_of(method.text for method in found.methods)),
    )


def _method_part(method: MethodMaps, k: int, expected: float) -> MethodPart:
    """Make the part of a record about one method, whose map of class ``k`` should sum to ``expected``."""
    pixels = method.maps[k]
    total = float(pixels.sum(dtype=np.float64))
    return MethodPart(
        method=method.text,
        parameters=parameters_of(method.text),
        sum=total,
        off=total - expected,
        complete=is_complete(method.text),
        white=max(0.0, float(pixels.min())),
        # Nearly all pixels of a map by LIME are 0, so that the percentile can be 0, too.
        scale=robust_scale(pixels, 99.5) or float(np.abs(pixels).max()),
        seconds=method.seconds,
    )


def default_methods(view: View) -> tuple[str, ...]:
    """All methods, in quick forms for the size of the view.

    Args:
        view: what it sees of the picture.

    Returns:
        Their names with parameters.
    """
    return usual(METHODS, min(view.rgb.shape[:2]))


def sheet(rgb: RGB, maps: Map, record: Comparison) -> RGB:
    """Draw the picture and then every map, each on its own scale, with COLUMNS tiles in a row.

    Args:
        rgb: what the network saw, uint8 [h, w, 3].
        maps: float32 [methods, h, w].
        record: the numbers about every map.

    Returns:
        uint8 [H, W, 3].
    """
    size = drawing_size((rgb.shape[1], rgb.shape[0]))
    logit, bias = record.logit, record.bias
    name = record.explained.name
    title = f"{name} · logit {logit:.2f}"
    lines = [f"{record.network.title}: pixels should sum to logit − bias = {logit - bias:.2f}"]
    tiles = [framed(enlarged(rgb, size), None, title, lines), *map_tiles(maps, record, size)]
    return in_rows(tiles, COLUMNS)


def time_of(part: MethodPart, record: Comparison) -> str:
    """Say how long a method took.

    Args:
        part: the numbers about its map.
        record: those about all maps.

    Returns:
        Seconds with two digits, or whole ones.
    """
    seconds = f"{part.seconds:.2g}" if part.seconds < 99.5 else f"{part.seconds:.0f}"
    return f"{seconds} s" + (f" for each of {record.together} classes" if record.together > 1 else "")


def map_tiles(maps: Map, record: Comparison, size: tuple[int, int]) -> list[RGB]:
    """Draw every map on its own scale, with what its method says of it.

    Args:
        maps: float32 [methods, h, w].
        record: the numbers about every map.
        size: (width, height) at which they are drawn, in pixels.

    Returns:
        A tile for each, uint8 [H, W, 3].
    """
    tiles = []
    for pixels, part in zip(maps, record.methods, strict=True):
        large = heatmap(enlarged(pixels - np.float32(part.white), size), part.scale - part.white)
        took = time_of(part, record)
        colour = (
            f"white {part.white:.3g}, full colour {part.scale:.3g}" if part.white else f"full colour ±{part.scale:.2g}"
        )
        numbers = [f"{colour}, {took}"]
        if part.complete:
            numbers.insert(0, f"sum {part.sum:.3g}, off by {part.off:+.2g}")
        # The bar is one around 0: of positive values the caption says what white and full colour are.
        tiles.append(framed(large, None if part.white else part.scale, part.method, numbers, unit_of(part.method)))
    return tiles


def write(
    record: Comparison,
    drawn: RGB,
    arrays: Mapping[str, NDArray[np.generic]],
    names: Mapping[str, Path],
    folder: Path,
    *,
    replace: bool,
) -> Comparison:
    """Write the sheet, the arrays and last the record, whose presence says that the others are complete.

    Args:
        record: what is recorded, without the names of files.
        drawn: the sheet, uint8 [H, W, 3].
        arrays: what the npz file holds beside the record.
        names: the paths, by kind: png, npz, json.
        folder: the output folder.
        replace: whether files that exist are replaced.

    Returns:
        The record with the names of the files.

    Raises:
        MediaError: a file cannot be written.
    """
    prepare(names["png"].parent)
    files = {kind: path.relative_to(folder).as_posix() for kind, path in names.items()}
    record = record.model_copy(update={"files": files})
    text = to_json(record)
    if replace:
        withdraw(names["json"])
    write_png(names["png"], drawn, {RECORD_KEY: text}, replace=replace)
    write_with(
        names["npz"],
        lambda s: np.savez_compressed(s, allow_pickle=False, **arrays, record=text),
        replace=replace,
    )
    write_with(names["json"], lambda s: s.write(text.encode() + b"\n"), replace=replace)
    return record
