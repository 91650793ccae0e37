"""What a checkpoint is, and the checkpoints coda knows by name. Imports neither torch nor numpy.

Own files are safetensors whose metadata holds a ``Checkpoint``; the bundled ones lie in ``weights/`` with an index of
their hashes. The authors' files are listed here with their links.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from coda_cli.checkpoints.descriptions import plain_data, plain_name, read_json, short_text
from coda_cli.checkpoints.headers import read_metadata
from coda_cli.checkpoints.packages import LITE, PACKAGED
from coda_cli.errors import CheckpointError, UsageError
from coda_cli.vocabulary import Interpolation

FORMAT = 1  # of the metadata; a file with a higher number was written by a newer coda
METADATA_KEY = "coda"
DEFAULT = "imagenet"
LIBRARIES = ("torchvision", "timm")  # that have classifiers: architectures, and words before ":" in --arch
OWN = "own"  # the architecture of what a user's function makes: no file can describe it
STANDARD = ("standard_vit", LITE, *LIBRARIES, OWN)  # ordinary networks, explained at a cut
MAX_SIDE = 4096  # pixels of what a network sees; published ones see at most 299
MAX_CLASSES = 100_000
SUMMED = ("coda_net", "hybrid")  # architectures whose logits grow with the area of their input


Name = Annotated[str, AfterValidator(plain_name)]
Data = Annotated[dict[str, Any], AfterValidator(plain_data)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE, strict=True)]


class Preprocessing(BaseModel):
    """From a picture to the network's input; a mean and a deviation are a step of the network itself.

    Attributes:
        resize: shorter side of the picture in pixels, first.
        crop: side in pixels of the centre square that the network sees.
        interpolation: how the picture is made larger or smaller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    resize: Side
    crop: Side
    interpolation: Interpolation = "bilinear"

    @model_serializer(mode="wrap")
    def _without_default(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the usual interpolation out: older versions do not know it, and hashes of settings stay the same."""
        fields: dict[str, Any] = whole(self)
        if self.interpolation == "bilinear":
            del fields["interpolation"]
        return fields


class Accuracy(BaseModel):
    """How often a network is right, as measured.

    Attributes:
        value: share in [0, 1] of the pictures whose highest logit is their label's.
        pictures: how many there were.
        split: which pictures, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float = Field(ge=0, le=1)
    pictures: int = Field(ge=0)
    split: Name


class Checkpoint(BaseModel):
    """Everything about a network except its weights.

    Attributes:
        format: of this description; see FORMAT.
        name: of the network.
        architecture: a builder of ``core.networks``.
        arguments: of the builder.
        classes: names of the classes, in the order of the logits.
        wnids: WordNet ids, one for each class.
        synonyms: further names, some for each class.
        preprocessing: how pictures become its input.
        accuracy: where it was measured.
        full_colour: the contribution of a pixel, in logit units, that is drawn in full colour in pictures of the size
            the network sees; None where nobody measured one.
        concepts: of ``core.concepts.insert``: behind which layer how many concepts stand, and how many of them are
            active; None for a network without concepts.
        training: data, recipe, seconds: where the weights come from.
        licence: under which terms the weights may be used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    name: Name
    architecture: Name
    arguments: Data
    classes: tuple[Name, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    wnids: tuple[Name, ...] | None = None
    synonyms: tuple[tuple[Name, ...], ...] | None = None
    preprocessing: Preprocessing
    accuracy: Accuracy | None = None
    full_colour: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    concepts: Data | None = None
    training: Data = {}
    licence: Annotated[str, AfterValidator(plain_data)] = ""

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

    @model_serializer(mode="wrap")
    def _without_none(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a full colour or concepts where there are none: older versions do not know these fields."""
        fields: dict[str, Any] = whole(self)
        for name in ("full_colour", "concepts"):
            if getattr(self, name) is None:
                fields.pop(name, None)
        return fields


class KnownCheckpoint(BaseModel):
    """A checkpoint that coda knows by name: bundled with the program, or published by the authors.

    Attributes:
        checkpoint: the network's description.
        path: where its file is, or will be once it is downloaded.
        url: where the authors published it; None for a bundled one, and where only ``page`` is known.
        page: the page from which a person can download it.
        sha256: hex digest that the file must have; None where nobody published one and no download has recorded one.
        sha256_prefix: its first digits, where the authors published those.
    """

    model_config = ConfigDict(frozen=True)
    checkpoint: Checkpoint
    path: Path
    url: str | None = None
    page: str | None = None
    sha256: str | None = None
    sha256_prefix: str = ""

    @property
    def bundled(self) -> bool:
        """Whether it comes with the program."""
        return self.url is None and self.page is None

    @property
    def here(self) -> bool:
        """Whether the file is on this machine, in a folder that can be read."""
        return os.path.exists(self.path)


def parse_checkpoint(text: str, where: str) -> Checkpoint:
    """Read a description from its JSON.

    Args:
        text: one JSON object.
        where: the file that it stands in, for messages.

    Returns:
        The description.

    Raises:
        CheckpointError: it is not valid, or was written by a newer coda.
    """
    try:
        raw = read_json(text)
        if isinstance(raw, dict) and type(found := raw.get("format", FORMAT)) is int and found > FORMAT:
            raise CheckpointError(f"written by a newer coda (format {min(found, 10**6)}); upgrade coda-cli", item=where)
        return Checkpoint.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        place = ascii(".".join(map(str, first["loc"])))[1:-1][:80] or "checkpoint"
        raise CheckpointError(f"its description is not valid ({place}: {said})", item=where) from error
    except ValueError as error:
        raise CheckpointError("its description is not valid JSON", item=where) from error


def family_of(checkpoint: Checkpoint) -> str:
    """Name the kind of network that a checkpoint is of.

    Args:
        checkpoint: the network's description.

    Returns:
        A word or two, such as "B-cos v2".
    """
    if checkpoint.architecture in STANDARD:
        return "standard"
    if checkpoint.architecture == "bias_free":
        return "bias-free ReLU"
    if checkpoint.architecture == "hybrid":
        return "hybrid CoDA"
    if not checkpoint.architecture.startswith("bcos"):
        return "CoDA"
    if checkpoint.architecture.startswith("bcosified"):
        return "B-cosified"
    version_1 = checkpoint.architecture == "bcos_chain" or "scale_factor" in checkpoint.arguments
    return "B-cos v1" if version_1 else "B-cos v2"


# ---- the checkpoints coda knows --------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Find the folder of downloaded checkpoints.

    Returns:
        ``CODA_CACHE_DIR``, or the platform's cache folder where that is not set.
    """
    return Path(os.environ.get("CODA_CACHE_DIR") or platformdirs.user_cache_dir("coda", appauthor=False))


def weights_folder() -> Path:
    """Find the folder of the bundled weights.

    Returns:
        A folder inside an installed package, beside it in a checkout of the sources.
    """
    package = Path(__file__).resolve().parent.parent
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


class _Known(Mapping[str, KnownCheckpoint]):
    """Checkpoints by name; those that the authors published are looked at one by one, when they are asked for."""

    def __init__(self) -> None:
        self._bundled = {entry.checkpoint.name: entry for entry in _bundled()}
        self._names = dict.fromkeys((*self._bundled, *_published_names()))

    def __getitem__(self, name: str) -> KnownCheckpoint:
        if name not in self._names:
            raise KeyError(name)
        return self._bundled[name] if name in self._bundled else _published(name)

    def __contains__(self, name: object) -> bool:  # the one of Mapping makes the entry
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def known() -> Mapping[str, KnownCheckpoint]:
    """List all checkpoints that have a name: the bundled ones, then those that the authors published.

    Returns:
        Checkpoints by name.

    Raises:
        CheckpointError: the bundled weights are missing or damaged.
    """
    return _Known()


def find(name: str) -> KnownCheckpoint:
    """Find a checkpoint by its name.

    Args:
        name: as in ``coda models list``.

    Returns:
        The checkpoint.

    Raises:
        UsageError: no checkpoint has the name; the message suggests similar ones.
    """
    entries = known()
    if name in entries:
        return entries[name]
    from coda_cli.checkpoints.published import PUBLISHED

    if name in PUBLISHED:
        raise UsageError(f"the authors published no weights of {name!r}; there are: {', '.join(entries)}")
    raise UsageError(f"no network is called {name!r}; {names_near(name)}")


def names_near(name: str) -> str:
    """Suggest what to write instead of a name that no network has, in a few words: there are dozens of networks.

    Args:
        name: that was asked for.

    Returns:
        The end of a message.
    """
    if name.partition(":")[0] in LIBRARIES:
        return f"--arch takes it, for a file of weights that you have: FILE --arch {name}"
    entries = known()
    folded = {known_name.casefold(): known_name for known_name in (*entries, *PACKAGED)}
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
        raise CheckpointError("the bundled weights are not there; install coda-cli again", item=folder) from error
    entries = []
    for file, sha256 in index.items():
        path = folder / file
        checkpoint = parse_checkpoint(read_metadata(path).get(METADATA_KEY, ""), str(path))
        entries.append(KnownCheckpoint(checkpoint=checkpoint, path=path, sha256=sha256))
    return tuple(entries)


def recorded_hash_file(path: Path) -> Path:
    """Find where the sha256 of a downloaded file is recorded: beside it.

    Args:
        path: of the downloaded file.

    Returns:
        The path of the record.
    """
    return path.with_name(path.name + ".sha256")


def _published_names() -> tuple[str, ...]:
    from coda_cli.checkpoints.published import FILES
    from coda_cli.checkpoints.published_bcos import BCOS

    return (*FILES, *BCOS)


def _published(name: str) -> KnownCheckpoint:
    from coda_cli.checkpoints.published import FILES
    from coda_cli.checkpoints.published_bcos import BCOS

    if name in FILES:
        file, url = FILES[name]
        return _entry(name, file, url=url)
    bcos = BCOS[name]
    return _entry(name, bcos.file, url=bcos.url, page=bcos.page, sha256_prefix=bcos.sha256_prefix)


def _entry(name: str, file: str, **published: str | None) -> KnownCheckpoint:
    from coda_cli.checkpoints.published_descriptions import published_checkpoint

    path = cache_folder() / name / file
    # A record that is damaged fits no file: loading that network says so, and other networks still work.
    recorded = short_text(recorded_hash_file(path))
    sha256 = None if recorded is None else recorded.strip()
    return KnownCheckpoint(checkpoint=published_checkpoint(name), path=path, sha256=sha256, **published)
