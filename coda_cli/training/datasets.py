"""Labelled pictures for training, whole in memory: uint8, already at the size the network sees."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from coda_cli.checkpoints.class_names import name_of_wnid
from coda_cli.checkpoints.labels import class_of_folder
from coda_cli.checkpoints.manifest import Checkpoint
from coda_cli.errors import TrainingError, UsageError
from coda_cli.media.stills import SUFFIXES, reading
from coda_cli.media.view import fit
from coda_cli.vocabulary import Interpolation

Progress = Callable[[int, int], None]
HELD_OUT_FOLDERS = ("test", "val", "validation")
EVERY = 10  # every tenth picture is held out, class by class, where a data set has no folder of its own for that
MOST_ANY = 1000  # held-out pictures where labels are not asked for
LOOKED_AT = 15  # pictures whose size is looked at before a recipe is chosen


@dataclass(frozen=True)
class Split:
    """Labelled pictures.

    Attributes:
        images: uint8 [N, 3, s, s], sRGB.
        labels: int64 [N], indices into ``classes``.
        classes: names of the classes.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def sha256(self) -> str:
        """Hash all pictures and labels.

        Returns:
            64 hex digits.
        """
        whole = hashlib.sha256()
        for tensor in (self.images, self.labels):
            whole.update(tensor.cpu().contiguous().numpy().data)
        return whole.hexdigest()

    def to(self, device: torch.device) -> Split:
        """Copy the tensors to a device.

        Args:
            device: the device.

        Returns:
            The same split there.
        """
        return Split(self.images.to(device), self.labels.to(device), self.classes)


def load(
    root: Path, size: int, progress: Progress | None = None, *, kept_size: int | None = None
) -> tuple[Split, Split]:
    """Read a data set for training.

    Three layouts are understood: torchvision's CIFAR-10 (a folder ``cifar-10-batches-py``), ``train/CLASS/...`` beside
    ``test/CLASS/...`` (or ``val``, ``validation``), and ``CLASS/...`` alone, of which every tenth picture (in the
    order of names) is held out.

    Args:
        root: folder of the data set.
        size: side in pixels of held-out pictures, and of all unless ``kept_size`` is given.
        progress: is called with the number of pictures read and of all.
        kept_size: side in pixels of training pictures.

    Returns:
        Training split and held-out split.

    Raises:
        UsageError: the folder has none of the layouts.
        TrainingError: CIFAR-10 is damaged, or ``size`` is not its own.
        MediaError: a picture cannot be read.
    """
    if (root / "cifar-10-batches-py").is_dir():
        return _torchvision_cifar(root, size, train=True), _torchvision_cifar(root, size, train=False)
    return _both(*_listings(root), size, kept_size or size, progress)


def load_any(
    root: Path, classes: tuple[str, ...], size: int, progress: Progress | None = None, *, kept_size: int | None = None
) -> tuple[Split, Split]:
    """Read pictures whose labels are not asked for, wherever they lie below a folder.

    Args:
        root: the folder.
        classes: that both splits get; all labels are 0.
        size: side in pixels of held-out pictures, and of all unless ``kept_size`` is given.
        progress: is called with the number of pictures read and of all.
        kept_size: side in pixels of training pictures.

    Returns:
        Training split and held-out split: every tenth picture, or fewer, evenly, where that were more than MOST_ANY.

    Raises:
        UsageError: the folder has too few pictures.
        MediaError: a picture cannot be read.
    """
    training, held_out = _any_listings(root)
    return _both(classes, training, held_out, size, kept_size or size, progress)


@dataclass(frozen=True)
class Counted:
    """What a folder has, before its pictures are read.

    Attributes:
        classes: 0 where labels are not asked for.
        pictures: for training.
        side: the median of the shorter sides of a few of them, in pixels.
    """

    classes: int
    pictures: int
    side: int


def count(root: Path, *, labelled: bool = True) -> Counted:
    """Count what ``load`` or ``load_any`` would read.

    Args:
        root: the folder.
        labelled: for ``load``.

    Returns:
        The count.

    Raises:
        UsageError: the folder has none of the layouts.
        MediaError: a picture cannot be read.
    """
    if labelled and (root / "cifar-10-batches-py").is_dir():
        return Counted(10, 50_000, 32)
    classes, training, _ = _listings(root) if labelled else ((), *_any_listings(root))
    sides = []
    for path, _ in training[:: max(1, len(training) // LOOKED_AT)]:
        with reading(path) as picture:
            sides.append(min(picture.rgb.shape[:2]))
    return Counted(len(classes), len(training), sorted(sides)[len(sides) // 2])


def _both(
    classes: tuple[str, ...],
    training: list[tuple[Path, int]],
    held_out: list[tuple[Path, int]],
    size: int,
    kept_size: int,
    progress: Progress | None,
) -> tuple[Split, Split]:
    """Both splits, read."""
    total = len(training) + len(held_out)
    kept = _decode(training, classes, kept_size, kept_size, _shifted(progress, 0, total))
    return kept, _decode(held_out, classes, size, size, _shifted(progress, len(training), total))


def _any_listings(root: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """The files of the training and of the held-out split, all with label 0. Raises UsageError."""
    if not root.is_dir():
        raise UsageError("no such folder", item=root)
    found = [(p, 0) for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES and not _hidden(p, root)]
    if len(found) < 2:
        raise UsageError(
            f"holds {len(found)} picture{'' if len(found) == 1 else 's'}; expected at least two", item=root
        )
    every = max(EVERY, len(found) // MOST_ANY)
    return [x for i, x in enumerate(found) if i % every], found[::every]


def _hidden(path: Path, folder: Path) -> bool:
    """Whether a file, or a folder that it lies in, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def load_held_out(
    root: Path,
    checkpoint: Checkpoint,
    progress: Progress | None = None,
    *,
    parts: int = 1,
    everything: bool = False,
) -> tuple[Split, str]:
    """Read the pictures that a network is measured on, as the network sees them.

    They are those of the second split of ``load``; training pictures need not be there. There may be folders for only
    some of the network's classes.

    Args:
        root: folder of the data set.
        checkpoint: the network's description: its classes and its preprocessing.
        progress: is called with the number of pictures read and of all.
        parts: what both lengths of the preprocessing are divided by, rounded down: from 256 and 224 pixels, 3 makes 85
            and 74.
        everything: whether all pictures are taken where none are set aside; every tenth otherwise.

    Returns:
        The pictures, with labels that are indices into all of the network's classes, and a note for the user where they
        are not all that the folder has ("" where they are).

    Raises:
        UsageError: the network lacks a class of the data set, or the folder has none of the layouts of ``load``.
        TrainingError: CIFAR-10 is damaged, or the network takes pictures of another size.
        MediaError: a picture cannot be read.
    """
    p, note = checkpoint.preprocessing, ""
    resize, crop = max(1, p.resize // parts), max(1, p.crop // parts)
    if (root / "cifar-10-batches-py").is_dir():
        split = _torchvision_cifar(root, p.crop, train=False)
        indices = _indices(root, split.classes, checkpoint)
        if parts > 1:
            split = _shrunk(split, resize, crop, p.interpolation)
        return Split(split.images, torch.tensor(indices)[split.labels], checkpoint.classes), note
    if not root.is_dir():
        raise UsageError("no such folder", item=root)
    folder = _held_out_folder(root)
    names = tuple(_class_folders(folder or root))
    indices = _indices(folder or root, names, checkpoint)
    listing = _listing(folder or root, names)
    if folder is None and not everything:
        listing, total = listing[::EVERY], len(listing)
        note = (
            f"{root}: {len(listing)} of {total} pictures, every tenth, as coda train holds them out; --all takes all, "
            "for networks that were trained on none of them"
        )
    if not listing:
        raise UsageError(f"{folder or root}: no pictures in its folders")
    items = [(path, indices[label]) for path, label in listing]
    return _decode(items, checkpoint.classes, resize, crop, _shifted(progress, 0, len(items)), p.interpolation), note


def _indices(root: Path, names: tuple[str, ...], checkpoint: Checkpoint) -> list[int]:
    """Which of the network's classes the folders ``names`` are. Raises UsageError."""
    known = {name: i for i, name in enumerate(checkpoint.classes)}
    known |= {n: i for n in names if n not in known and (i := class_of_folder(n, checkpoint)) is not None}
    if unknown := [name for name in names if name not in known]:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UsageError(
            f"{', '.join(unknown[:3])}{more}: no class of {checkpoint.name}; coda models show "
            f"{checkpoint.name} --json lists them",
            item=root,
        )
    return [known[name] for name in names]


def _held_out_folder(root: Path) -> Path | None:
    """The folder of held-out pictures, or None where ``root`` has a folder per class. Raises UsageError."""
    found = next((root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()), None)
    if found is None and (root / "train").is_dir():
        raise UsageError(f"has train/ but none of {', '.join(f'{n}/' for n in HELD_OUT_FOLDERS)} beside it", item=root)
    return found


def _listings(root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Class names, and the files of the training and of the held-out split with their labels."""
    if not root.is_dir():
        raise UsageError("no such folder", item=root)
    if (root / "train").is_dir() and (held_out := _held_out_folder(root)):
        classes = tuple(_class_folders(root / "train"))
        if extra := set(_class_folders(held_out)) - set(classes):
            raise UsageError(f"has classes that train/ lacks: {', '.join(sorted(extra))}", item=held_out)
        parts = [_listing(root / "train", classes), _listing(held_out, classes)]
    else:
        classes = tuple(_class_folders(root))
        listing = _listing(root, classes)
        parts = [[x for i, x in enumerate(listing) if i % EVERY], listing[::EVERY]]
    if empty := [name for i, name in enumerate(classes) if i not in {label for _, label in parts[0]}]:
        raise UsageError(f"no training pictures of {', '.join(empty)}; remove the folder, or fill it", item=root)
    if not parts[1]:
        raise UsageError("no held-out pictures", item=root)
    return classes, parts[0], parts[1]


def _shifted(progress: Progress | None, start: int, total: int) -> Callable[[int], None]:
    return (lambda n: progress(start + n, total)) if progress else (lambda _: None)


def _class_folders(folder: Path) -> dict[str, Path]:
    """Folders by class name, in the order of names; a WordNet id of ImageNet stands for the name of its class."""
    found = sorted((name_of_wnid(p.name), p) for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(found) < 2:
        raise UsageError(f"holds {len(found)} folders; expected one folder per class, at least two", item=folder)
    folders = dict(found)
    if len(folders) < len(found):
        raise UsageError("two folders are of the same class, one by its name and one by its WordNet id", item=folder)
    return folders


def _listing(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    folders = _class_folders(folder)
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in (sorted(folders[name].rglob("*")) if name in folders else ())
        if path.suffix.lower() in SUFFIXES and not _hidden(path, folders[name])
    ]


def _decode(
    items: list[tuple[Path, int]],
    classes: tuple[str, ...],
    resize: int,
    crop: int,
    tick: Callable[[int], None],
    interpolation: Interpolation = "bilinear",
) -> Split:
    images = np.empty((len(items), crop, crop, 3), np.uint8)

    def one(i: int) -> None:
        with reading(items[i][0]) as picture:
            images[i] = fit(picture.rgb, resize, crop, interpolation=interpolation).rgb

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for n, _ in enumerate(pool.map(one, range(len(items))), 1):
            tick(n)
    labels = torch.tensor([label for _, label in items])
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, classes)


def _shrunk(split: Split, resize: int, crop: int, how: Interpolation) -> Split:
    """Pictures of a data set that are whole in memory, as smaller ones."""
    whole = split.images.permute(0, 2, 3, 1).contiguous().numpy()
    pictures = [fit(rgb, resize, crop, interpolation=how).rgb for rgb in whole]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Split(images, split.labels, split.classes)


def _torchvision_cifar(root: Path, size: int, *, train: bool) -> Split:
    from torchvision.datasets import CIFAR10

    if size != 32:
        raise TrainingError(f"CIFAR-10 pictures have 32 x 32 pixels, not {size} x {size}", item=root)
    try:
        data = CIFAR10(str(root), train=train, download=False)
    except RuntimeError as error:  # a file is missing or has another checksum
        raise TrainingError("cifar-10-batches-py is incomplete or damaged; get CIFAR-10 again", item=root) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(data.targets), tuple(data.classes))
