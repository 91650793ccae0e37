"""Make what ``coda models list`` and ``show`` print about networks. torch is not imported."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coda_cli.checkpoints import hub, manifest
from coda_cli.checkpoints.folders import trained_in
from coda_cli.checkpoints.headers import count_parameters, read_metadata
from coda_cli.checkpoints.manifest import KnownCheckpoint
from coda_cli.errors import CheckpointError, UsageError


def entry_of(name: str) -> KnownCheckpoint:
    """Find a network by its name, or make an entry for a file from the description inside it.

    Args:
        name: of a network, or the path of a file or of the folder of a run.

    Returns:
        The entry.

    Raises:
        UsageError: no network has the name, and it is no file with a description.
        CheckpointError: the file is damaged, or coda did not write it.
    """
    path = Path(hub.pulled(name).path if name.startswith(hub.PREFIX) else name)
    if name in manifest.known() or not path.exists():
        return manifest.find(name)
    path = trained_in(path)
    if path.suffix != ".safetensors":
        raise UsageError(
            f"a file of bare weights holds no description; coda models convert {name} adds it, --arch says what it is",
            item=name,
        )
    metadata = read_metadata(path)
    if manifest.METADATA_KEY not in metadata:
        raise CheckpointError(
            "a safetensors file without coda's description; coda did not write it; --arch says what it is", item=name
        )
    return KnownCheckpoint(checkpoint=manifest.parse_checkpoint(metadata[manifest.METADATA_KEY], name), path=path)


def summary(entry: KnownCheckpoint) -> dict[str, Any]:
    """Make one object of ``coda models list --json``.

    Args:
        entry: the network.

    Returns:
        Its fields.
    """
    checkpoint = entry.checkpoint
    return {
        "name": checkpoint.name,
        "default": checkpoint.name == manifest.DEFAULT,
        "where": _where(entry),
        "architecture": checkpoint.architecture,
        "parameters": _parameters(entry),
        "family": manifest.family_of(checkpoint),
        "class_count": len(checkpoint.classes),
        "preprocessing": checkpoint.preprocessing.model_dump(),
        "accuracy": checkpoint.accuracy.model_dump() if checkpoint.accuracy else None,
        "full_colour": checkpoint.full_colour,
        "sha256": entry.sha256,
    }


def details(entry: KnownCheckpoint, parameters: int | None = None) -> dict[str, Any]:
    """Make the object of ``coda models show --json``.

    Args:
        entry: the network.
        parameters: how many it has, where neither its description nor the header of its file tells.

    Returns:
        The fields of ``summary`` and more.
    """
    checkpoint, n = entry.checkpoint, len(entry.checkpoint.classes)
    classes = zip(checkpoint.classes, checkpoint.wnids or [None] * n, checkpoint.synonyms or [()] * n, strict=True)
    return {
        **summary(entry),
        "parameters": _parameters(entry) or parameters,
        "arguments": checkpoint.arguments,
        "temperature": checkpoint.arguments.get("temperature"),
        "bias": checkpoint.arguments.get("bias"),
        **({"concepts": checkpoint.concepts} if checkpoint.concepts else {}),
        "training": checkpoint.training,
        "licence": checkpoint.licence,
        "link": entry.url or entry.page,
        "file": entry.path.as_posix(),
        "classes": [
            {"index": i, "name": name, "wnid": wnid, "synonyms": list(synonyms)}
            for i, (name, wnid, synonyms) in enumerate(classes)
        ],
    }


def _where(entry: KnownCheckpoint) -> str:
    """Whether the file is bundled with coda, on this machine (here), or not here."""
    if entry.bundled and entry.path.parent == manifest.weights_folder():
        return "bundled"
    return "here" if entry.here else "not here"


def _parameters(entry: KnownCheckpoint) -> int | None:
    """How many parameters a network has, by its table or the header of its file (torch is not imported)."""
    from coda_cli.checkpoints.published import BIAS_FREE
    from coda_cli.checkpoints.published_bcos import BCOS

    a, name = entry.checkpoint.arguments, entry.checkpoint.name
    if entry.path.suffix == ".safetensors" and entry.path.exists():
        return count_parameters(entry.path)
    if name in BCOS:
        return BCOS[name].parameters
    if name in BIAS_FREE:
        return BIAS_FREE[name][1]
    if "kernels" not in a:
        return None
    groups = a.get("groups") or [1] * len(a["kernels"])
    layers = zip(a["channels"][:-1], a["channels"][1:], a["kernels"], a["ranks"], groups, strict=True)
    return sum(int(C * k * k * (rank + O * rank // g + O)) for C, O, k, rank, g in layers)


def _row(entry: KnownCheckpoint) -> list[str]:
    """Make the cells of one network, one for each of COLUMNS."""
    checkpoint, accuracy = entry.checkpoint, entry.checkpoint.accuracy
    crop = checkpoint.preprocessing.crop
    return [
        checkpoint.name + (" (default)" if checkpoint.name == manifest.DEFAULT else ""),
        manifest.family_of(checkpoint),
        f"{(_parameters(entry) or 0) / 1e6:.1f} M",
        str(len(checkpoint.classes)),
        f"{crop} x {crop}",
        f"{accuracy.value:.2%}" if accuracy else "–",
        _where(entry),
    ]


COLUMNS = ("NAME", "FAMILY", "PARAMETERS", "CLASSES", "INPUT", "ACCURACY", "WHERE")
LEAST = ("PARAMETERS", "CLASSES", "INPUT", "FAMILY", "ACCURACY")  # left out in this order where a screen is narrow


def table(entries: Iterable[KnownCheckpoint], width: int | None = None) -> list[str]:
    """Make the table of ``coda models list``: lines without colour and frame, so that they can be piped into anything.

    Args:
        entries: the networks.
        width: of the screen in characters. Columns that it has no room for are left out, in the order of LEAST. None
            has room for all.

    Returns:
        A heading, and a line for each network.
    """
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    rows += [dict(zip(COLUMNS, _row(entry), strict=True)) for entry in entries]
    widths = {column: max(len(row[column]) for row in rows) for column in COLUMNS}
    for column in LEAST:
        if width is not None and sum(widths.values()) + 2 * (len(widths) - 1) > width:
            del widths[column]
    right = ("PARAMETERS", "CLASSES")
    cells = ([row[c].rjust(n) if c in right else row[c].ljust(n) for c, n in widths.items()] for row in rows)
    return ["  ".join(row).rstrip() for row in cells]


def _seen(d: dict[str, Any]) -> str:
    """Say what a network makes of the colours of its pictures, and how these are resized where that is unusual."""
    resized = f"{d['preprocessing']['interpolation']}; " if "interpolation" in d["preprocessing"] else ""
    if d["family"] not in ("standard", "hybrid CoDA", "bias-free ReLU", "B-cosified"):
        return f"{resized}no mean or std; channels r g b 1-r 1-g 1-b"
    less = f"{'CLIP' if d['architecture'] == 'bcosified_clip' else 'ImageNet'}'s mean and deviation"
    if "mean" in d["arguments"]:
        numbers = (" ".join(f"{v:g}" for v in d["arguments"][key]) for key in ("mean", "deviation"))
        less = "less mean {}, by deviation {}".format(*numbers)
    if d["family"] == "B-cosified":
        return f"{resized}{less}, as the network's first step; channels r g b 1-r 1-g 1-b"
    return f"{resized}{less}, r g b"


def lines(d: dict[str, Any]) -> list[str]:
    """Make the lines of ``coda models show``.

    Args:
        d: what ``details`` gives.

    Returns:
        A line for each fact, then one for each class.
    """
    view, accuracy = d["preprocessing"], d["accuracy"]
    measured = "not measured"
    if accuracy:
        measured = f"{accuracy['value']:.2%} of {accuracy['pictures']} pictures of {accuracy['split']}"
    unknown = "none published; recorded at the first pull" if d["link"] else "none recorded"
    facts = {
        "name": d["name"] + (" (the default)" if d["default"] else ""),
        "where": f"{d['where']}: {d['file']}",
        "family": d["family"],
        "architecture": d["architecture"],
        "arguments": ", ".join(f"{key} {value}" for key, value in d["arguments"].items()),
        "parameters": d["parameters"],
        "temperature": d["temperature"],
        "bias": d["bias"],
        "preprocessing": f"shorter side to {view['resize']}, centre {view['crop']} x {view['crop']}; {_seen(d)}",
        "accuracy": measured,
        "concepts": ", ".join(f"{key} {value}" for key, value in d.get("concepts", {}).items()) or None,
        "full colour": f"{colour:.3g} logit a pixel" if (colour := d["full_colour"]) else "none stated",
        "training": ", ".join(f"{key}: {_plain(value)}" for key, value in d["training"].items()) or "unknown",
        "licence": d["licence"] or "none stated",
        "link": d["link"] or "none",
        "sha256": d["sha256"] or unknown,
        "classes": d["class_count"],
    }
    result = [f"{key + ':':<15} {value}" for key, value in facts.items() if value is not None]
    for c in d["classes"]:
        names = ", ".join([c["name"], *c["synonyms"]])
        result.append(f"{c['index']:>5}  {c['wnid'] + '  ' if c['wnid'] else ''}{names}")
    return result


def _plain(value: object) -> str:
    """What a description says of a training, without the signs of Python; what is empty is left out."""
    if not isinstance(value, dict):
        return str(value)
    return "(" + ", ".join(f"{key} {given}" for key, given in value.items() if given not in (None, [])) + ")"


def card(entry: KnownCheckpoint, place: str) -> str:
    """Write the card of a network for a repository of others: its own where coda has one, else what is known of it.

    Args:
        entry: the network.
        place: its address there, as ``coda models pull`` takes it.

    Returns:
        Markdown, with the hub's fields before it. Names of classes and the like are text in it, whatever is in them.
    """
    name = entry.checkpoint.name
    fields = (
        "---\nlibrary_name: coda-cli\npipeline_tag: image-classification\ntags: [explainable-ai, attribution]\n---\n\n"
    )
    own = manifest.weights_folder() / f"{name}.md"
    if entry.bundled and own.is_file():
        return fields + own.read_text(encoding="utf-8")
    facts = [line.split(":", 1) for line in lines(details(entry)) if not line.startswith(" ")]
    left_out = ("name", "where", "link", "sha256")
    rows = [f"| {key} | {_markdown(value.strip())} |" for key, value in facts if key not in left_out]
    classes = ", ".join(entry.checkpoint.classes[:100]) + (", ..." if len(entry.checkpoint.classes) > 100 else "")
    table = "\n".join(["| | |", "|---|---|", *rows])
    use = (
        f"```sh\npip install 'coda-cli[hub]'\ncoda models pull {shlex.quote(place)}\n"
        f"coda explain photo.jpg -m {shlex.quote(place)}\n```"
    )
    what = "An image classifier whose logits coda splits into contributions of pixels."
    return f"{fields}# {_markdown(name)}\n\n{what}\n\n{use}\n\n{table}\n\nClasses: {_markdown(classes)}\n"


def _markdown(text: str) -> str:
    """A text in one line of Markdown, in which nothing is a mark of it or of HTML."""
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", " ".join(text.split()))
