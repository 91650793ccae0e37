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

from coda_cli.checkpoints.manifest import Checkpoint, name_of_wnid
from coda_cli.errors import TrainingError, UsageError
from coda_cli.media.stills import SUFFIXES, read_image
from coda_cli.media.view import fit

Progress = Callable[[int, int], None]
HELD_OUT_FOLDERS = ("test", "val", "validation")
HELD_OUT_SHARE = 0.1  # of all pictures, class by class, where a data set has no folder of its own for it


@dataclass(frozen=True)
class Split:
    """``images`` uint8 [N, 3, s, s], ``labels`` int64 [N] indices into ``classes``."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def sha256(self) -> str:
        """A hash of all pictures and labels."""
        return hashlib.sha256(self.images.cpu().numpy().tobytes() + self.labels.cpu().numpy().tobytes()).hexdigest()

    def to(self, device: torch.device) -> Split:
        """The same split with its tensors on ``device``."""
        return Split(self.images.to(device), self.labels.to(device), self.classes)


def load(
    root: Path, size: int, progress: Progress | None = None, *, kept_size: int | None = None
) -> tuple[Split, Split]:
    """Training and held-out split of a data set, pictures at ``size`` x ``size``, those for training at ``kept_size``.

    Three layouts: torchvision's CIFAR-10 (a folder ``cifar-10-batches-py``), ``train/CLASS/...`` beside
    ``test/CLASS/...`` (or ``val``, ``validation``), and ``CLASS/...`` alone, of which every tenth picture (in the
    order of names) is held out. Raises TrainingError for anything else, MediaError for a picture that cannot be read.
    """
    if (root / "cifar-10-batches-py").is_dir():
        return _torchvision_cifar(root, size, train=True), _torchvision_cifar(root, size, train=False)
    classes, training, held_out = _listings(root)
    total = len(training) + len(held_out)
    kept = _decode(training, classes, kept_size or size, _shifted(progress, 0, total))
    return kept, _decode(held_out, classes, size, _shifted(progress, len(training), total))


def load_held_out(root: Path, checkpoint: Checkpoint, progress: Progress | None = None) -> Split:
    """The second split of ``load`` alone, at the size a network sees. Raises UsageError when its classes are others."""
    size = checkpoint.preprocessing.crop
    if (root / "cifar-10-batches-py").is_dir():
        split = _torchvision_cifar(root, size, train=False)
    else:
        classes, _, held_out = _listings(root)
        _refuse_other_classes(root, classes, checkpoint)
        split = _decode(held_out, classes, size, _shifted(progress, 0, len(held_out)))
    _refuse_other_classes(root, split.classes, checkpoint)
    return split


def _refuse_other_classes(root: Path, classes: tuple[str, ...], checkpoint: Checkpoint) -> None:
    if classes != checkpoint.classes:
        raise UsageError(f"{root}: its classes ({', '.join(classes)}) are not those of {checkpoint.name}")


def _listings(root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Class names, and the files of the training and of the held-out split with their labels."""
    if not root.is_dir():
        raise TrainingError(f"{root}: no such folder")
    if (root / "train").is_dir():
        held_out = next((root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()), None)
        if held_out is None:
            raise TrainingError(
                f"{root}: has train/ but none of {', '.join(f'{n}/' for n in HELD_OUT_FOLDERS)} beside it"
            )
        classes = tuple(_class_folders(root / "train"))
        if extra := set(_class_folders(held_out)) - set(classes):
            raise TrainingError(f"{held_out}: has classes that train/ lacks: {', '.join(sorted(extra))}")
        parts = [_listing(root / "train", classes), _listing(held_out, classes)]
    else:
        classes = tuple(_class_folders(root))
        listing = _listing(root, classes)
        every = round(1 / HELD_OUT_SHARE)
        parts = [[x for i, x in enumerate(listing) if i % every], listing[::every]]
    if empty := [name for i, name in enumerate(classes) if i not in {label for _, label in parts[0]}]:
        raise TrainingError(f"{root}: no training pictures of {', '.join(empty)}; remove the folder, or fill it")
    if not parts[1]:
        raise TrainingError(f"{root}: no held-out pictures")
    return classes, parts[0], parts[1]


def _shifted(progress: Progress | None, start: int, total: int) -> Callable[[int], None]:
    return (lambda n: progress(start + n, total)) if progress else (lambda _: None)


def _class_folders(folder: Path) -> dict[str, Path]:
    """Folders by class name, in the order of names. A WordNet id of ImageNet stands for the name of its class."""
    found = sorted((name_of_wnid(p.name), p) for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(found) < 2:
        raise TrainingError(f"{folder}: holds {len(found)} folders; expected one folder per class, at least two")
    folders = dict(found)
    if len(folders) < len(found):
        raise TrainingError(f"{folder}: two folders are of the same class, one by its name and one by its WordNet id")
    return folders


def _listing(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    folders = _class_folders(folder)
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in (sorted(folders[name].rglob("*")) if name in folders else ())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]


def _decode(items: list[tuple[Path, int]], classes: tuple[str, ...], size: int, tick: Callable[[int], None]) -> Split:
    images = np.empty((len(items), size, size, 3), np.uint8)

    def one(i: int) -> None:
        images[i] = fit(read_image(items[i][0]).rgb, size, size).rgb

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for n, _ in enumerate(pool.map(one, range(len(items))), 1):
            tick(n)
    labels = torch.tensor([label for _, label in items])
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, classes)


def _torchvision_cifar(root: Path, size: int, *, train: bool) -> Split:
    from torchvision.datasets import CIFAR10

    if size != 32:
        raise TrainingError(f"{root}: CIFAR-10 pictures have 32 x 32 pixels, the recipe asks for {size}")
    try:
        data = CIFAR10(str(root), train=train, download=False)
    except RuntimeError as error:  # a file is missing or has another checksum
        raise TrainingError(f"{root}: cifar-10-batches-py is incomplete or damaged; get CIFAR-10 again") from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(data.targets), tuple(data.classes))
