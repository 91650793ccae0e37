"""Training: data sets, the loop that can be stopped anywhere, and the file it ends in. Tiny networks, real runs."""

from __future__ import annotations

import csv
import hashlib
import math
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import program
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import coda_cli
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import Checkpoint, Preprocessing
from coda_cli.core.networks import build, encode
from coda_cli.errors import ExitCode, MediaError, TrainingError, UsageError
from coda_cli.media.stills import read_image
from coda_cli.media.view import fit
from coda_cli.training import batches, datasets, loop
from coda_cli.training.batches import MOST_STRETCH, augment, batch_of_step
from coda_cli.training.datasets import Split
from coda_cli.training.loop import Tick, finish, learning_rate
from coda_cli.training.recipes import RECIPES, Recipe
from coda_cli.training.state import LOG_FIELDS, LOG_FILE, STATE_FILE, load_state

CLASSES = ("blue", "green", "red")
CPU = torch.device("cpu")
ARGUMENTS: dict[str, Any] = {
    "channels": [6, 6, 6, 10],
    "kernels": [3, 3, 1],
    "strides": [2, 2, 1],
    "ranks": [3, 3, 3],
    "norm": "SQ",
    "temperature": 1.0,
    "bias": math.log(1 / 9),
}
TINY = Recipe(
    arguments=ARGUMENTS,
    size=12,
    epochs=4,
    batch=24,
    learning_rate=2e-2,
    precision="float32",
    seed=3,
)


def square(label: int, rng: np.random.Generator, width: int = 12, height: int = 12) -> NDArray[np.uint8]:
    """A square of one of three colours somewhere on grey noise, uint8 [height, width, 3]."""
    picture = rng.integers(90, 166, (height, width, 3), np.uint8)
    y, x = rng.integers(0, height - 5), rng.integers(0, width - 5)
    picture[y : y + 6, x : x + 6] = [230 if channel == 2 - label else 30 for channel in range(3)]
    return picture


def squares(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = np.stack([square(int(label), rng) for label in labels]).transpose(0, 3, 1, 2)
    return Split(torch.from_numpy(images.copy()), torch.from_numpy(labels), CLASSES)


def folders(root: Path, per_class: int, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """A folder for each class with pictures 00.png, 01.png, ..."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for n in range(per_class):
            colour = CLASSES.index(name) if name in CLASSES else label
            Image.fromarray(square(colour, rng)).save(root / name / f"{n:02}.png")
    return root


@pytest.fixture(scope="module")
def data() -> tuple[Split, Split]:
    return squares(120, 0), squares(45, 1)


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


def run(recipe: Recipe, data: tuple[Split, Split], folder: Path, **options: Any) -> loop.Result:
    folder.mkdir(exist_ok=True)
    return loop.train(recipe, data, folder, device=CPU, compiled=False, **options)


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / LOG_FILE).open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---- data sets -------------------------------------------------------------------------------------------------------


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


# ---- batches and augmentation ----------------------------------------------------------------------------------------


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramps(count: int, s: int = 40) -> Tensor:
    """Pictures uint8 [count, 3, s, s] that say where one looks: red rises to the right, green downwards, 4 a pixel."""
    at = (torch.arange(s) * 4 + 20).to(torch.uint8)
    return torch.stack([at.expand(s, s), at[:, None].expand(s, s), torch.zeros(s, s, dtype=torch.uint8)]).repeat(
        count, 1, 1, 1
    )


@dataclass(frozen=True)
class Crop:
    """The part of a picture of ``ramps`` that is shown, in pixels: centre and size; width < 0: mirrored."""

    x: float
    y: float
    width: float
    height: float


def crop_of(result: Tensor) -> Crop:
    """Found from the inner half of the picture, where no edge is near."""
    side = result.shape[-1]
    inner = slice(side // 4, side - side // 4)
    values = (result * 255 - 20) / 4 + 0.5  # pixels from the left, from the top
    x, y = values[0, inner, inner].mean(0).double(), values[1, inner, inner].mean(1).double()
    steps = [float(torch.diff(v).mean()) for v in (x, y)]
    assert float((torch.diff(x) - steps[0]).abs().max()) < 0.05, "columns are evenly spaced"
    assert float((torch.diff(y) - steps[1]).abs().max()) < 0.05, "rows are evenly spaced"
    return Crop(float(x.mean()), float(y.mean()), steps[0] * side, steps[1] * side)


def check_crops(augmented: Callable[..., Tensor], smallest: float, side: int, *, flip: bool = True) -> None:
    recipe = replace(TINY, smallest_crop=smallest, flip=flip)
    images = ramps(300)
    before = images.clone()
    results = augmented(images, recipe, generator(1), side)
    assert torch.equal(images, before)
    assert results.shape == (300, 3, side, side)
    crops = [crop_of(result) for result in results]
    areas = [abs(c.width) * c.height / 1600 for c in crops]
    assert min(areas) >= smallest * 0.93
    assert max(areas) <= 1.03
    for c in crops:
        assert c.height > 0, "never upside down"
        assert abs(c.width) / 2 - 0.8 <= c.x <= 40.8 - abs(c.width) / 2, "inside the picture"
        assert c.height / 2 - 0.8 <= c.y <= 40.8 - c.height / 2
    mirrored = sum(c.width < 0 for c in crops)
    assert mirrored == pytest.approx(150, abs=40) if flip else mirrored == 0
    if smallest < 1:
        assert min(areas) < smallest + 0.1
        assert max(areas) > 0.9
        shapes = [abs(c.width) / c.height for c in crops]
        assert 1 / (MOST_STRETCH + 0.05) < min(shapes) < 0.9
        assert 1.1 < max(shapes) < MOST_STRETCH + 0.05
        assert np.std([c.x for c in crops]) > 1, "every picture goes its own way"
        assert np.std([c.y for c in crops]) > 1


@pytest.mark.parametrize("side", [40, 30, 20, 16])
@pytest.mark.parametrize(("smallest", "flip"), [(1.0, False), (1.0, True), (0.5, True), (0.35, False)])
def test_crops_lie_inside_the_picture_and_have_the_sizes_asked_for(side: int, smallest: float, flip: bool) -> None:
    check_crops(augment, smallest, side, flip=flip)


def test_pictures_that_wrap_around_or_turn_are_caught() -> None:
    def wrapped(images: Tensor, recipe: Recipe, g: torch.Generator, side: int) -> Tensor:
        return augment(images.roll(15, 3), recipe, g, side)

    def upside_down(images: Tensor, recipe: Recipe, g: torch.Generator, side: int) -> Tensor:
        return augment(images.flip(2), recipe, g, side)

    def all_the_same(images: Tensor, recipe: Recipe, _: torch.Generator, side: int) -> Tensor:
        return torch.cat([augment(image[None], recipe, generator(), side) for image in images])

    for wrong in (wrapped, upside_down, all_the_same):
        with pytest.raises(AssertionError):
            check_crops(wrong, 0.5, 40)


def test_without_crops_a_picture_of_the_right_size_is_only_mirrored() -> None:
    images = torch.randint(0, 256, (200, 3, 9, 9), generator=generator()).to(torch.uint8)
    for result, image in zip(augment(images, TINY, generator(), 9), images.float() / 255, strict=True):
        assert min(float((result - image).abs().max()), float((result - image.flip(2)).abs().max())) < 1e-5


def test_smaller_pictures_are_averaged_not_thinned_out() -> None:
    checkers = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).mul(255).to(torch.uint8)
    small = augment(checkers.expand(4, 3, 32, 32), TINY, generator(), 16)
    torch.testing.assert_close(small, torch.full_like(small, 0.5))


def test_jitter_changes_brightness_and_contrast_within_its_bounds() -> None:
    images = torch.tensor([100, 150], dtype=torch.uint8).repeat(8, 4).expand(400, 3, 8, 8)
    results = augment(images, replace(TINY, flip=False, jitter=0.2), generator(), 8)
    means = results.mean((1, 2, 3)) - 125 / 255
    contrasts = (results.amax((1, 2, 3)) - results.amin((1, 2, 3))) / (50 / 255)
    for values, middle, bound in ((means, 0.0, 0.1), (contrasts, 1.0, 0.2)):
        assert float((values - middle).abs().max()) <= bound + 1e-4
        assert float(values.min()) < middle - 0.8 * bound
        assert float(values.max()) > middle + 0.8 * bound


def numbered(count: int) -> Split:
    """Pictures that are their own number, with labels that follow from it."""
    images = torch.arange(count).to(torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    return Split(images, torch.arange(count) * 7 % 10, tuple("abcdefghij"))


@pytest.mark.parametrize("count", [40, 43])
def test_an_epoch_shows_every_picture_once_with_its_label_and_leaves_out_less_than_a_batch(count: int) -> None:
    split, recipe = numbered(count), replace(TINY, batch=8, flip=False)
    epochs = []
    for epoch in range(3):
        seen: list[int] = []
        for step in range(epoch * 5, epoch * 5 + 5):
            images, labels = batch_of_step(split, recipe, step, 5, 2)
            numbers = (images[:, 0, 0, 0] * 255).round().long()
            assert images.shape == (8, 3, 2, 2)
            assert labels.tolist() == (numbers * 7 % 10).tolist()
            seen += numbers.tolist()
        assert len(set(seen)) == len(seen) == 40
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0], "every epoch has an order of its own"
    assert epochs[0] != sorted(epochs[0])


def test_a_step_is_the_same_whenever_it_is_asked_for_and_differs_from_others() -> None:
    split, recipe = squares(30, 0), replace(TINY, batch=5, smallest_crop=0.5, jitter=0.1)
    first = [batch_of_step(split, recipe, step, 6, 12)[0] for step in range(12)]
    again = [batch_of_step(split, recipe, step, 6, 12)[0] for step in reversed(range(12))][::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    equal = replace(split, images=split.images[:1].repeat(30, 1, 1, 1))  # so that only the augmentation can differ
    assert len({batch_of_step(equal, recipe, step, 6, 12)[0].numpy().tobytes() for step in range(12)}) == 12
    reseeded = replace(recipe, seed=4)
    assert not torch.equal(batch_of_step(equal, recipe, 0, 6, 12)[0], batch_of_step(equal, reseeded, 0, 6, 12)[0])
    still, still_reseeded = (replace(TINY, batch=5, flip=False, seed=seed) for seed in (3, 4))
    assert not torch.equal(batch_of_step(split, still, 0, 6, 12)[0], batch_of_step(split, still_reseeded, 0, 6, 12)[0])


def test_stages_show_smaller_pictures_first(data: tuple[Split, Split], tmp_path: Path) -> None:
    sizes: list[int] = []

    def listening(*args: Any) -> tuple[Tensor, Tensor]:
        images, labels = batch_of_step(*args)
        sizes.append(images.shape[-1])
        return images, labels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "batch_of_step", listening)
        run(replace(TINY, epochs=2, stages=[[0.3, 0.5], [0.2, 0.75]]), data, tmp_path)
    assert sizes == [6] * 3 + [9] * 2 + [12] * 5


def test_the_temperature_rises_geometrically_and_follows_the_area() -> None:
    recipe = replace(TINY, arguments={**ARGUMENTS, "temperature": 400.0}, first_temperature=100.0, rise=0.5)
    assert [recipe.temperature(p) for p in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([100, 200, 400, 400])
    half = replace(recipe, stages=[[0.3, 0.5]])
    assert [half.temperature(p) for p in (0.0, 0.25, 0.5)] == pytest.approx([25, 50, 400])
    assert [TINY.temperature(p) for p in (0.0, 1.0)] == [1.0, 1.0]
    assert replace(recipe, rise=0.0).temperature(0.0) == pytest.approx(400)
    assert replace(recipe, first_temperature=1000.0).temperature(0.0) == pytest.approx(400)  # it never falls


def test_a_rising_temperature_ends_in_the_network_s_own(data: tuple[Split, Split], tmp_path: Path) -> None:
    seen: list[Tensor] = []
    original = F.binary_cross_entropy_with_logits

    def listening(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(logits.detach().clone())
        return original(logits, target)

    recipe = replace(
        TINY, epochs=1, batch=60, learning_rate=0.0, arguments={**ARGUMENTS, "temperature": 8.0}, flip=False
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.F, "binary_cross_entropy_with_logits", listening)
        for first in (8.0, 2.0):
            run(replace(recipe, first_temperature=first), data, tmp_path / str(first))
    (own, *_), (sharper, *_) = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    bias = ARGUMENTS["bias"]
    torch.testing.assert_close(sharper - bias, 4 * (own - bias))


# ---- the schedule ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_linearly_and_falls_along_half_a_cosine() -> None:
    recipe = replace(TINY, learning_rate=2.0, warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[40] == pytest.approx(2 * 0.75)  # a third of the way down: cos(pi / 3) = 1 / 2
    assert rates[55] == pytest.approx(1.0)
    assert rates[70] == pytest.approx(2 * 0.25)
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert all(a > b > 0 for a, b in pairwise(rates[10:100]))


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 10), (1.0, 10), (0.5, 1), (0.05, 3)])
def test_a_schedule_without_a_rise_or_fall_stays_within_its_bounds(warmup: float, steps: int) -> None:
    rates = [learning_rate(replace(TINY, learning_rate=2.0, warmup=warmup), step, steps) for step in range(steps)]
    assert max(rates) == 2.0
    assert min(rates) > 0


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_learns(data: tuple[Split, Split], tmp_path: Path) -> None:
    ticks: list[Tick] = []
    epochs: list[tuple[int, float]] = []
    result = run(TINY, data, tmp_path, on_step=ticks.append, on_epoch=lambda *said: epochs.append(said))
    losses = [tick.loss for tick in ticks]
    assert result.finished
    assert (result.steps, len(ticks), ticks[-1].steps) == (20, 20, 20)
    assert losses[0] > 0.6
    assert np.mean(losses[-3:]) < 0.3
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    assert [n for n, _ in epochs] == [1, 2, 3, 4]
    assert epochs[-1][1] == result.accuracy, "fewer held-out pictures than the sample: the same number"
    assert not result.model.training
    assert [t.step for t in ticks] == list(range(1, 21))
    assert all(a.seconds < b.seconds for a, b in pairwise(ticks))


def test_without_labels_that_mean_something_nothing_is_learned(data: tuple[Split, Split], tmp_path: Path) -> None:
    """So that the test above is about learning: with shuffled labels held-out accuracy stays near chance."""
    shuffled = data[0].labels[torch.randperm(len(data[0]), generator=generator())]
    result = run(TINY, (replace(data[0], labels=shuffled), data[1]), tmp_path)
    assert result.accuracy is not None
    assert result.accuracy < 0.8


def test_bfloat16_learns_too(data: tuple[Split, Split], tmp_path: Path) -> None:
    result = run(replace(TINY, precision="bfloat16"), data, tmp_path)
    assert result.accuracy is not None
    assert result.accuracy > 0.9
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


def test_two_runs_give_the_same_weights_and_another_seed_gives_others(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    short = replace(TINY, epochs=1)
    first, second, other = (
        weights(run(recipe, data, tmp_path / str(n))) for n, recipe in enumerate((short, short, replace(short, seed=4)))
    )
    assert same(first, second)
    assert not same(first, other)


def weights(result: loop.Result) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in result.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_log_has_one_line_for_every_epoch(data: tuple[Split, Split], tmp_path: Path) -> None:
    ticks: list[Tick] = []
    result = run(TINY, data, tmp_path, on_step=ticks.append)
    rows = log_of(tmp_path)
    assert tuple(rows[0]) == LOG_FIELDS
    assert [(row["step"], row["epoch"]) for row in rows] == [("5", "1"), ("10", "2"), ("15", "3"), ("20", "4")]
    for n, row in enumerate(rows):
        mean = np.mean([tick.loss for tick in ticks[5 * n : 5 * n + 5]])
        assert float(row["loss"]) == pytest.approx(mean, rel=1e-4)
        assert float(row["learning_rate"]) == pytest.approx(learning_rate(TINY, 5 * n + 4, 20), rel=1e-4)
        assert float(row["images_per_second"]) > 0
    assert float(rows[-1]["accuracy"]) == pytest.approx(result.accuracy, rel=1e-4)


def test_the_loss_is_binary_cross_entropy_averaged_over_batch_and_classes(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    """Of the first step, by its formula: -log p of the right class and -log (1 - p) of the others, p the sigmoid."""
    ticks: list[Tick] = []
    run(replace(TINY, epochs=1), data, tmp_path, on_step=ticks.append)
    torch.manual_seed(TINY.seed)
    model = build("coda_net", TINY.with_classes(3))
    images, labels = batch_of_step(data[0], TINY, 0, 5, 12)
    p = torch.sigmoid(model(encode(images)).detach().double())
    right = torch.nn.functional.one_hot(labels, 3).bool()
    expected = -torch.where(right, p.log(), (1 - p).log()).mean()
    assert ticks[0].loss == pytest.approx(float(expected), rel=1e-5)


def test_a_run_equals_the_same_steps_written_out(data: tuple[Split, Split], tmp_path: Path) -> None:
    """Adam, schedules, stages, the gradient held down, and nothing carried over from one gradient to the next."""
    recipe = replace(TINY, epochs=2, clip=0.05, first_temperature=0.5, stages=[[0.4, 0.5]], smallest_crop=0.6)
    result = run(recipe, data, tmp_path)
    torch.manual_seed(recipe.seed)
    model = build("coda_net", recipe.with_classes(3))
    parameters = list(model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    for step in range(10):
        images, labels = batch_of_step(data[0], recipe, step, 5, 6 if step < 4 else 12)
        temperature = 0.5 * 2 ** (step / 10) / (4 if step < 4 else 1)
        logits = (model(encode(images)).double() - ARGUMENTS["bias"]) / temperature + ARGUMENTS["bias"]
        p = torch.sigmoid(logits)
        right = torch.nn.functional.one_hot(labels, 3).bool()
        gradients = torch.autograd.grad(-torch.where(right, p.log(), (1 - p).log()).mean(), parameters)
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        for w, g, (first, second) in zip(parameters, gradients, moments, strict=True):
            g = g * min(1.0, recipe.clip / norm)
            first.mul_(0.9).add_(g, alpha=0.1)
            second.mul_(0.999).add_(g * g, alpha=0.001)
            n = step + 1
            change = (first / (1 - 0.9**n)) / ((second / (1 - 0.999**n)).sqrt() + 1e-8)
            with torch.no_grad():
                w.sub_(change, alpha=learning_rate(recipe, step, 10))
    for key, value in result.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=2e-4)


# ---- stopping and going on -------------------------------------------------------------------------------------------


class _Killed(BaseException):
    """As when the machine goes down."""


def killed_after(step: int) -> Callable[[Tick], None]:
    def kill(tick: Tick) -> None:
        if tick.step == step:
            raise _Killed

    return kill


def check_resume(data: tuple[Split, Split], folder: Path) -> None:
    """A run stopped in many ways ends with the weights of one that was not."""
    whole = run(TINY, data, folder / "whole")
    parts = folder / "parts"
    result = run(TINY, data, parts, time_budget=0.0)
    assert (result.finished, result.steps, result.accuracy) == (False, 1, None)
    for n in range(2, 8):  # a step at a time, across the end of the first epoch
        result = run(TINY, data, parts, resume=True, time_budget=0.0)
        assert (result.finished, result.steps) == (False, n)
    with pytest.raises(_Killed):  # in the third epoch: the state is that of the end of the second
        run(TINY, data, parts, resume=True, on_step=killed_after(13))
    result = run(TINY, data, parts, resume=True)
    assert result.finished
    assert result.steps == whole.steps
    assert same(weights(whole), weights(result))
    assert result.accuracy == whole.accuracy
    once_more = run(TINY, data, parts, resume=True)  # of a finished run: nothing is left to do
    assert once_more.finished
    assert same(weights(whole), weights(once_more))


def test_a_stopped_and_resumed_run_ends_with_the_very_same_weights(data: tuple[Split, Split], tmp_path: Path) -> None:
    check_resume(data, tmp_path)


def test_a_run_whose_time_is_up_with_its_last_step_is_finished(data: tuple[Split, Split], tmp_path: Path) -> None:
    result = run(replace(TINY, epochs=1, batch=120), data, tmp_path, time_budget=0.0)
    assert (result.finished, result.steps) == (True, 1)
    assert result.accuracy is not None


def test_after_a_resume_the_log_has_no_line_twice(data: tuple[Split, Split], tmp_path: Path) -> None:
    check_resume(data, tmp_path)
    whole, parts = log_of(tmp_path / "whole"), log_of(tmp_path / "parts")
    kept = ("step", "epoch", "learning_rate", "accuracy")
    assert [[row[k] for k in kept] for row in parts] == [[row[k] for k in kept] for row in whole]
    seconds = [float(row["seconds"]) for row in parts]
    assert seconds == sorted(seconds)


def test_lines_of_epochs_that_are_done_again_are_dropped(data: tuple[Split, Split], tmp_path: Path) -> None:
    """Killed between the log's line and the state: the line is there, the step is repeated."""
    with pytest.raises(_Killed):
        run(TINY, data, tmp_path, on_step=killed_after(7))
    with (tmp_path / LOG_FILE).open("a", newline="") as stream:
        csv.writer(stream).writerow([10, 2, 1.0, 0.1, 0.5, 0.5, 100])
    run(TINY, data, tmp_path, resume=True)
    assert [row["step"] for row in log_of(tmp_path)] == ["5", "10", "15", "20"]


def _reseeding(patch: pytest.MonkeyPatch) -> None:
    """Batches counted from the start of the call instead of the run."""
    counts = Counter[str]()
    train = loop.train

    def counting(*args: Any, **options: Any) -> Any:
        counts.clear()
        return train(*args, **options)

    def wrong(split: Split, recipe: Recipe, step: int, per_epoch: int, crop: int | None = None) -> Any:
        del step
        counts["step"] += 1
        return batch_of_step(split, recipe, counts["step"] - 1, per_epoch, crop)

    patch.setattr(loop, "train", counting)
    patch.setattr(loop, "batch_of_step", wrong)


def _forgetting_the_optimiser(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.optim.Adam, "load_state_dict", lambda *_: None)


def _drawing_from_the_global_generator(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(batches, "_generator", lambda *_: None)


def _counting_the_last_step_twice(patch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any) -> tuple[int, float]:
        step, seconds = load_state(*args)
        return max(0, step - 1) if step == 10 else step, seconds

    patch.setattr(loop, "load_state", wrong)


@pytest.mark.parametrize(
    "plant", [_reseeding, _forgetting_the_optimiser, _drawing_from_the_global_generator, _counting_the_last_step_twice]
)
def test_a_resume_that_forgets_something_is_caught(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[..., None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_resume(data, tmp_path)


def test_resuming_without_a_state_or_with_another_recipe_or_other_data_is_refused(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="no state to resume from; start without --resume"):
        run(TINY, data, tmp_path, resume=True)
    run(TINY, data, tmp_path, time_budget=0.0)
    before = (tmp_path / STATE_FILE).read_bytes()
    for other in (replace(TINY, learning_rate=1e-3), replace(TINY, epochs=5), replace(TINY, seed=0)):
        with pytest.raises(TrainingError, match="belongs to a run with another recipe"):
            run(other, data, tmp_path, resume=True)
    fewer = squares(90, 0)
    renamed = replace(data[0], classes=("a", "b", "c"))
    more_classes = replace(data[0], classes=(*CLASSES, "yellow"))
    for train_split in (fewer, renamed, more_classes):
        with pytest.raises(TrainingError, match="belongs to a run on other data"):
            run(TINY, (train_split, data[1]), tmp_path, resume=True)
    assert (tmp_path / STATE_FILE).read_bytes() == before
    assert run(TINY, data, tmp_path, resume=True).finished


def test_fewer_pictures_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="23 training pictures do not fill one batch of 24"):
        run(TINY, (squares(23, 0), squares(9, 1)), tmp_path)


# ---- runs that go wrong ----------------------------------------------------------------------------------------------


def test_a_run_whose_learning_rate_is_too_high_ends_with_an_error(data: tuple[Split, Split], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged at step 1 of 20: the gradient is not finite; lower the learning"):
        run(replace(TINY, learning_rate=math.inf), data, tmp_path)


def test_pictures_that_are_no_numbers_end_a_run_with_an_error(data: tuple[Split, Split], tmp_path: Path) -> None:
    images = data[0].images.float() / 255
    images[50, 1, 3, 3] = math.nan
    with pytest.raises(TrainingError, match=r"diverged at step \d of 20"):
        run(TINY, (replace(data[0], images=images), data[1]), tmp_path)


def test_weights_that_the_last_step_ruined_are_not_taken_for_a_result(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    one_step = replace(TINY, epochs=1, batch=120, learning_rate=math.inf)
    for resume in (False, True):
        with pytest.raises(TrainingError, match="diverged at step 1 of 1: the weights are not finite"):
            run(one_step, data, tmp_path, resume=resume)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_finished_run_becomes_a_file_that_gives_the_same_logits_and_tells_the_truth(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    labels = data[1].labels.clone()
    labels[:7] = (labels[:7] + 1) % 3  # nobody can get all of them right
    data = data[0], replace(data[1], labels=labels)
    result = run(TINY, data, tmp_path)
    path = finish(
        result, TINY, data, tmp_path / "squares.safetensors", "squares", about="coloured squares", licence="ours"
    )
    net = load(path)
    x = encode(data[1].images)
    with torch.no_grad():
        torch.testing.assert_close(net.model(x), result.model(x), rtol=1e-6, atol=1e-6)
    assert not net.assumed
    checkpoint = net.checkpoint
    assert (checkpoint.name, checkpoint.architecture, checkpoint.classes) == ("squares", "coda_net", CLASSES)
    assert checkpoint.arguments == {**ARGUMENTS, "channels": [6, 6, 6, 3]}
    assert (checkpoint.preprocessing.resize, checkpoint.preprocessing.crop) == (12, 12)
    hits = [int(net.model(encode(image[None])).argmax()) for image in data[1].images]
    measured = float(np.mean(np.array(hits) == data[1].labels.numpy()))
    assert checkpoint.accuracy is not None
    assert checkpoint.accuracy.value == pytest.approx(measured) == loop.accuracy(net.model, data[1])
    assert 0.7 < measured < 1
    assert (checkpoint.accuracy.pictures, checkpoint.accuracy.split) == (45, "held out")
    assert checkpoint.licence == "ours"
    assert checkpoint.training["data"] == "coloured squares"
    assert (checkpoint.training["pictures"], checkpoint.training["steps"]) == (120, 20)
    assert checkpoint.training["recipe"]["learning_rate"] == TINY.learning_rate
    again = Recipe(arguments=checkpoint.arguments, **checkpoint.training["recipe"])
    assert replace(again, arguments=ARGUMENTS) == TINY, "the file holds what it takes to repeat the run"


def test_a_b_cos_network_learns_and_its_file_explains(data: tuple[Split, Split], tmp_path: Path) -> None:
    arguments = {
        "channels": [6, 8, 8, 10],
        "kernels": [3, 3, 1],
        "strides": [2, 2, 1],
        "b": 2.0,
        "max_out": 2,
        "scale": 0.1,
        "temperature": 1.0,
        "bias": math.log(1 / 9),
    }
    recipe = replace(TINY, architecture="bcos_chain", arguments=arguments, epochs=12, stages=[[0.5, 0.5]])
    assert recipe.temperature(0) == recipe.temperature(0.9) == 1.0  # a mean over positions knows no area
    result = loop.train(recipe, data, tmp_path, device=CPU, compiled=False)
    assert result.accuracy is not None
    assert result.accuracy > 0.8
    net = load(finish(result, recipe, data, tmp_path / "b.safetensors", "b", about="colours"))
    assert net.checkpoint.architecture == "bcos_chain"
    explanation = coda_cli.explain(np.asarray(data[1].images[0].permute(1, 2, 0)), net)
    assert bool(explanation.decomposition.exact.all())


def test_accuracy_counts_hits() -> None:
    class Reader(torch.nn.Module):
        """Reads a picture's number and predicts its label, but for every fourth picture."""

        def forward(self, x: Tensor) -> Tensor:
            number = (x[:, 0, 0, 0] * 255).round().long()
            return torch.nn.functional.one_hot((number * 7 + (number % 4 == 0)) % 10, 10).float()

    split = numbered(250)
    assert loop.accuracy(Reader(), split) == pytest.approx(1 - 63 / 250)
    assert loop.accuracy(Reader(), batches.resized(split, 2, limit=250)) == pytest.approx(1 - 63 / 250)


def test_a_sample_is_always_the_same_and_scaled() -> None:
    split = numbered(250)
    some, again = (batches.resized(split, side, limit=40) for side in (2, 2))
    assert torch.equal(some.images, again.images)
    assert len(set(some.images[:, 0, 0, 0].tolist())) == len(some) == 40
    assert some.labels.tolist() == (some.images[:, 0, 0, 0].long() * 7 % 10).tolist()
    large = batches.resized(split, 5, limit=40)
    assert large.images.shape == (40, 3, 5, 5)
    assert torch.equal(large.images[:, :, 2, 2], some.images[:, :, 0, 0])
    checkers = Split(squares(9, 0).images, torch.zeros(9, dtype=torch.int64), CLASSES)
    exact = F.adaptive_avg_pool2d(checkers.images.float(), 6)
    assert float((batches.resized(checkers, 6, limit=9).images.float().mean() - exact.mean()).abs()) < 1


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in ./data, a recipe "tiny", and ./ as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, epochs=3))
    return folders(tmp_path / "data", 40)


def coda_train(*args: str | Path, status: int = 0) -> program.Result:
    return program.run("train", *args, "--recipe", "tiny", "--no-compile", "--device", "cpu", status=status)


def test_the_command_trains_writes_a_network_and_prints_its_path(pictures: Path) -> None:
    result = coda_train(pictures, "-o", "run")
    assert result.lines == [str(Path("run/data.safetensors"))]
    assert "108 training and 12 held-out pictures of 3 classes" in result.err
    assert "epoch 3: " in result.err
    net = load("run/data.safetensors")
    assert net.checkpoint.classes == CLASSES
    assert net.checkpoint.name == "data", "after the folder of pictures"
    assert net.checkpoint.training["data"] == "data"
    assert sorted(p.name for p in Path("run").iterdir()) == ["data.safetensors", LOG_FILE, STATE_FILE]


def test_options_change_the_recipe(pictures: Path) -> None:
    options = [
        "--name",
        "mine",
        "--data-note",
        "squares, ours",
        "--size",
        "16",
        "--epochs",
        "1",
        "--batch",
        "30",
        "--lr",
        "0.01",
        "--warmup",
        "0.5",
        "--temperature",
        "2",
        "--seed",
        "7",
        "--precision",
        "bfloat16",
    ]
    coda_train(pictures, "-o", "run", *options)
    checkpoint = load("run/mine.safetensors").checkpoint
    recipe = checkpoint.training["recipe"]
    assert checkpoint.arguments["temperature"] == 2
    assert (checkpoint.name, checkpoint.training["data"]) == ("mine", "squares, ours")
    assert checkpoint.preprocessing.crop == 16
    expected = {"size": 16, "epochs": 1, "batch": 30, "learning_rate": 0.01, "warmup": 0.5, "seed": 7}
    assert {key: recipe[key] for key in expected} == expected
    assert recipe["precision"] == "bfloat16"
    assert checkpoint.training["steps"] == 108 // 30


def test_stopped_by_its_time_budget_the_command_goes_on_to_the_same_file(pictures: Path) -> None:
    coda_train(pictures, "-o", "whole", "-q")
    stopped = coda_train(pictures, "-o", "parts", "--time-budget", "0")
    assert stopped.out == ""
    assert "the time budget is spent after step 1; the same command with --resume continues" in stopped.err
    assert not list(Path("parts").glob("*.safetensors"))
    coda_train(pictures, "-o", "parts", "--resume", "--time-budget", "0")
    assert coda_train(pictures, "-o", "parts", "--resume").lines == [str(Path("parts/data.safetensors"))]
    whole, parts = (load(f"{name}/data.safetensors") for name in ("whole", "parts"))
    assert same(whole.model.state_dict(), parts.model.state_dict())
    assert whole.checkpoint.accuracy == parts.checkpoint.accuracy


def test_the_commands_time_budget_is_in_minutes(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[float] = []

    def stopped(*_: Any, time_budget: float, **__: Any) -> loop.Result:
        budgets.append(time_budget)
        return loop.Result(torch.nn.Identity(), False, 1, 0.0)

    monkeypatch.setattr(loop, "train", stopped)
    coda_train(pictures, "-o", "run", "--time-budget", "1.5")
    coda_train(pictures, "-o", "run")
    assert budgets == [90, math.inf]


def test_a_run_that_is_there_is_not_overwritten(pictures: Path) -> None:
    coda_train(pictures, "-o", "run", "--time-budget", "0")
    before = program.tree(Path("run"))
    refused = coda_train(pictures, "-o", "run", status=ExitCode.USAGE)
    assert refused.error == "run: holds a run already; --resume continues it, -o DIR starts another"
    with filelock.FileLock("run/training-state.pt.lock"):
        beside = coda_train(pictures, "-o", "run", "--resume", status=ExitCode.USAGE)
    said = "run/training-state.pt: another run writes to it; wait for its end, or -o DIR starts another"
    assert beside.error == said
    other = coda_train(pictures, "-o", "run", "--resume", "--lr", "0.5", status=ExitCode.FAILED)
    assert "belongs to a run with another recipe" in other.error
    assert program.tree(Path("run"))[STATE_FILE] == before[STATE_FILE]


def test_a_network_that_is_there_is_not_replaced(pictures: Path) -> None:
    Path("run").mkdir()
    Path("run/data.safetensors").write_bytes(b"hours of work")
    refused = coda_train(pictures, "-o", "run", status=ExitCode.USAGE)
    assert refused.error == "run/data.safetensors: exists; choose another --name or -o DIR"
    assert Path("run/data.safetensors").read_bytes() == b"hours of work"


def test_sizes_that_do_not_go_through_a_network_are_refused_before_pictures_are_read(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("read"))
    for arch, size, recipe, side in (
        ("bcos-simple_vit_ti_patch16_224", 224, "imagenette", 168),
        ("bcos-vgg11_bnu", 16, "cifar10", 10),
    ):
        options = ("--arch", arch, "--size", str(size), "--recipe", recipe)
        refused = program.run("train", pictures, *options, status=ExitCode.USAGE)
        assert refused.error.startswith(f"--size {size}: pictures of {side} x {side}, which the run shows, do not go")


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\3\4 cut off"])
def test_a_damaged_state_is_one_line(pictures: Path, content: bytes) -> None:
    coda_train(pictures, "-o", "run", "--time-budget", "0")
    Path("run", STATE_FILE).write_bytes(content)
    result = coda_train(pictures, "-o", "run", "--resume", status=ExitCode.FAILED)
    assert result.error == f"run/{STATE_FILE}: damaged, or not the state of a run; start anew in another folder"


def test_resuming_what_was_never_started_fails(pictures: Path) -> None:
    assert "no state to resume from" in coda_train(pictures, "-o", "run", "--resume", status=ExitCode.FAILED).error


def test_a_diverging_run_fails_and_writes_no_network(pictures: Path) -> None:
    result = coda_train(pictures, "-o", "run", "--lr", "1e30", status=ExitCode.FAILED)
    assert "diverged at step 1 of 12" in result.error
    assert "No checkpoint was written" in result.error
    assert not list(Path("run").glob("*.safetensors"))


def test_unknown_recipes_configurations_and_precisions_are_refused_before_anything_is_made(pictures: Path) -> None:
    refused = program.run("train", pictures, "--recipe", "cifar11", status=ExitCode.USAGE)
    assert refused.error == "--recipe cifar11: no such recipe; there are cifar10, cifar10-bcos, imagenette, tiny"
    refused = coda_train(pictures, "--arch", "9L-S-CoDA-SQ-3", status=ExitCode.USAGE)
    assert refused.error.startswith("--arch 9L-S-CoDA-SQ-3: no such configuration; known: 9L-S-CoDA-SQ-10, ")
    for name in ("a/b", "../b", "/"):
        assert coda_train(pictures, "--name", name, status=ExitCode.USAGE).error.startswith(f"--name {name}: ")
    refused = coda_train(pictures, "--precision", "float8", status=ExitCode.USAGE)
    assert refused.error == "--precision: 'float8' is not one of 'float32', 'bfloat16'; see coda train --help"
    for option in (["--epochs", "0"], ["--lr", "-1"], ["--seed", "-1"], ["--warmup", "2"], ["--size", "7"]):
        coda_train(pictures, *option, status=ExitCode.USAGE)
    assert not Path("coda-train").exists()


@pytest.mark.parametrize("options", [["--temperature", "0"], ["--temperature", "inf"], ["--lr", "inf"]])
def test_numbers_that_train_nothing_are_usage_errors(pictures: Path, options: list[str]) -> None:
    assert "expected a " in coda_train(pictures, *options, status=ExitCode.USAGE).error


def test_folders_that_are_no_data_set_fail_with_a_line_that_says_why(pictures: Path) -> None:
    Path("empty").mkdir()
    assert "holds 0 folders" in coda_train("empty", status=ExitCode.USAGE).error
    folders(Path("one"), 3, classes=("red",))
    assert "holds 1 folders" in coda_train("one", status=ExitCode.USAGE).error
    assert "no such folder" in coda_train("missing", status=ExitCode.USAGE).error
    (pictures / "red" / "05.png").write_bytes(b"broken")
    assert str(Path("red/05.png")) in coda_train(pictures, status=ExitCode.FAILED).error


def test_a_network_that_was_trained_explains_pictures(pictures: Path) -> None:
    coda_train(pictures, "-o", "run", "-q")
    picture = pictures / "red" / "03.png"
    explained = program.run("explain", picture, "-m", "run/data.safetensors", "--json", "--write", "none", "-q")
    (part,) = explained.record["explained"]
    assert part["name"] in CLASSES
    assert part["exact"] is True


def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Recipe] = []
    monkeypatch.setitem(RECIPES, "tiny", replace(TINY, precision="bfloat16"))
    monkeypatch.setattr("coda_cli.machine.devices.pick", lambda *_: torch.device("cuda"))
    monkeypatch.setattr("coda_cli.machine.devices.emulated", lambda precision: precision == "bfloat16")
    monkeypatch.setattr("coda_cli.cli.train._run", lambda recipe, *_, **__: trained.append(recipe))
    result = coda_train(pictures)
    assert [recipe.precision for recipe in trained] == ["float32"]
    assert "this GPU only emulates bfloat16, slowly; training in float32" in result.err


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_nothing_is_compiled_where_a_compiler_that_is_found_may_not_be_torchs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert not loop.can_compile(CPU)  # without Python's headers
    (tmp_path / "Python.h").touch()
    assert loop.can_compile(CPU)
    assert loop.can_compile(torch.device("cuda"))
    monkeypatch.setattr("sys.platform", platform)
    assert not loop.can_compile(CPU)
    assert not loop.can_compile(torch.device("cuda"))
