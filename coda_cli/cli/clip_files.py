"""Which files ``coda video`` writes about each clip, decided before any work; the command itself is in ``video``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coda_cli.errors import UsageError

if TYPE_CHECKING:
    from coda_cli.explanation.clip.drawing import ClipDrawing
    from coda_cli.explanation.clip.files import ClipOutputs
    from coda_cli.explanation.clip.run import ClipExplanation
    from coda_cli.video.reading import Kind


def plans(
    sources: list[str], output: Path, formats: str | None, audio: bool, force: bool, *, dry: bool = False
) -> list[tuple[str | int, ClipOutputs]]:
    """What is written about each source; everything that can be wrong with it is found before any work starts.

    Files about a clip that coda wrote into a folder are looked at in ``settle``, when the network is known. Where it is
    ``dry`` no folder is made.
    """
    from coda_cli.explanation.clip.files import ClipOutputs, stored_clip
    from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy, sweep
    from coda_cli.explanation.naming import one_file
    from coda_cli.media.files import prepare

    kinds, single = _kinds_of_clips(sources, output, formats)
    planned: list[tuple[str | int, ClipOutputs]] = []
    taken: dict[str, str] = {}
    policy = FilePolicy("overwrite" if force else "error", map(Path, sources), advice=FORCE_REPLACES, error=UsageError)
    for text in sources:
        source = _source(text)
        clips, record = _paths_of(source, output, kinds, single)
        for path in (*clips.values(), record):
            if (key := one_file(path)) in taken:
                raise UsageError(f"{text} and {taken[key]} would both be written to {path}; explain them in two runs")
            taken[key] = text
            if single or force or not stored_clip(record):
                policy.place(path)
        planned.append((source, ClipOutputs(clips, record, audio, replace=force)))
    folder = output.parent if single else output
    prepare(folder, dry=dry)
    if not dry:
        sweep(folder)
    return planned


def settle(clip: ClipExplanation, drawing: ClipDrawing, outputs: ClipOutputs) -> ClipOutputs:
    """Choose names beside the results of other settings that are there. Raises UsageError where these are there."""
    from coda_cli.checkpoints.loading import file_sha256
    from coda_cli.explanation.clip.files import beside, stored_clip
    from coda_cli.explanation.files import FORCE_REPLACES, FilePolicy

    assert outputs.record
    if outputs.replace or not (stored := stored_clip(outputs.record)):
        return outputs
    source = Path(str(clip.source))
    sha256 = file_sha256(source) if source.is_file() else None
    outputs = beside(outputs, stored, sha256, clip.net, clip.settings(drawing))
    policy = FilePolicy("error", [source], advice=FORCE_REPLACES, error=UsageError)
    for path in (*outputs.clips.values(), outputs.record):
        assert path
        policy.place(path)
    return outputs


def _kinds_of_clips(sources: list[str], output: Path, formats: str | None) -> tuple[list[Kind], bool]:
    """The kinds of clips that --output and --format ask for, and whether --output is one file. Raises UsageError."""
    from coda_cli.video.reading import KINDS

    asked = [k.strip() for k in (formats or "mp4").split(",") if k.strip() and k.strip() != "none"]
    if unknown := [k for k in asked if k not in KINDS]:
        raise UsageError(f"--format {unknown[0]}: choose from {', '.join(KINDS)}, or none")
    kinds = [k for k in KINDS if k in asked]
    suffix = output.suffix.lower().lstrip(".") if not output.is_dir() else ""
    if suffix and suffix not in KINDS:
        raise UsageError(f"--output {output}: clips are written as .mp4, .webm, .gif or .webp, or into a folder")
    if suffix and formats is not None:
        raise UsageError(f"--output {output}: is one file, whose name says its format; --format is for a folder")
    if suffix and len(sources) > 1:
        raise UsageError(f"--output {output}: is one file for {len(sources)} clips; name a folder")
    return kinds, bool(suffix)


def _paths_of(source: str | int, output: Path, kinds: Sequence[Kind], single: bool) -> tuple[dict[Kind, Path], Path]:
    """The paths of the clips about one source, by kind, and of its records."""
    from coda_cli.media.files import shown_name
    from coda_cli.video.reading import kind_of

    if single:
        return {kind_of(output): output}, output.with_suffix(".coda.jsonl")
    stem = f"camera-{source}" if isinstance(source, int) else shown_name(Path(source).absolute().stem).replace("%", "")
    clips = {kind: output / (f"{stem}.coda" + ("" if kind == "png" else f".{kind}")) for kind in kinds}
    return clips, output / f"{stem}.coda.jsonl"


def _source(text: str) -> str | int:
    """The path, or the number of the camera, that a source names. Raises UsageError."""
    from coda_cli.media.addresses import is_address, refuse_missing

    number = text.removeprefix("camera:")
    if number != text:
        if not number.isdecimal():
            raise UsageError("a camera is named by its number, as in camera:0", item=text)
        return int(number)
    if "%" not in text or is_address(text):
        refuse_missing(text, "clips")
    return text
