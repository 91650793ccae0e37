"""The files of one picture of a run: what is there already, what is written, and what is never written over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from coda_cli.checkpoints.loading import Net
from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.drawing import STYLES, draw, draw_layers
from coda_cli.explanation.naming import Naming, free_neighbour, prepare, refuse_inputs, stored_record, withdraw
from coda_cli.explanation.picture import Explanation, Request, arrays
from coda_cli.explanation.record import Drawing, colour_explanation_of, described, make_record, source_part, versions
from coda_cli.media.files import write_with
from coda_cli.media.sources import RECORD_KEY, Item, identity
from coda_cli.media.stills import Picture, write_png
from coda_cli.media.view import View
from coda_cli.render.colour import TABLE
from coda_cli.schema.pictures import Explained, Record, core_json, to_json
from coda_cli.video.writing import write_gif

DRAWN = (*STYLES, "layers", "depth")  # kinds of files that are about one class
LAYER_SECONDS = 0.65  # of the animation over depth, as the authors show it
IfExists = Literal["match", "error", "skip", "overwrite", "rename"]


@dataclass(frozen=True)
class Outcome:
    """How one input ended: explained (``record``), skipped because its output is there already, or failed.

    ``written`` are its files, in the order they are written in; of one that is skipped, those that are there.
    """

    item: Item
    record: Record | None = None
    error: CodaError | None = None
    skipped: bool = False
    written: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Output:
    """Where and how results are written. "match" skips an input whose results are there from equal settings."""

    naming: Naming
    drawing: Drawing
    if_exists: IfExists = "match"


@dataclass(frozen=True)
class Loaded:
    """An input that has been read, and what the network sees of it."""

    item: Item
    picture: Picture
    view: View


class Writer:
    """Where the files about the inputs of a run go, under one policy for what is there already."""

    def __init__(self, net: Net, items: Sequence[Item], request: Request, output: Output) -> None:
        self.net, self.request, self.output = net, request, output
        self.inputs = {identity(item.path): item for item in items}
        self.settings = _settings_hash(request, output.drawing, net)
        self.ready: set[Path] = set()  # folders that can be written

    def stored(self, item: Item, picture: Picture) -> Outcome | None:
        """The outcome for an input whose results exist, or None when it has to be explained."""
        policy, path = self.output.if_exists, self.output.naming.record_path(item)
        if policy in ("overwrite", "rename") or "json" not in self.output.drawing.kinds or not path.exists():
            return None
        record = stored_record(path)
        if policy == "skip":
            there = tuple(f for f in self._files(record, path) if f.exists())
            return Outcome(item, record, skipped=True, written=there)
        if policy == "match" and record and self._matches(record, picture):
            # Somebody may have deleted a picture since: then it is drawn again.
            files = self._files(record, path)
            return Outcome(item, record, skipped=True, written=files) if all(f.exists() for f in files) else None
        raise self._in_the_way(path)

    def _in_the_way(self, path: Path) -> MediaError:
        why = "exists" if self.output.if_exists == "error" else "exists from another picture, network or settings"
        return MediaError(f"{path}: {why}; use --if-exists overwrite, skip or rename, or another --output")

    def _matches(self, record: Record, picture: Picture) -> bool:
        """Whether a stored record is of this picture, network and settings."""
        return (record.source.sha256, record.network.sha256, record.settings) == (
            picture.sha256, self.net.sha256, self.settings)  # fmt: skip

    def _files(self, record: Record | None, path: Path) -> tuple[Path, ...]:
        """Everything that the record in ``path`` names, and itself."""
        named = [f for e in record.explained for f in e.files.values()] if record else []
        named += record.files.values() if record else []
        return (*(self.output.naming.folder / f for f in named), path)

    # -- what is written --

    def write(self, loaded: Loaded, explanation: Explanation) -> Outcome:
        """Write every file about an explained picture, its record last. Raises MediaError."""
        item, kinds, naming = loaded.item, self.output.drawing.kinds, self.output.naming
        source = source_part(item, loaded.picture, explanation.view)
        record = make_record(explanation, self.net, self.request, self.output.drawing, source, self.settings)
        folder = naming.folder / item.subfolder
        if kinds and not (folder in self.ready and folder.is_dir()):
            prepare(folder)
            self.ready.add(folder)
        if self.output.if_exists == "overwrite" and "json" in kinds:  # else one that stays is nobody's to remove
            refuse_inputs(naming.record_path(item), self.inputs)
            withdraw(naming.record_path(item))
        elif "json" in kinds and self.output.if_exists in (
            "match",
            "error",
        ):  # another run may have written it since: then nothing of this one is left beside it
            self._target(naming.record_path(item), loaded)
        taken: set[Path] = set()
        of_classes = [
            {**self._write_pictures(loaded, explanation, k, record, taken),
             **self._write_layers(loaded, explanation, k, record, taken)}
            for k in range(len(record.explained))
        ]  # fmt: skip
        shared = {}
        if "npz" in kinds and (path := self._target(naming.array_path(item), loaded)):
            content = {**arrays(explanation), "record": np.array(to_json(record))}
            write_with(path, lambda stream: np.savez_compressed(stream, allow_pickle=False, **content))
            shared["npz"] = path
        explained = tuple(
            part.model_copy(update={"files": self._named(files)})
            for part, files in zip(record.explained, of_classes, strict=True)
        )
        record = record.model_copy(update={"explained": explained, "files": self._named(shared)})
        written = [path for files in (*of_classes, shared) for path in files.values()]
        if "json" in kinds and (path := self._target(naming.record_path(item), loaded)):
            # Last: its presence says that everything else is there.
            write_with(path, lambda stream: stream.write(to_json(record).encode() + b"\n"))
            written.append(path)
        return Outcome(item, record, written=tuple(written))

    def _write_pictures(
        self, loaded: Loaded, explanation: Explanation, k: int, record: Record, taken: set[Path]
    ) -> dict[str, Path]:
        """The overlay, heat map and panel of class ``k``, as many as are asked for."""
        drawing, part, files = self.output.drawing, record.explained[k], dict[str, Path]()
        hues = colour_explanation_of(explanation, k, drawing.smooth) if drawing.style == "colour" else None
        for kind in (kind for kind in drawing.kinds if kind in STYLES):
            if path := self._target(self._free(loaded.item, kind, part, taken), loaded):
                picture = draw(kind, loaded.picture.rgb, explanation.maps[k], explanation.view, part, record,
                               drawing.alpha, hues)  # fmt: skip
                write_png(path, picture, {RECORD_KEY: core_json(record, part)})
                files[kind] = path
        return files

    def _write_layers(
        self, loaded: Loaded, explanation: Explanation, k: int, record: Record, taken: set[Path]
    ) -> dict[str, Path]:
        """The layers of class ``k`` as a sheet, and as an animation from the last layer down to the input."""
        part, files = record.explained[k], dict[str, Path]()
        if not part.layers:
            return files
        shares = [share.pixels.cpu().numpy() for share in explanation.layers[k]]
        for kind in (kind for kind in ("layers", "depth") if kind in self.output.drawing.kinds):
            if path := self._target(self._free(loaded.item, kind, part, taken), loaded):
                frames = draw_layers(kind, loaded.picture.rgb, shares, explanation.view, part, record)
                if kind == "layers":
                    write_png(path, frames[0], {RECORD_KEY: core_json(record, part)})
                else:
                    write_gif(path, frames, LAYER_SECONDS, core_json(record, part), TABLE[::4])
                files[kind] = path
        return files

    def _named(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Files as a record names them: below the output folder, with forward slashes."""
        return {kind: path.relative_to(self.output.naming.folder).as_posix() for kind, path in files.items()}

    def _free(self, item: Item, kind: str, part: Explained, taken: set[Path]) -> Path:
        """The path of a file about one class, added to those that are ``taken``."""
        name = part.name if part.versus is None else f"{part.name} vs {part.versus.name}"
        index = str(part.index) if part.versus is None else f"{part.index}-{part.versus.index}"
        path = self.output.naming.path(item, kind, name, index)
        if path in taken:  # names that differ in nothing that a file's name keeps: Cardigan and cardigan
            path = self.output.naming.path(item, kind, f"{name} {index}", index)
        if path in taken:
            raise MediaError(f"{path}: two classes would get this name; add {{index}} to --name")
        taken.add(path)
        return path

    def _target(self, path: Path, loaded: Loaded) -> Path | None:
        """Where a file is really written; None when one is there that stays."""
        policy = self.output.if_exists
        if policy == "rename":
            return free_neighbour(path)
        if policy == "skip" and path.exists():
            return None
        refuse_inputs(path, self.inputs)
        if policy == "overwrite" or not path.exists():
            return path
        # A run that was stopped leaves pictures without their record: those are replaced by the same again.
        stored = stored_record(path) if policy == "match" else None
        if stored is None or not self._matches(stored, loaded.picture):
            raise self._in_the_way(path)
        return path


def _settings_hash(request: Request, drawing: Drawing, net: Net) -> str:
    everything = {**asdict(request), **asdict(drawing), "network": described(net), "coda": versions()["coda"]}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
