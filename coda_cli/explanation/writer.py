"""Write the files about one explained picture, the record last; or find them where they exist already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coda_cli.checkpoints.loading import Net
from coda_cli.core.neurons import NeuronMap
from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.drawing import STYLES, colour_explanation_of, draw, draw_layers, draw_neuron, memory_of
from coda_cli.explanation.files import FilePolicy, is_about, stored_record, withdraw
from coda_cli.explanation.naming import Naming, marked
from coda_cli.explanation.neurons import all_neurons, drawn_map
from coda_cli.explanation.picture import Explanation
from coda_cli.explanation.record import Drawing, make_record, settings_hash
from coda_cli.explanation.request import Input, Request
from coda_cli.machine import gate
from coda_cli.media.files import prepare, write_with
from coda_cli.media.sources import RECORD_KEY, Item
from coda_cli.media.stills import Picture, write_png
from coda_cli.render.colour import TABLE
from coda_cli.schema.neurons import NeuronPart
from coda_cli.schema.parts import to_json
from coda_cli.schema.pictures import Explained, Record, core_json, neuron_json
from coda_cli.video.writing import write_gif
from coda_cli.vocabulary import IfExists

DRAWN = (*STYLES, "layers", "depth")  # kinds of files that are about one class
LAYER_SECONDS = 0.65  # that the animation over depth shows each layer, as the authors do


@dataclass(frozen=True)
class Outcome:
    """How one input ended: explained, skipped because its results exist already, or failed.

    Attributes:
        item: the input.
        record: its record; None for an input that failed.
        error: why it failed.
        skipped: whether its results existed already.
        written: its files in the order of writing; for an input that was skipped, those that exist.
        addresses: the same as ``written``, where the output folder is at an address.
        entry: what ``Output.entry`` made of it, where it was asked to.
    """

    item: Item
    record: Record | None = None
    error: CodaError | None = None
    skipped: bool = False
    written: tuple[Path, ...] = ()
    addresses: tuple[str, ...] = ()
    entry: Any = None


@dataclass(frozen=True)
class Output:
    """Where and how results are written.

    Attributes:
        naming: the folder, and the names of files.
        drawing: which files, and how they are drawn.
        if_exists: what happens to files that exist.
        entry: makes what else is needed of an input, such as its part of a page, from what was read, its explanation
            and its record. With it every input is explained, since files that exist do not hold what it needs.
        tells_skipped: whether the record of an input that is skipped is needed, even if it is fetched for that alone.
    """

    naming: Naming
    drawing: Drawing
    if_exists: IfExists = "match"
    entry: Callable[[Input, Explanation, Record], Any] | None = None
    tells_skipped: bool = False


class Writer:
    """Writes the files about the inputs of a run, with one policy for files that exist already.

    Args:
        net: the network.
        items: the inputs, which are never written over.
        request: what is asked.
        output: what is written, and where.
    """

    def __init__(self, net: Net, items: Sequence[Item], request: Request, output: Output) -> None:
        self.net, self.request, self.output = net, request, output
        self.settings = settings_hash(net, request, output.drawing)
        self._policy = FilePolicy(
            output.if_exists,
            (item.path for item in items),
            other="--output or --name",
            advice="use --if-exists overwrite, skip or rename, or another --output",
        )
        self._ready: set[Path] = set()  # folders that are known to be writable

    # ---- files that exist --------------------------------------------------------------------------------------------

    def stored(self, item: Item, picture: Picture, regions: Mapping[str, str]) -> Outcome | None:
        """Look for the results of an input.

        Args:
            item: the input.
            picture: the picture as it was read; its hash is compared.
            regions: the files that its regions are from, with their hashes, which are compared as well.

        Returns:
            The outcome of an input whose results exist; None when it has to be explained.

        Raises:
            MediaError: results exist that may not be replaced.
        """
        policy = self.output.if_exists
        if policy in ("overwrite", "rename") or "json" not in self.output.drawing.kinds:
            return None
        path, record = self._looked_up(self.output.naming.record_path(item), picture, regions)
        if not self._is_there(path):
            return None
        if self.output.entry and policy != "error" and (policy == "skip" or self._matches(record, picture, regions)):
            return None
        if policy == "skip":
            there = tuple(f for f in self._files_of_record(record, path) if self._is_there(f))
            return Outcome(item, record, skipped=True, written=there)
        if policy == "match" and self._matches(record, picture, regions):
            # A picture may have been deleted since: then everything is made again.
            files = self._files_of_record(record, path)
            return Outcome(item, record, skipped=True, written=files) if all(map(self._is_there, files)) else None
        raise self._policy.in_the_way(path)

    def _looked_up(self, path: Path, picture: Picture, regions: Mapping[str, str]) -> tuple[Path, Record | None]:
        """Where a file goes, and the record that is there: beside one that other settings made of the same picture.

        The mark in its name is the same each time, so that the next run with these settings finds it.
        """
        stored = self._record_at(path)
        others = stored and is_about(stored, picture) and not self._matches(stored, picture, regions)
        if self.output.if_exists != "match" or not others:
            return path, stored
        decides = self.settings, self.net.sha256, *sorted(regions.items())
        path = marked(path, hashlib.sha256(repr(decides).encode()).hexdigest()[:8])
        return path, self._record_at(path)

    def _record_at(self, path: Path) -> Record | None:
        """The record that an output file holds, if there is one."""
        return stored_record(path)

    def _is_there(self, path: Path) -> bool:
        """Whether an output file exists."""
        return path.exists()

    def _place(self, path: Path, source: Input) -> Path:
        """Where a file about an input that was read goes."""
        if self.output.if_exists != "match":
            return path
        return self._looked_up(path, source.picture, source.found.files)[0]

    def _matches(self, record: Record | None, picture: Picture, regions: Mapping[str, str]) -> bool:
        """Whether a stored record is about this picture, its regions, this network and these settings."""
        if record is None or not is_about(record, picture):
            return False
        return (record.network.sha256, record.settings, record.region_files) == (
            self.net.sha256,
            self.settings,
            regions,
        )

    def _files_of_record(self, record: Record | None, path: Path) -> tuple[Path, ...]:
        """Every file that the record in ``path`` names, and the record itself."""
        named = [f for e in record.explained for f in e.files.values()] if record else []
        named += [f for neuron in all_neurons(record) for f in neuron.files.values()] if record else []
        named += record.files.values() if record else []
        return (*(self.output.naming.folder / f for f in named), path)

    def _is_written(self, path: Path, source: Input) -> bool:
        """Whether a file is to be drawn and written: not where one exists and is kept. Raises MediaError."""
        return self._policy.place(path, partial(self._is_the_same, path, source)) is not None

    def _write(self, path: Path, source: Input, write: Callable[..., object]) -> Path | None:
        """Write a file; gives the path that it got in the end."""
        return self._policy.write(path, write, partial(self._is_the_same, path, source))

    def _is_the_same(self, path: Path, source: Input) -> bool:
        """Whether the file that exists is about this picture, network and settings."""
        return self._matches(self._record_at(path), source.picture, source.found.files)

    # ---- files that are written --------------------------------------------------------------------------------------

    def write(self, source: Input, explanation: Explanation) -> Outcome:
        """Write every file about an explained picture, its record last.

        Args:
            source: the picture as it was read.
            explanation: its explanation.

        Returns:
            The outcome, with its record and files.

        Raises:
            MediaError: a file cannot be written, or exists and may not be replaced.
        """
        kinds, naming = self.output.drawing.kinds, self.output.naming
        record = make_record(explanation, source, self.output.drawing, self.settings)
        self._prepare_folder(source)
        taken: set[Path] = set()
        of_classes = [
            {
                **self._write_pictures(source, explanation, k, record, taken),
                **self._write_layers(source, explanation, k, record, taken),
            }
            for k in range(len(record.explained))
        ]
        shared = self._write_arrays(source, explanation, record) if "npz" in kinds else {}
        explained = tuple(
            part.model_copy(update={"files": self._names_in_record(files)})
            for part, files in zip(record.explained, of_classes, strict=True)
        )
        record = record.model_copy(update={"explained": explained, "files": self._names_in_record(shared)})
        written = [path for files in (*of_classes, shared) for path in files.values()]
        record = self._write_neurons(source, explanation, record, taken, written)
        if "json" in kinds:  # last: its presence says that everything else is there
            text = to_json(record).encode() + b"\n"
            write = partial(write_with, write=lambda stream: stream.write(text))
            if path := self._write(self._place(naming.record_path(source.item), source), source, write):
                written.append(path)
        entry = self.output.entry(source, explanation, record) if self.output.entry else None
        return Outcome(source.item, record, written=tuple(written), entry=entry)

    def _prepare_folder(self, source: Input) -> None:
        """Make the folder, and remove an old record, which would say that the files now being replaced are complete."""
        kinds, path = self.output.drawing.kinds, self._place(self.output.naming.record_path(source.item), source)
        if kinds and not (path.parent in self._ready and path.parent.is_dir()):
            prepare(path.parent)
            self._ready.add(path.parent)
        if "json" not in kinds:
            return
        if self.output.if_exists == "overwrite":
            self._policy.refuse_input(path)
            withdraw(path)
        elif self.output.if_exists in ("match", "error"):
            # Another run may have written it in the meantime: the error comes before any file of this run is written.
            self._is_written(path, source)

    def _write_pictures(
        self, source: Input, explanation: Explanation, k: int, record: Record, taken: set[Path]
    ) -> dict[str, Path]:
        """Write the overlay, heat map and panel of class ``k``, those that are asked for."""
        drawing, part, files = self.output.drawing, record.explained[k], dict[str, Path]()
        kinds = [kind for kind in drawing.kinds if kind in STYLES]
        hues = colour_explanation_of(explanation, k, drawing.smooth) if kinds and drawing.style == "colour" else None
        for kind in kinds:
            wanted = self._place(self._path_of_class_file(source.item, kind, *_name_and_index(part), taken), source)
            if not self._is_written(wanted, source):
                continue
            with gate.PICTURES.holding(memory_of(kind, source, hues=hues is not None)):
                picture = draw(kind, source, explanation.drawn_map(k), part, record, drawing.alpha, hues)
                write = partial(write_png, rgb=picture, text={RECORD_KEY: core_json(record, part)})
                if path := self._write(wanted, source, write):
                    files[kind] = path
        return files

    def _write_layers(
        self, source: Input, explanation: Explanation, k: int, record: Record, taken: set[Path]
    ) -> dict[str, Path]:
        """Write the layers of class ``k`` as a sheet, and as an animation from the last layer down to the input."""
        part, files = record.explained[k], dict[str, Path]()
        if not part.layers:
            return files
        shares = [share.pixels.cpu().numpy() for share in explanation.layers[k]]
        for kind in (kind for kind in ("layers", "depth") if kind in self.output.drawing.kinds):
            wanted = self._place(self._path_of_class_file(source.item, kind, *_name_and_index(part), taken), source)
            if not self._is_written(wanted, source):
                continue
            with gate.PICTURES.holding(memory_of(kind, source, len(shares))):
                frames, text = draw_layers(kind, source, shares, part, record), core_json(record, part)
                if kind == "layers":
                    write: Callable[..., object] = partial(write_png, rgb=frames[0], text={RECORD_KEY: text})
                else:
                    write = partial(
                        write_gif, frames=frames, seconds=LAYER_SECONDS, comment=text, fixed_colours=TABLE[::4]
                    )
                if path := self._write(wanted, source, write):
                    files[kind] = path
        return files

    def _write_neurons(
        self, source: Input, explanation: Explanation, record: Record, taken: set[Path], written: list[Path]
    ) -> Record:
        """Write the maps of all neurons, and add them to ``written``; gives the record with the names of the files."""
        inside = explanation.inside

        def with_files(part: NeuronPart, neuron: NeuronMap, target: Explained | None = None) -> NeuronPart:
            files = self._write_neuron(source, neuron, part, record, target, taken)
            written.extend(files.values())
            return part.model_copy(update={"files": self._names_in_record(files)})

        activations = tuple(map(with_files, record.neurons, inside.activations))
        explained = []
        for target, layers in zip(record.explained, inside.channels or [()] * len(record.explained), strict=True):
            channels = [
                part.model_copy(
                    update={
                        "strongest": tuple(
                            with_files(n, neuron, target)
                            for n, neuron in zip(part.strongest, shares.strongest, strict=True)
                        )
                    }
                )
                for part, shares in zip(target.channels, layers, strict=True)
            ]
            explained.append(target.model_copy(update={"channels": tuple(channels)}))
        return record.model_copy(update={"neurons": activations, "explained": tuple(explained)})

    def _write_neuron(
        self,
        source: Input,
        neuron: NeuronMap,
        part: NeuronPart,
        record: Record,
        target: Explained | None,
        taken: set[Path],
    ) -> dict[str, Path]:
        """Write the overlay, heat map and panel of one neuron, those that are asked for."""
        drawing, files = self.output.drawing, dict[str, Path]()
        where = "-".join(map(str, part.position)) if part.position else "sum" if target is None else ""
        own = f"{part.layer}-{part.channel}" + (f"-{where}" if where else "")
        name, index = own, own
        if target is not None:
            of_class, at = _name_and_index(target)
            name, index = f"{of_class} {own}", f"{at}-{own}"
        for kind in (kind for kind in drawing.kinds if kind in STYLES):
            wanted = self._place(self._path_of_class_file(source.item, kind, name, index, taken), source)
            if not self._is_written(wanted, source):
                continue
            with gate.PICTURES.holding(memory_of(kind, source)):
                pixels = drawn_map(neuron, source.view)
                picture = draw_neuron(kind, source, pixels, part, record, drawing.alpha, target)
                write = partial(write_png, rgb=picture, text={RECORD_KEY: neuron_json(record, part, target)})
                if path := self._write(wanted, source, write):
                    files[kind] = path
        return files

    def _write_arrays(self, source: Input, explanation: Explanation, record: Record) -> dict[str, Path]:
        """Write the arrays, with the record inside."""
        wanted = self._place(self.output.naming.array_path(source.item), source)
        if not self._is_written(wanted, source):
            return {}
        content = {**arrays(explanation), "record": np.array(to_json(record))}
        save = partial(write_with, write=lambda stream: np.savez_compressed(stream, allow_pickle=False, **content))
        path = self._write(wanted, source, save)
        return {"npz": path} if path else {}

    def _names_in_record(self, files: Mapping[str, Path]) -> dict[str, str]:
        """The names of files as a record holds them: relative to the output folder, with forward slashes."""
        return {kind: path.relative_to(self.output.naming.folder).as_posix() for kind, path in files.items()}

    def _path_of_class_file(self, item: Item, kind: str, name: str, index: str, taken: set[Path]) -> Path:
        """The path of a file about one class or neuron; it is added to the paths that are ``taken``."""
        path = self.output.naming.path(item, kind, name, index)
        if path in taken:  # different class names can give one file name: Cardigan and cardigan
            path = self.output.naming.path(item, kind, f"{name} {index}", index)
        if path in taken:
            raise MediaError("two classes would get this name; add {index} to --name", item=path)
        taken.add(path)
        return path


def _name_and_index(part: Explained) -> tuple[str, str]:
    """How a class, or a difference of two, is called in the names of files, and its index there."""
    if part.versus is None:
        return part.name, str(part.index)
    return f"{part.name} vs {part.versus.name}", f"{part.index}-{part.versus.index}"


def arrays(explanation: Explanation) -> dict[str, NDArray[np.generic]]:
    """Collect the arrays that the .npz file holds.

    Args:
        explanation: the explanation of a picture.

    Returns:
        ``contributions`` and ``dynamic_weights`` [K, 6, h, w] (of a hybrid those of its cut, [K, C, h', w']),
        ``pixels`` [K, h, w], ``logits`` [classes], ``weights`` [K, classes], ``box`` [4] and ``view`` [h, w, 3].
    """
    d = explanation.decomposition
    return {
        "dynamic_weights": d.dynamic_weights[0].float().cpu().numpy(),
        "contributions": d.contributions[0].float().cpu().numpy(),
        "pixels": explanation.maps,
        "logits": explanation.logits,
        "weights": d.weights[0].float().cpu().numpy(),
        "box": np.array(explanation.view.box),
        "view": explanation.view.rgb,
    }
