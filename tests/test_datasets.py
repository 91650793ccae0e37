"""Data sets: which pictures are trained on and which held out, and what is no data set."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from squares import CLASSES, folders, square

from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.errors import MediaError, TrainingError, UsageError
from coda_cli.media.stills import read_image
from coda_cli.media.view import fit
from coda_cli.training import datasets
from coda_cli.training.datasets import Split

pytestmark = pytest.mark.usefixtures("one_thread")


def check_pictures(split: Split, folder: Path, names: list[str], size: int = 12) -> None:
    """A split holds just the pictures called ``names`` of every class, in order, as ``fit`` shows them."""
    assert split.classes == CLASSES
    assert split.labels.tolist() == [label for label in range(len(CLASSES)) for _ in names]
    assert split.images.dtype == torch.uint8
    assert split.images.shape == (len(CLASSES) * len(names), 3, size, size)
    files = [folder / name / f"{n}.png" for name in CLASSES for n in names]
    for image, file in zip(split.images, files, strict=True):
        expected = fit(np.asarray(Image.open(file)), size, size).rgb
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_train_beside_a_held_out_folder(tmp_path: Path, held_out: str) -> None:
    folders(tmp_path / "train", 3)
    folders(tmp_path / held_out, 2, seed=1)
    train, test = datasets.load(tmp_path, 12)
    check_pictures(train, tmp_path / "train", ["00", "01", "02"])
    check_pictures(test, tmp_path / held_out, ["00", "01"])


def test_a_test_folder_comes_before_a_validation_folder(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "val", "test")):
        folders(tmp_path / name, seed + 1, seed=seed)
    assert [len(split) for split in datasets.load(tmp_path, 12)] == [3, 9]


def test_of_folders_per_class_alone_every_tenth_picture_is_held_out(tmp_path: Path) -> None:
    folders(tmp_path, 20)
    (tmp_path / "red" / ".thumbnails").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "red" / ".thumbnails" / "05.png")
    train, test = datasets.load(tmp_path, 12)
    check_pictures(test, tmp_path, ["00", "10"])
    check_pictures(train, tmp_path, [f"{n:02}" for n in range(20) if n % 10])


def test_pictures_of_any_size_and_kind_become_the_recipes_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "train" / name / "more").mkdir(parents=True)
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(square(0, rng, 31, 17)).save(tmp_path / "train" / name / "wide.jpg")
        Image.fromarray(square(0, rng, 12, 40)).convert("L").save(tmp_path / "train" / name / "more" / "tall.PNG")
        Image.fromarray(square(0, rng, 9, 9)).convert("RGBA").save(tmp_path / "test" / name / "a.webp")
        (tmp_path / "train" / name / "notes.txt").write_text("no picture")
        (tmp_path / "train" / name / ".hidden.png").write_text("no picture")
    train, test = datasets.load(tmp_path, 16)
    assert train.images.shape == (6, 3, 16, 16)
    assert test.images.shape == (3, 3, 16, 16)
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    tall = train.images[0].float()
    assert bool((tall[0] == tall[1]).all()), "in the order of names: more/tall.PNG comes first, and it is grey"


def test_a_class_may_be_absent_from_the_held_out_pictures(tmp_path: Path) -> None:
    folders(tmp_path / "train", 1)
    folders(tmp_path / "test", 2, classes=("blue", "red"))
    _, test = datasets.load(tmp_path, 12)
    assert test.labels.tolist() == [0, 0, 2, 2]
    assert test.classes == CLASSES


def test_progress_counts_every_picture_of_both_splits(tmp_path: Path) -> None:
    folders(tmp_path, 10)
    told: list[tuple[int, int]] = []
    datasets.load(tmp_path, 12, lambda done, total: told.append((done, total)))
    assert told == [(n, 30) for n in range(1, 31)]


def cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """A CIFAR-10 of three pictures a file in torchvision's layout; returns all pictures uint8 [18, 32, 32, 3]."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    files = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]
    rows = [rng.integers(0, 256, (3, 3072), np.uint8) for _ in files]
    sums = [write(f, {"data": r, "labels": [n % 10, 7, 0]}) for n, (f, r) in enumerate(zip(files, rows, strict=True))]
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta = {"filename": "batches.meta", "key": "label_names", "md5": write("batches.meta", {"label_names": classes})}
    lists = [[file, md5] for file, md5 in zip(files, sums, strict=True)]
    monkeypatch.setattr(CIFAR10, "train_list", lists[:5])
    monkeypatch.setattr(CIFAR10, "test_list", lists[5:])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return np.concatenate(rows).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def test_torchvisions_cifar10_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = cifar10(tmp_path, monkeypatch)
    train, test = datasets.load(tmp_path, 32)
    np.testing.assert_array_equal(train.images.permute(0, 2, 3, 1).numpy(), pictures[:15])
    np.testing.assert_array_equal(test.images.permute(0, 2, 3, 1).numpy(), pictures[15:])
    assert train.labels.tolist() == [0, 7, 0, 1, 7, 0, 2, 7, 0, 3, 7, 0, 4, 7, 0]
    assert test.labels.tolist() == [5, 7, 0]
    assert train.classes == test.classes
    assert train.classes[3] == "cat"


def test_a_damaged_cifar10_and_another_size_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar10(tmp_path, monkeypatch)
    with pytest.raises(TrainingError, match="32 x 32 pixels, not 64 x 64"):
        datasets.load(tmp_path, 64)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cut")
    with pytest.raises(TrainingError, match="incomplete or damaged"):
        datasets.load(tmp_path, 32)


def test_smaller_pictures_of_cifar10_are_resized_as_the_network_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = cifar10(tmp_path, monkeypatch)
    names = datasets.load(tmp_path, 32)[0].classes
    view = Preprocessing(resize=32, crop=32, interpolation="bicubic")
    network = Checkpoint(name="n", architecture="coda_net", arguments={}, classes=names, preprocessing=view)
    split, _ = datasets.load_held_out(tmp_path, network, parts=2)
    expected = fit(pictures[15], 16, 16, interpolation="bicubic").rgb
    np.testing.assert_array_equal(split.images[0].permute(1, 2, 0).numpy(), expected)


def _missing(root: Path) -> Path:
    return root / "missing"


def _a_file(root: Path) -> Path:
    (root / "file").touch()
    return root / "file"


def _train_alone(root: Path) -> Path:
    folders(root / "train", 1)
    return root


def _a_new_class(root: Path) -> Path:
    folders(root / "train", 1, classes=("blue", "red"))
    folders(root / "test", 1)
    return root


def _empty(root: Path) -> Path:
    return root


def _one_class(root: Path) -> Path:
    return folders(root, 3, classes=("red",))


def _hidden_class(root: Path) -> Path:
    (root / ".git").mkdir()
    return folders(root, 3, classes=("red",))


def _no_pictures(root: Path) -> Path:
    for name in CLASSES:
        (root / name).mkdir()
    return root


def _nothing_left_to_train_on(root: Path) -> Path:
    folders(root, 1, classes=("red",))
    (root / "blue").mkdir()
    return root


def _nothing_to_test_on(root: Path) -> Path:
    folders(root / "train", 1)
    for name in CLASSES:
        (root / "test" / name).mkdir(parents=True)
    return root


def _a_class_twice(root: Path) -> Path:
    return folders(root, 3, classes=("tench", "n01440764"))


REFUSALS: list[tuple[Callable[[Path], Path], str]] = [
    (_missing, "no such folder"),
    (_a_file, "no such folder"),
    (_train_alone, "has train/ but none of test/, val/, validation/ beside it"),
    (_a_new_class, "has classes that train/ lacks: green"),
    (_empty, "holds 0 folders; expected one folder per class, at least two"),
    (_one_class, "holds 1 folders; expected one folder per class, at least two"),
    (_hidden_class, "holds 1 folders"),
    (_no_pictures, "no training pictures of blue, green, red"),
    (_nothing_left_to_train_on, "no training pictures of blue"),
    (_a_class_twice, "two folders are of the same class"),
    (_nothing_to_test_on, "no held-out pictures"),
]


@pytest.mark.parametrize(("make", "message"), REFUSALS)
def test_what_is_no_data_set_is_refused(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    root = make(tmp_path)
    with pytest.raises(UsageError) as caught:
        datasets.load(root, 12)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_picture_that_cannot_be_read_stops_with_its_name(tmp_path: Path) -> None:
    folders(tmp_path, 10)
    (tmp_path / "red" / "04.png").write_bytes(b"broken")
    with pytest.raises(MediaError, match=r"red.04\.png"):
        datasets.load(tmp_path, 12)


def test_folders_named_by_wordnet_ids_are_classes_by_their_names(tmp_path: Path) -> None:
    """The public Imagenette has wnids, whose order is not that of the names."""
    by_id, by_name = tmp_path / "id", tmp_path / "name"
    names = {"n03445777": "golf ball", "n02102040": "English springer", "n01440764": "tench"}
    for root, used in ((by_id, tuple(names)), (by_name, tuple(names.values()))):
        folders(root, 3, classes=used)
    one, other = datasets.load(by_id, 12)[0], datasets.load(by_name, 12)[0]
    assert one.classes == other.classes == ("English springer", "golf ball", "tench")
    assert one.labels.tolist() == other.labels.tolist()


def test_a_network_is_measured_on_its_own_view_of_some_of_its_classes(tmp_path: Path) -> None:
    """Folders lie in the order of names, a network's classes in that of its training; ImageNet's in neither."""
    checkpoint = Checkpoint(
        name="net",
        architecture="coda_net",
        arguments={},
        classes=("tench", "goldfish", "hen", "golf ball"),
        preprocessing=Preprocessing(resize=16, crop=12),
    )
    folders(tmp_path / "val", 3, classes=("n03445777", "tench"))
    split, note = datasets.load_held_out(tmp_path, checkpoint)
    assert split.labels.tolist() == [3, 3, 3, 0, 0, 0]
    assert split.classes == checkpoint.classes
    first = fit(read_image(tmp_path / "val" / "n03445777" / "00.png").rgb, 16, 12).rgb
    np.testing.assert_array_equal(split.images[0].permute(1, 2, 0).numpy(), first)
    assert not note
    folders(tmp_path / "other" / "val", 3, classes=("golf-ball", "Hen"))  # as ``coda summary`` reads folders
    assert datasets.load_held_out(tmp_path / "other", checkpoint)[0].labels.tolist() == [2, 2, 2, 3, 3, 3]
    folders(tmp_path / "val", 3, classes=("zebu",))
    with pytest.raises(UsageError, match="zebu: no class of net; coda models show net --json lists them"):
        datasets.load_held_out(tmp_path, checkpoint)


def test_a_folder_per_class_is_measured_on_what_training_holds_out(tmp_path: Path) -> None:
    folders(tmp_path, 12, classes=("hen", "tench"))
    checkpoint = Checkpoint(
        name="net",
        architecture="coda_net",
        arguments={},
        classes=("hen", "tench"),
        preprocessing=Preprocessing(resize=12, crop=12),
    )
    split, note = datasets.load_held_out(tmp_path, checkpoint)
    assert torch.equal(split.images, datasets.load(tmp_path, 12)[1].images)
    assert "3 of 24 pictures, every tenth" in note
