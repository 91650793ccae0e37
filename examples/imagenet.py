"""Measures the network imagenet beside the ordinary network it stands on, and prints what its card says.

python examples/imagenet.py DATA out/                             every table: about a quarter of an hour on two cores
python examples/imagenet.py DATA out/ one-of-each lorikeets
python examples/imagenet.py DATA out/ -m run/photos.safetensors   another network of the same 1,000 classes
python examples/imagenet.py DATA out/ one-of-each -m half.safetensors --write imagenet.safetensors   with its accuracy

DATA holds the archives of photographs that the tables name, such as imagenet-one-each-160.tar; they are unpacked into
out/. The ordinary network is EfficientNet-Lite0, from the extra "lite". Both see the same pixels: shorter side and
centre of the side that the network's file names, in float32. None of these pictures has been trained on by either:
Imagenette's are those of ILSVRC's validation set, Caltech's every tenth of all in the order of their names.
"""

from __future__ import annotations

import argparse
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

import coda_cli
from coda_cli.checkpoints.manifest import Accuracy
from coda_cli.core.decompose import decompose
from coda_cli.core.depth import shares_by_layer
from coda_cli.core.networks import build, classify, encode
from coda_cli.media.stills import reading
from coda_cli.media.view import fit
from coda_cli.study.accuracy import performance
from coda_cli.study.by_name import method_of
from coda_cli.study.localisation import Localisation, choose_grids, score_grids
from coda_cli.training.origins import BELOW, find_origin

# Classes of Caltech-101 and of the birds that are classes of ImageNet, by ImageNet's names.
CALTECH = {
    "accordion": "accordion", "airplanes": "airliner", "ant": "ant", "barrel": "barrel", "beaver": "beaver",
    "binocular": "binoculars", "camera": "reflex camera", "cannon": "cannon", "cellphone": "cellular telephone",
    "cougar_face": "cougar", "cougar_body": "cougar", "crayfish": "crayfish", "dalmatian": "dalmatian",
    "dragonfly": "dragonfly", "electric_guitar": "electric guitar", "flamingo": "flamingo",
    "flamingo_head": "flamingo", "grand_piano": "grand piano", "laptop": "laptop", "Leopards": "leopard",
    "llama": "llama", "nautilus": "chambered nautilus", "panda": "giant panda", "pizza": "pizza",
    "platypus": "platypus", "revolver": "revolver", "rooster": "cock", "saxophone": "sax", "schooner": "schooner",
    "scorpion": "scorpion", "soccer_ball": "soccer ball", "starfish": "starfish", "strawberry": "strawberry",
    "tick": "tick", "trilobite": "trilobite", "umbrella": "umbrella",
}  # fmt: skip
BIRDS = {
    "ALBATROSS": "albatross", "AMERICAN BITTERN": "bittern", "AMERICAN COOT": "American coot",
    "AMERICAN DIPPER": "water ouzel", "AMERICAN FLAMINGO": "flamingo", "AMERICAN ROBIN": "robin",
    "BALD EAGLE": "bald eagle", "BLACK SWAN": "black swan", "BLACK-CAPPED CHICKADEE": "chickadee",
    "DARK EYED JUNCO": "junco", "DUNLIN": "red-backed sandpiper", "EURASIAN MAGPIE": "magpie",
    "EUROPEAN GOLDFINCH": "goldfinch", "GREAT GRAY OWL": "great grey owl", "GREAT JACAMAR": "jacamar",
    "GREATER PRAIRIE CHICKEN": "prairie chicken", "HOUSE FINCH": "house finch", "INDIGO BUNTING": "indigo bunting",
    "LIMPKIN": "limpkin", "OSTRICH": "ostrich", "OYSTER CATCHER": "oystercatcher", "PEACOCK": "peacock",
    "RAINBOW LORIKEET": "lorikeet", "RED WISKERED BULBUL": "bulbul", "ROSEATE SPOONBILL": "spoonbill",
    "RUBY THROATED HUMMINGBIRD": "hummingbird", "SCARLET MACAW": "macaw", "HYACINTH MACAW": "macaw",
    "MILITARY MACAW": "macaw", "SHORT BILLED DOWITCHER": "dowitcher", "TOUCHAN": "toucan",
    "WILLOW PTARMIGAN": "ptarmigan",
}  # fmt: skip
# Groups of classes in the order of ImageNet's, by the first and the last class of each run.
GROUPS = {
    "birds": [("cock", "great grey owl"), ("black grouse", "black swan"), ("white stork", "albatross")],
    "dogs": [("Chihuahua", "Mexican hairless")],
    "other animals": [("tench", "stingray"), ("European fire salamander", "centipede"), ("tusker", "isopod"),
                      ("grey whale", "sea lion"), ("timber wolf", "puffer")],
    "food": [("guacamole", "custard apple"), ("carbonara", "eggnog")],
}  # fmt: skip
VEHICLES = (
    "aircraft carrier", "airliner", "airship", "ambulance", "amphibian", "beach wagon", "bicycle-built-for-two",
    "bobsled", "bullet train", "cab", "canoe", "catamaran", "container ship", "convertible", "dogsled",
    "electric locomotive", "fireboat", "fire engine", "forklift", "freight car", "garbage truck", "go-kart", "golfcart",
    "gondola", "half track", "harvester", "horse cart", "jeep", "jinrikisha", "lifeboat", "limousine", "liner",
    "minibus", "minivan", "mobile home", "Model T", "moped", "motor scooter", "mountain bike", "moving van", "oxcart",
    "passenger car", "pickup", "police van", "racer", "recreational vehicle", "schooner", "school bus", "snowmobile",
    "snowplow", "space shuttle", "speedboat", "sports car", "steam locomotive", "streetcar", "submarine", "tank",
    "thresher", "tow truck", "tractor", "trailer truck", "tricycle", "trimaran", "trolleybus", "unicycle", "warplane",
    "yawl",
)  # fmt: skip
HOUSEHOLD = (
    "bath towel", "bathtub", "bookcase", "broom", "bucket", "candle", "can opener", "coffee mug", "coffeepot",
    "corkscrew", "cradle", "crib", "Crock Pot", "desk", "dining table", "dishrag", "dishwasher", "doormat", "Dutch oven",
    "electric fan", "espresso maker", "frying pan", "goblet", "hand blower", "iron", "ladle", "lampshade",
    "measuring cup", "medicine chest", "microwave", "mixing bowl", "paper towel", "pillow", "pitcher", "plate rack",
    "plunger", "pot", "quilt", "refrigerator", "rocking chair", "saltshaker", "shower curtain", "soap dispenser",
    "soup bowl", "spatula", "stove", "strainer", "studio couch", "table lamp", "teapot", "television", "toaster",
    "toilet seat", "tray", "vacuum", "vase", "waffle iron", "wall clock", "wardrobe", "washbasin", "washer", "wok",
    "wooden spoon",
)  # fmt: skip


@dataclass(frozen=True)
class Pictures:
    """Some photographs as the network sees them: uint8 [N, 3, side, side], and the index of each one's class."""

    images: Tensor
    labels: Tensor


class Bench:
    """The two networks, and the photographs, each set read once."""

    def __init__(self, name: str, data: Path, output: Path) -> None:
        self.net = coda_cli.load(name)
        self.name, self.data, self.output = name, data, output
        self.side = self.net.checkpoint.preprocessing.crop
        self.classes = list(self.net.checkpoint.classes)

    @cached_property
    def ordinary(self) -> nn.Module:
        """EfficientNet-Lite0 as it was published, explained at its last map: class activation maps."""
        origin = find_origin("efficientnet-lite0")
        model = build("efficientnet_lite", {"name": "efficientnet-lite0", "cut": "relu1"})
        weights = {key.removeprefix(BELOW): value for key, value in origin.weights.items()}
        assert origin.classifier
        weights |= {"_fc.weight": origin.classifier[0], "_fc.bias": origin.classifier[1]}
        model.backbone.load_state_dict(weights)
        return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def files(self, archive: str) -> list[Path]:
        """The photographs of an archive, in the order of their names."""
        folder = self.output / "pictures" / archive.removesuffix(".tar")
        if not folder.exists():
            with tarfile.open(self.data / archive) as tar:
                tar.extractall(folder, filter="data")
        return sorted(folder.rglob("*.webp"))

    def read(self, labelled: Sequence[tuple[Path, int]], side: int | None = None) -> Pictures:
        side, images = side or self.side, []
        for path, _ in labelled:
            with reading(path) as picture:
                images.append(fit(picture.rgb, side, side).rgb)
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        return Pictures(pixels, torch.tensor([label for _, label in labelled]))

    @cached_property
    def one_of_each(self) -> Pictures:
        wnids = list(self.net.checkpoint.wnids or ())
        return self.read(
            [(path, wnids.index(path.name.split("_")[0])) for path in self.files("imagenet-one-each-160.tar")]
        )

    @cached_property
    def imagenette(self) -> Pictures:
        files = self.files("imagenette160-val.tar") + self.files("imagenette160-train.tar")
        held_out = [path for path in files if path.name.startswith("ILSVRC2012_val")]
        return self.read([(path, self.classes.index(path.parent.name)) for path in held_out])

    @cached_property
    def caltech(self) -> Pictures:
        return self.read(self.named(self.files("caltech101-128.tar")[::10], CALTECH))

    @cached_property
    def birds(self) -> Pictures:
        return self.read(self.named(self.files("birds525-val-144.tar"), BIRDS))

    def named(self, files: Sequence[Path], names: dict[str, str]) -> list[tuple[Path, int]]:
        """Those of the files whose folder is a class of ImageNet."""
        return [(path, self.classes.index(names[path.parent.name])) for path in files if path.parent.name in names]

    @cached_property
    def both(self) -> dict[str, nn.Module]:
        return {self.name: self.net.model, "EfficientNet-Lite0": self.ordinary}


def share(values: Tensor) -> str:
    return f"{float(values.float().mean()):.1%}"


def accuracy(bench: Bench, title: str, pictures: Pictures) -> dict[str, Tensor]:
    """Prints top-1 and top-5 of both networks among the 1,000 classes; gives their logits."""
    print(f"\n{title}: {len(pictures.labels)} photographs, {bench.side} px\n\n| | top-1 | top-5 |\n|---|---|---|")
    found = {}
    for name, model in bench.both.items():
        found[name] = classify(model, pictures.images)
        right = found[name].topk(5, 1).indices == pictures.labels[:, None]
        print(f"| {name} | {share(right[:, 0])} | {share(right.any(1))} |", flush=True)
    return found


def lorikeets(bench: Bench) -> None:
    files = [path for path in bench.files("birds525-val-144.tar") if path.parent.name == "RAINBOW LORIKEET"]
    print("\n| photograph | predicted | p | next |\n|---|---|---|---|")
    pictures = bench.read([(path, bench.classes.index("lorikeet")) for path in files])
    for path, logits in zip(files, classify(bench.net.model, pictures.images), strict=True):
        first, second = logits.topk(2).indices.tolist()
        print(
            f"| {path.name} | {bench.classes[first]} | {float(logits[first].sigmoid()):.3f} | {bench.classes[second]} |"
        )


def groups(classes: list[str]) -> dict[str, list[int]]:
    """The indices of the classes of each group; every class is in one."""
    index = classes.index
    found = {name: [c for a, b in runs for c in range(index(a), index(b) + 1)] for name, runs in GROUPS.items()}
    found |= {"vehicles": [index(name) for name in VEHICLES], "household": [index(name) for name in HOUSEHOLD]}
    rest = set(range(len(classes))) - {c for some in found.values() for c in some}
    return {**found, "all others": sorted(rest)}


def one_of_each(bench: Bench) -> None:
    found = accuracy(bench, "One of each class", bench.one_of_each)
    print("\n| group | classes | " + " | ".join(found) + " |\n|---|---|---|---|")
    labels = bench.one_of_each.labels
    for name, classes in groups(bench.classes).items():
        members = torch.isin(labels, torch.tensor(classes))
        cells = [share((logits.argmax(1) == labels)[members]) for logits in found.values()]
        print(f"| {name} | {len(classes)} | {' | '.join(cells)} |")


def imagenette(bench: Bench) -> None:
    accuracy(bench, "Imagenette, pictures of ILSVRC's validation set", bench.imagenette)
    ten = coda_cli.load("imagenette")
    names = list(ten.checkpoint.classes)
    files = [path for path in bench.files("imagenette160-val.tar") if path.name.startswith("ILSVRC2012_val")]
    labelled = [(path, names.index(path.parent.name)) for path in files]
    seen, small = bench.read(labelled), bench.read(labelled, ten.checkpoint.preprocessing.crop)
    of_ten = [bench.classes.index(name) for name in names]
    print(f"\nThe {len(files)} of them that the network imagenette was not trained on, among its ten classes\n")
    print("| | right |\n|---|---|")
    first = classify(bench.net.model, seen.images)[:, of_ten].argmax(1)
    second = classify(ten.model, small.images).argmax(1)
    print(f"| {bench.name} | {share(first == seen.labels)} |\n| imagenette | {share(second == seen.labels)} |")


def caltech(bench: Bench) -> None:
    accuracy(bench, "Caltech-101, every tenth, classes of ImageNet", bench.caltech)


def birds(bench: Bench) -> None:
    accuracy(bench, "Birds that are classes of ImageNet", bench.birds)


def localisation(bench: Bench) -> None:
    """Both networks on the same grids, chosen by the first: its confident pictures."""
    print("\n| pictures, grid | maps of | scores | localisation |\n|---|---|---|---|")
    for name, pictures in (("Imagenette", bench.imagenette), ("Caltech-101", bench.caltech)):
        logits = classify(bench.net.model, pictures.images)
        for side, count in ((2, 60), (3, 30)):
            grids = choose_grids(logits, pictures.labels, side=side, count=count)
            ways = {
                f"{bench.name}, exact": (bench.net.model, "ours"),
                "EfficientNet-Lite0, class activation maps": (bench.ordinary, "ours"),
                "EfficientNet-Lite0, Grad-CAM": (bench.ordinary, "grad-cam"),
                "EfficientNet-Lite0, input x gradient": (bench.ordinary, "input-x-gradient"),
            }
            for way, (model, method) in ways.items():
                scores = list(score_grids(model, pictures.images, pictures.labels, grids, method=method_of(method)))
                found = Localisation(np.array(scores))
                low, high = found.interval()
                where = f"{name}, {len(grids)} of {side} x {side}"
                print(f"| {where} | {way} | {len(grids) * side * side} | {found.mean:.3f} ({low:.3f} to {high:.3f}) |",
                      flush=True)  # fmt: skip


def calibration(bench: Bench) -> None:
    logits, labels = classify(bench.net.model, bench.one_of_each.images).double(), bench.one_of_each.labels
    found = performance(logits.numpy(), labels.numpy())
    print(f"\np on one of each class: right {found.value:.1%}, mean p {found.mean_probability:.1%}, expected calibration "
          f"error {found.calibration_error:.1%}")  # fmt: skip
    p, right = logits.sigmoid().max(1).values, logits.argmax(1) == labels
    print("\n| p | photographs | right |\n|---|---|---|")
    for low in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9):
        high = {0.0: 0.1, 0.1: 0.25, 0.25: 0.5, 0.5: 0.75, 0.75: 0.9, 0.9: 1.01}[low]
        members = (p >= low) & (p < high)
        if bool(members.any()):
            print(f"| {low:g} to {min(high, 1):g} | {int(members.sum())} | {share(right[members])} |")


def exactness(bench: Bench) -> None:
    """The largest residual as a share of the sum of magnitudes, at the cut and at every layer above it."""
    x = encode(bench.one_of_each.images[::40])
    target = classify(bench.net.model, bench.one_of_each.images[::40]).argmax(1)
    print("\n| precision | where | largest residual / sum of magnitudes |\n|---|---|---|")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model = coda_cli.load(bench.name, dtype=torch.float64 if dtype == torch.float64 else torch.float32).model
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            d = decompose(model, x.to(next(model.parameters()).dtype), target.tolist())
        size = d.contributions.double().abs().flatten(2).sum(2)
        print(f"| {str(dtype).removeprefix('torch.')} | the cut | {float((d.residual.abs() / size).max()):.1e} |")
        if dtype == torch.float64:
            one_hot = torch.nn.functional.one_hot(target[0], len(bench.classes)).double()
            for layer in shares_by_layer(model, x[:1].double(), one_hot):
                print(f"| float64 | {layer.name}{', an approximation' * layer.approximate} | "
                      f"{abs(layer.residual) / layer.magnitude:.1e} |")  # fmt: skip


def unknown(bench: Bench) -> None:
    """What it says about what it has no class for."""
    side = 480
    drawn = np.full((side, side, 3), 255, np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for y, x, r in ((240, 240, 180), (190, 180, 22), (190, 300, 22)):
        ring = np.abs(np.hypot(rows - y, columns - x) - r) < 5
        drawn[ring] = 0
    mouth = (np.abs(np.hypot(rows - 230, columns - 240) - 110) < 5) & (rows > 280)
    drawn[mouth] = 0
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stripes = np.repeat(((rows // 24) % 2 * 255)[..., None], 3, 2).astype(np.uint8)
    page = Image.new("RGB", (side, side), "white")
    for line in range(12):
        ImageDraw.Draw(page).text((30, 30 + 35 * line), "A logit is a sum of contributions.", "black", font_size=24)
    made = {
        "a face, drawn": drawn,
        "text": np.asarray(page),
        "noise": noise,
        "stripes": stripes,
        "grey": np.full_like(drawn, 128),
    }
    print("\n| picture | predicted | p | next | p |\n|---|---|---|---|---|")
    for name, rgb in made.items():
        seen = torch.from_numpy(fit(rgb, bench.side, bench.side).rgb.copy()).permute(2, 0, 1)[None]
        logits = classify(bench.net.model, seen)[0]
        (p, q), (a, b) = (t.tolist() for t in logits.sigmoid().topk(2))
        print(f"| {name} | {bench.classes[a]} | {p:.3f} | {bench.classes[b]} | {q:.3f} |")


def write(bench: Bench, path: Path) -> None:
    """Writes the network with the accuracy that one of each class gave, and a constant that makes its p true.

    The ordinary network was trained to be less sure than it is right, and the layer learned that from it. One number,
    added to every logit, mends most of it: with it the mean p on Imagenette's held-out pictures is how often the
    network is right about them. No prediction changes, and no map.
    """
    checkpoint, model = bench.net.checkpoint, bench.net.model
    logits = classify(model, bench.imagenette.images).double()
    right = float((logits.argmax(1) == bench.imagenette.labels).double().mean())
    low, high = -8.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        below = float((logits.max(1).values + middle).sigmoid().mean()) < right
        low, high = (middle, high) if below else (low, middle)
    found = classify(model, bench.one_of_each.images).argmax(1) == bench.one_of_each.labels
    measured = Accuracy(value=float(found.double().mean()), pictures=len(found), split="one photograph of each class")
    arguments = {**checkpoint.arguments, "bias": round(checkpoint.arguments["bias"] + low, 3)}
    described = checkpoint.model_copy(update={"name": path.stem, "accuracy": measured, "arguments": arguments})
    coda_cli.save(model, described, path, half=True)
    print(f"\nthe constant of every logit is {arguments['bias']}, raised by {low:.3f}")


TABLES: dict[str, Callable[[Bench], None]] = {
    "lorikeets": lorikeets,
    "one-of-each": one_of_each,
    "imagenette": imagenette,
    "caltech": caltech,
    "birds": birds,
    "localisation": localisation,
    "calibration": calibration,
    "exactness": exactness,
    "unknown": unknown,
}


def main() -> None:
    """Reads the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], default=[], metavar="|".join(TABLES))
    parser.add_argument("-m", "--model", default="imagenet")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="the same network in float16, with what it was right of"
    )
    options = parser.parse_intermixed_args()
    bench = Bench(options.model, options.data, options.output)
    for name in options.tables or TABLES:
        start = time.monotonic()
        TABLES[name](bench)
        print(f"\n{name}: {time.monotonic() - start:.0f} s", flush=True)
    if options.write:
        write(bench, options.write)


if __name__ == "__main__":
    main()
