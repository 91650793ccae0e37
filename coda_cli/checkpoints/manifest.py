"""What a checkpoint is, and the checkpoints coda knows by name. Imports neither torch nor numpy.

Own files are safetensors whose metadata holds a ``Checkpoint``; the bundled ones lie in ``weights/`` with an index of
their hashes. The authors' files are listed here with their links.
"""

from __future__ import annotations

import difflib
import json
import math
import struct
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from coda_cli.errors import CheckpointError, UsageError

FORMAT = 1  # of the metadata; a file with a higher number was written by a newer coda
METADATA_KEY = "coda"
DEFAULT = "imagenette"
TORCHVISION = "torchvision:"  # before the name of a classifier of torchvision
STANDARD = ("standard_vit", "torchvision")  # architectures that are not dynamic linear
SUMMED = ("coda_net", "hybrid")  # architectures whose logits grow with the area of their input

PUBLISHED_LICENCE = (
    "weights published by the authors of CoDA-Nets (github.com/moboehle/CoDA-Nets) without a licence of their own; "
    "their repository allows non-commercial research, education and art only"
)
BCOS_LICENCES = {
    1: "weights published by the authors of B-cos networks (github.com/moboehle/B-cos) without a licence of their "
    "own; their repository allows non-commercial research, education and art only",
    2: "weights published with github.com/B-cos/B-cos-v2 under the Apache 2.0 licence; its authors add that they "
    "derive from ImageNet, whose terms are non-commercial",
}


class Preprocessing(BaseModel):
    """From a picture to the network's input: shorter side to ``resize`` pixels, centre ``crop``, no mean or std."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    resize: int = Field(ge=1)
    crop: int = Field(ge=1)


class Accuracy(BaseModel):
    """Share ``value`` in [0, 1] of the ``pictures`` of ``split`` whose highest logit is their label's, as measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float
    pictures: int
    split: str


class Checkpoint(BaseModel):
    """Everything about a network except its weights. ``architecture`` and ``arguments`` are those of core.networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    name: str
    architecture: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]
    wnids: tuple[str, ...] | None = None  # WordNet ids, one for each class
    synonyms: tuple[tuple[str, ...], ...] | None = None  # further names, a list for each class
    preprocessing: Preprocessing
    accuracy: Accuracy | None = None
    training: dict[str, Any] = {}  # data, recipe, seconds: where the weights come from
    licence: str = ""

    @model_validator(mode="after")
    def _one_entry_per_class(self) -> Checkpoint:
        for field in ("wnids", "synonyms"):
            entries = getattr(self, field)
            if entries is not None and len(entries) != len(self.classes):
                raise ValueError(f"{len(entries)} {field} for {len(self.classes)} classes")
        channels = self.arguments.get("channels")
        outputs = self.arguments.get(
            "classes", channels[-1] if isinstance(channels, list | tuple) and channels else None
        )
        if isinstance(outputs, int) and outputs != len(self.classes):
            raise ValueError(f"described with {len(self.classes)} classes and {outputs} outputs")
        return self


class KnownCheckpoint(BaseModel):
    """A checkpoint coda knows by name: bundled with the program (``url`` None), or published under a link."""

    model_config = ConfigDict(frozen=True)
    checkpoint: Checkpoint
    path: Path  # where its file is, or will be once pulled
    url: str | None = None
    sha256: str | None = None  # None: nobody published one, and no pull has recorded one
    sha256_prefix: str = ""  # its first digits, where the authors published those

    @property
    def here(self) -> bool:
        """Whether the file is on this machine."""
        return self.path.exists()


def parse_checkpoint(text: str, where: str) -> Checkpoint:
    """A Checkpoint from its JSON; raises CheckpointError naming ``where`` it stood."""
    try:
        raw = json.loads(text)
        if isinstance(raw, dict) and raw.get("format", FORMAT) > FORMAT:
            raise CheckpointError(f"{where}: written by a newer coda (format {raw['format']}); upgrade coda-cli")
        return Checkpoint.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "checkpoint"
        raise CheckpointError(f"{where}: its description is not valid ({place}: {first['msg']})") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: its description is not valid JSON") from error


def family_of(checkpoint: Checkpoint) -> str:
    """What kind of network a checkpoint is of, in words."""
    if checkpoint.architecture in STANDARD:
        return "standard"
    if checkpoint.architecture == "hybrid":
        return "hybrid CoDA"
    if not checkpoint.architecture.startswith("bcos"):
        return "CoDA"
    version_1 = checkpoint.architecture == "bcos_chain" or "scale_factor" in checkpoint.arguments
    return "B-cos v1" if version_1 else "B-cos v2"


def count_parameters(path: Path) -> int:
    """How many numbers the tensors of a safetensors file hold, running statistics left out. Raises CheckpointError."""
    shapes = {key: entry["shape"] for key, entry in _header(path).items() if key != "__metadata__"}
    return sum(math.prod(shape) for key, shape in shapes.items() if not key.endswith(_STATISTICS))


_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors. Raises CheckpointError."""
    return dict(_header(path).get("__metadata__") or {})


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > 100_000_000:  # the format's own limit
                raise ValueError("header too long")
            header = json.loads(stream.read(length))
            if not isinstance(header, dict):
                raise ValueError("no header")
            return header
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: not a safetensors file") from error


# ---- the checkpoints coda knows --------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where pulled checkpoints lie: ``CODA_CACHE_DIR``, else the platform's cache folder."""
    import os

    return Path(os.environ.get("CODA_CACHE_DIR") or platformdirs.user_cache_dir("coda", appauthor=False))


def weights_folder() -> Path:
    """The bundled weights: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


def known() -> dict[str, KnownCheckpoint]:
    """All checkpoints with a name: the bundled ones, then the authors' published ones."""
    entries = {entry.checkpoint.name: entry for entry in _bundled()}
    for entry in _published():
        if entry.checkpoint.name in entries:
            raise CheckpointError(f"two checkpoints are called {entry.checkpoint.name!r}")
        entries[entry.checkpoint.name] = entry
    return entries


def find(name: str) -> KnownCheckpoint:
    """The checkpoint called ``name``; raises UsageError that suggests the nearest names."""
    entries = known()
    if name in entries:
        return entries[name]
    from coda_cli.checkpoints.published import PUBLISHED

    if name in PUBLISHED:
        raise UsageError(f"the authors published no weights of {name!r}; there are: {', '.join(entries)}")
    raise UsageError(f"no network is called {name!r}; {names_near(name)}")


def names_near(name: str) -> str:
    """What to try in the place of a name that no network has, in a few words: there are dozens."""
    entries = known()
    folded = {known_name.casefold(): known_name for known_name in entries}
    if close := difflib.get_close_matches(name.casefold(), folded, n=3):
        return f"did you mean {' or '.join(repr(folded[c]) for c in close)}?"
    here = ", ".join(known_name for known_name, entry in entries.items() if entry.here)
    return f"here are {here}; coda models list shows all {len(entries)}"


@cache
def _bundled() -> tuple[KnownCheckpoint, ...]:
    folder = weights_folder()
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: the bundled weights are not there; install coda-cli again") from error
    entries = []
    for file, sha256 in index.items():
        path = folder / file
        checkpoint = parse_checkpoint(read_metadata(path).get(METADATA_KEY, ""), str(path))
        entries.append(KnownCheckpoint(checkpoint=checkpoint, path=path, sha256=sha256))
    return tuple(entries)


_RELEASE = "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights/{}"
_NEXTCLOUD = "https://nextcloud.mpi-klsb.mpg.de/index.php/s/{}/download"
# Link code and epoch of every file the authors published (CoDA-Nets, interpretability/utils.py:32-45). Without hashes.
_LINKS = {
    "9L-L-CoDA-SQ-100000": ("pArrgmncXAAiH5R", 60),
    "9L-S-CoDA-SQ-10": ("H8FgwMHJTTTYDJw", 200),
    "9L-S-CoDA-SQ-50": ("SqPBioqmxEWbH9g", 200),
    "9L-S-CoDA-SQ-100": ("yk7LajwLwpXXzf5", 200),
    "9L-S-CoDA-SQ-500": ("zfeYMASLtKNGgsQ", 200),
    "9L-S-CoDA-SQ-1000": ("8ykMc8XLQMtCxHo", 200),
    "9L-S-CoDA-SQ-5000": ("6iY992FYEsfHkeA", 200),
}


def recorded_hash_file(path: Path) -> Path:
    """Where the sha256 of a pulled file is recorded: beside it."""
    return path.with_name(path.name + ".sha256")


def _published() -> list[KnownCheckpoint]:
    from coda_cli.checkpoints.published_bcos import BCOS

    files = [(name, _NEXTCLOUD.format(code), f"model_epoch_{epoch}.pkl", "") for name, (code, epoch) in _LINKS.items()]
    for name, entry in BCOS.items():
        if entry.version == 1:
            files.append((name, _NEXTCLOUD.format(entry.link), "state_dict.pkl", ""))
        else:
            files.append((name, _RELEASE.format(entry.link), entry.link, entry.sha256_prefix))
    return [_entry(*file) for file in files]


def _entry(name: str, url: str, file: str, sha256_prefix: str) -> KnownCheckpoint:
    path = cache_folder() / name / file
    record = recorded_hash_file(path)
    # What is no hash belongs to no file: loading it says so, other networks do not mind.
    recorded = record.read_text(encoding="ascii", errors="replace").strip() if record.exists() else None
    checkpoint = published_checkpoint(name)
    return KnownCheckpoint(checkpoint=checkpoint, path=path, url=url, sha256=recorded, sha256_prefix=sha256_prefix)


@cache  # commands ask for ``known`` several times
def published_checkpoint(name: str) -> Checkpoint:
    """The description of a published configuration, which its state dict cannot tell. Raises KeyError."""
    from coda_cli.checkpoints.published import PUBLISHED
    from coda_cli.checkpoints.published_bcos import BCOS

    architecture, arguments, licence, accuracy, resize, crop = "", dict[str, Any](), "", None, 256, 224
    if name.startswith(TORCHVISION):
        architecture, arguments = "torchvision", {"name": name.removeprefix(TORCHVISION), "classes": 1000}
    elif name in BCOS:
        bcos = BCOS[name]
        architecture, arguments, resize, crop = bcos.architecture, bcos.arguments, bcos.resize, bcos.crop
        licence = BCOS_LICENCES[bcos.version]
        accuracy = None
        if bcos.top1:
            accuracy = Accuracy(value=bcos.top1, pictures=50_000, split="ImageNet validation, as published")
    else:
        architecture, arguments, licence, accuracy = "coda_net", PUBLISHED[name], PUBLISHED_LICENCE, None
        resize, crop = (256, 240) if arguments["channels"][-1] == 100 else (32, 32)
    count = arguments["classes"] if "classes" in arguments else arguments["channels"][-1]
    large = count > 10
    classes = _class_data()["imagenet"][:count] if large else _class_data()["cifar10"]
    data = {10: "CIFAR-10", 100: "ImageNet, its first 100 classes", 1000: "ImageNet"}[count]
    return Checkpoint(
        name=name,
        architecture=architecture,
        arguments=arguments,
        classes=tuple(entry["name"] for entry in classes),
        wnids=tuple(entry["wnid"] for entry in classes) if large else None,
        synonyms=tuple(tuple(entry["synonyms"]) for entry in classes) if large else None,
        preprocessing=Preprocessing(resize=resize, crop=crop),
        accuracy=accuracy,
        training={"data": data},
        licence=licence,
    )


def name_of_wnid(text: str) -> str:
    """The class name of an ImageNet class's WordNet id that coda knows; any other text unchanged."""
    return next((entry["name"] for entry in _imagenet_classes() if entry["wnid"] == text), text)


def wnids_and_synonyms(
    classes: tuple[str, ...],
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]] | tuple[None, None]:
    """WordNet ids and synonyms for class names, if every one of them is that of an ImageNet class coda knows."""
    entries = {entry["name"]: entry for entry in _imagenet_classes()}
    if not set(classes) <= set(entries):
        return None, None
    found = [entries[name] for name in classes]
    return tuple(e["wnid"] for e in found), tuple(tuple(e["synonyms"]) for e in found)


def _imagenet_classes() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = _class_data()["imagenet"]
    return entries


@cache
def _class_data() -> dict[str, Any]:
    """Class names by data set. ImageNet's come with WordNet ids and the synonyms of their synsets (WordNet 3.0)."""
    data: dict[str, Any] = json.loads(Path(__file__).with_name("classes.json").read_text(encoding="utf-8"))
    return data
