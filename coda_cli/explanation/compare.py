"""Compare many methods on one picture: their maps side by side, and how far the sum of each is from the logit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy, prepare, withdraw
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.picture import classify_batch
from coda_cli.explanation.record import class_part, network_part, source_part, versions
from coda_cli.explanation.request import Input, Request, encoded, input_of
from coda_cli.media.files import write_with
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


@dataclass(frozen=True)
class ComparisonResult:
    """One class of a picture under several methods.

    Attributes:
        record: the numbers about every method.
        maps: float32 [methods, h, w].
        sheet: the picture and all maps, uint8 [H, W, 3].
    """

    record: Comparison
    maps: Map
    sheet: RGB


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
        files = _files_of_classes(item, net, targets, naming, policy)
        found = _run_methods(net, source.view, targets, methods, on_method)
        for k, (target, names) in enumerate(zip(targets, files, strict=True)):
            record = _make_record(source, net, target, float(logits[target.index]), request.fit, found, k)
            maps = np.stack([method.maps[k] for method in found.methods])
            prepare(names["png"].parent)
            result = ComparisonResult(record, maps, sheet(source.view.rgb, maps, record))
            yield _write(result, names, naming.folder, replace=force)
    except CodaError as error:
        raise error.about(item.name)  # noqa: B904 (it is the same error)


def _files_of_classes(
    item: Item, net: Net, targets: Sequence[Target], naming: Naming, policy: FilePolicy
) -> list[dict[str, Path]]:
    """The paths of the files of every class. Raises MediaError where one exists that may not be replaced."""
    found: dict[Path, dict[str, Path]] = {}
    for target in targets:
        name = net.checkpoint.classes[target.index]
        png = naming.path(item, "compare", name, str(target.index))
        if png in found:  # different class names can give one file name: Cardigan and cardigan
            png = naming.path(item, "compare", f"{name} {target.index}", str(target.index))
        found[png] = {kind: png.with_suffix(f".{kind}") for kind in ("png", "npz", "json")}
    for path in (path for names in found.values() for path in names.values()):
        policy.place(path)
    return list(found.values())


@dataclass(frozen=True)
class _MethodMaps:
    """The maps of K classes that one method gives, float32 [K, h, w]; ``seconds`` is the time for one of the K."""

    text: str
    maps: Map
    seconds: float


@dataclass(frozen=True)
class _AllMaps:
    """The maps of every method that works, for each of the others the reason why it does not, and the constants."""

    methods: tuple[_MethodMaps, ...]
    left_out: dict[str, str]
    constants: tuple[float, ...]  # of every class: what of its logit no map should have


def _run_methods(
    net: Net,
    view: View,
    targets: Sequence[Target],
    methods: Sequence[str],
    on_method: Callable[[int, int], None] | None,
) -> _AllMaps:
    """Run every method once, for all classes together: methods by masks compute each masked picture only once."""
    x, classes = encoded([view], net), [target.index for target in targets]
    found, left_out = list[_MethodMaps](), dict[str, str]()
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
            found.append(_MethodMaps(text, maps, (time.perf_counter() - start) / len(classes)))
        if on_method:
            on_method(len(found) + len(left_out), len(every))
    if not found:
        raise MediaError(f"no method works with {net.checkpoint.name}: {'; '.join(left_out.values())}")
    explained = any(is_exact(method.text) for method in found)
    return _AllMaps(tuple(found), left_out, _constants(net, x, classes, explained))


def _constants(net: Net, x: Tensor, classes: Sequence[int], explained: bool) -> tuple[float, ...]:
    """What of each class's logit belongs to no pixel; of an ordinary network at its cut, if it is explained there."""
    if is_dynamic_linear(net.model) or not explained:
        return (bias_of(net.model),) * len(classes)
    return tuple(decompose(net.model, x, list(classes)).constant_shares.sum(2)[0].tolist())


def _make_record(
    source: Input, net: Net, target: Target, logit: float, fitted: Fit, found: _AllMaps, k: int
) -> Comparison:
    """Make the record about class ``k`` of those that were compared."""
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


def _method_part(method: _MethodMaps, k: int, expected: float) -> MethodPart:
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
    tiles = [framed(enlarged(rgb, size), None, title, lines)]
    for pixels, part in zip(maps, record.methods, strict=True):
        large = heatmap(enlarged(pixels - np.float32(part.white), size), part.scale - part.white)
        took = f"{part.seconds:.2g} s" + (f" for each of {record.together} classes" if record.together > 1 else "")
        colour = (
            f"white {part.white:.3g}, full colour {part.scale:.3g}" if part.white else f"full colour ±{part.scale:.2g}"
        )
        numbers = [f"{colour}, {took}"]
        if part.complete:
            numbers.insert(0, f"sum {part.sum:.3g}, off by {part.off:+.2g}")
        # The bar is one around 0: of positive values the caption says what white and full colour are.
        tiles.append(framed(large, None if part.white else part.scale, part.method, numbers, unit_of(part.method)))
    return in_rows(tiles, COLUMNS)


def _write(result: ComparisonResult, names: dict[str, Path], folder: Path, *, replace: bool) -> Comparison:
    """Write the sheet, the arrays and last the record, whose presence says that the others are complete."""
    files = {kind: path.relative_to(folder).as_posix() for kind, path in names.items()}
    record = result.record.model_copy(update={"files": files})
    text, methods = to_json(record), np.array([m.method for m in record.methods])
    if replace:
        withdraw(names["json"])
    write_png(names["png"], result.sheet, {RECORD_KEY: text}, replace=replace)
    write_with(
        names["npz"],
        lambda s: np.savez_compressed(s, allow_pickle=False, maps=result.maps, methods=methods, record=text),
        replace=replace,
    )
    write_with(names["json"], lambda s: s.write(text.encode() + b"\n"), replace=replace)
    return record
