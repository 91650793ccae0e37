"""The files that the documents name, made of the examples: what a reader would have.

A network that somebody trained has random weights here; a clip is the example's beginning.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import squares
import torch
import torchvision
from films import film
from foreign import authors_state
from PIL import Image
from test_bcosified_files import CLIP, RESNET, authors_names, lightning, network

from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.video.reading import read_frames

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PICTURES = EXAMPLES / "pictures"
CLIP_FRAMES = 6  # of the 96 that the example has: the same commands on a shorter clip
CLASSES = ("ant", "bee", "cat", "dog")


def prepare(folder: Path, text: str) -> None:
    """Make in a folder the files that the commands of a document name and do not make themselves, and examples/."""
    _examples(folder / "examples")
    shell = "\n".join(re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE))
    for name, make in MAKERS.items():
        named = re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w-])", shell)
        if named and f"-o {name}" not in shell:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            make(folder / name)
    if "photos/" in shell:
        _photos(folder / "photos", shell)
    if "labels.csv" in shell:
        (table,) = re.findall(r"^```csv\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        (folder / "labels.csv").write_text(table, encoding="utf-8")


def _examples(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder.parent / "weights").symlink_to(EXAMPLES.parent / "weights")  # decompose_by_hand.py reads them itself
    for path in EXAMPLES.iterdir():
        if path.name not in ("clip.mp4", "__pycache__"):
            (folder / path.name).symlink_to(path)
    _clip(folder / "clip.mp4", None)


def _clip(path: Path, rate: Fraction | None = Fraction(1, 2)) -> None:
    """The example's beginning, at its own rate or so slow that it is long."""
    frames = [frame.rgb for frame in read_frames(EXAMPLES / "clip.mp4", max_frames=CLIP_FRAMES)]
    film(path, frames, rate=rate) if rate else film(path, frames)


def _photos(folder: Path, shell: str) -> None:
    """A folder of pictures, or of a folder for each class where a command asks for these."""
    if "evaluate localisation photos/" in shell:
        for path in sorted(PICTURES.glob("*.png")):
            for n in range(2):
                _small(path, folder / "test" / path.stem.replace("-", " ") / f"{n}.png", 96)
    elif re.search(r"train photos/|--classes photos/", shell):
        squares.folders(folder, 20, classes=CLASSES)
    elif "photos/ -r" in shell:
        for path in sorted(PICTURES.glob("*.png"))[:3]:
            _small(path, folder / path.stem / "a.png", 480)
            if re.search(r"explain photos/ (?!-r)", shell):  # these alone, then
                _small(path, folder / path.name, 480)
    else:
        for path in sorted(PICTURES.glob("*.png"))[:3]:
            _small(path, folder / path.name, 480)


def _small(path: Path, other: Path, width: int) -> None:
    other.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(path) as picture:
        picture.resize((width, width * picture.height // picture.width)).save(other)


def _photo(path: Path) -> None:
    with Image.open(PICTURES / "church.png") as picture:
        picture.convert("RGB").save(path, quality=95)


def _scan(path: Path) -> None:
    """A TIFF of five pages."""
    pages = [Image.open(other).convert("RGB").resize((96, 72)) for other in sorted(PICTURES.glob("*.png"))[:5]]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def _scans(path: Path) -> None:
    path.mkdir()
    _scan(path / "scan.tif")


def _parts(path: Path) -> None:
    """A mask of two parts, 1 and 2, for the photo."""
    values = np.zeros((480, 480), np.uint8)
    values[40:160, 200:280], values[160:300, 150:330] = 1, 2
    Image.fromarray(values).save(path)


def _instances(path: Path) -> None:
    """Boxes of a dog and a cat in each photo, as COCO."""
    names = [other.name for other in sorted(PICTURES.glob("*.png"))[:3]]
    images = [{"id": n, "file_name": name, "width": 480, "height": 480} for n, name in enumerate(names)]
    boxes = [
        {"id": 2 * n + c, "image_id": n, "category_id": c, "bbox": [40 + 200 * c, 100, 160, 200], "iscrowd": 0}
        for n in range(len(names))
        for c in (0, 1)
    ]
    categories = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(PICTURES / "church.png", "church.png")


def _shards(path: Path) -> None:
    """A hundred archives with a picture each."""
    stream = io.BytesIO()
    with Image.open(PICTURES / "church.png") as picture:
        picture.resize((64, 48)).save(stream, "png")
    for n in range(100):
        with tarfile.open(path.parent / f"shards-{n:03}.tar", "w") as archive:
            entry = tarfile.TarInfo(f"{n:06}.png")
            entry.size = len(stream.getvalue())
            archive.addfile(entry, io.BytesIO(stream.getvalue()))


def _tables(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = (PICTURES / "church.png").read_bytes()
    for n in range(13):
        row = [{"bytes": data, "path": f"{n:02}/church.png"}]
        pq.write_table(pa.table({"image": row}), path.parent / f"train-{n:02}.parquet")


def _names(path: Path) -> None:
    """A line for each of a thousand parts."""
    path.write_text("examples/pictures/church.png\n" * 1000)


def _records(path: Path) -> None:
    shutil.copytree(EXAMPLES / "expected", path)


def _resnet(path: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=len(CLASSES)).state_dict(), path)


def _two_layers(path: Path) -> None:
    """The network of the function nets:make."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    model.fc = torch.nn.Sequential(torch.nn.Linear(512, 64), torch.nn.ReLU(), torch.nn.Linear(64, len(CLASSES)))
    torch.save(model.state_dict(), path)


def _resnet50(path: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), path)


def _bcosified(path: Path) -> None:
    torch.save(lightning(authors_names(network(RESNET))), path)


def _tower(path: Path) -> None:
    torch.save(lightning(authors_names(network(CLIP))), path)


def _texts(path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((2, 1024)).astype(np.float32)
    np.savez(path, names=["a photo of a cat", "a photo of a dog"], vectors=vectors)


def _published(path: Path) -> None:
    torch.save(authors_state(PUBLISHED["9L-S-CoDA-SQ-1000"]), path)


def _flat(path: Path) -> None:
    path.mkdir()
    for mask in (EXAMPLES / "masks").iterdir():
        shutil.copy(mask, path)


MAKERS: dict[str, Callable[[Path], None]] = {
    "photo.jpg": _photo,
    "voc.jpg": _photo,
    "parts.png": _parts,
    "masks/": _flat,
    "instances.json": _instances,
    "clip.mp4": _clip,
    "a.mp4": _clip,
    "b.mp4": _clip,
    "scans/": _scans,
    "scan.tif": _scan,
    "photos.zip": _archive,
    "shards-{000..099}.tar": _shards,
    "train-{00..12}.parquet": _tables,
    "names.txt": _names,
    "out/": _records,
    "first/": _records,
    "second/": _records,
    "net.pth": _resnet,
    "two-layers.pth": _two_layers,
    "resnet50-11ad3fa6.pth": _resnet50,
    "last.ckpt": _bcosified,
    "clip.ckpt": _tower,
    "vectors.npz": _texts,
    "model_epoch_200.pkl": _published,
    "runs/CIFAR10/final/9L-S-CoDA-SQ-1000/model_epoch_200.pkl": _published,
}
