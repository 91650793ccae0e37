"""The published B-cos networks, and the ordinary ones beside them, as arguments of builders. Does not import torch.

Sources: B-cos (version 1), experiments/{CIFAR10,Imagenet}/bcos/experiment_parameters.py and the links of its README;
B-cos-v2 (version 2), bcos/models and its release v0.0.1-weights; B-cosification (called version 3 here),
experiments/ImageNet/{,vit_,clip_}bcosification. Accuracies are the authors', of ImageNet's 50,000 validation pictures.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from coda_cli.vocabulary import Interpolation

CIFAR_BIAS, V1_BIAS, V2_BIAS = math.log(0.1 / 0.9), math.log(0.01 / 0.99), -math.log(999)

LICENCES = {
    1: "weights published by the authors of B-cos networks (github.com/moboehle/B-cos) without a licence of their "
    "own; their repository allows non-commercial research, education and art only",
    2: "weights published with github.com/B-cos/B-cos-v2 under the Apache 2.0 licence; its authors add that they "
    "derive from ImageNet, whose terms are non-commercial",
    3: "weights published with github.com/shrebox/B-cosification under the Apache 2.0 licence; they start from weights "
    "of others (torchvision, B-cos-v2, OpenAI's CLIP), which have terms of their own",
}
# Where the files are, by version; of version 3 the page, since the names of its files are not known.
_ADDRESSES = {
    1: "https://nextcloud.mpi-klsb.mpg.de/index.php/s/{}/download",
    2: "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights/{}",
    3: "https://github.com/shrebox/B-cosification/releases/tag/{}",
}


@dataclass(frozen=True)
class PublishedBcos:
    """What a published file does not say about itself, and where it is.

    Attributes:
        version: of the B-cos papers and repositories, 1 or 2; 3 are the B-cosified networks.
        architecture: a builder of ``core.networks``.
        arguments: of the builder.
        link: of version 1 the code of its download link; of version 2 the file's name, with ten digits of its sha256;
            of version 3 the release's tag, whose file names are not known.
        resize: shorter side in pixels before the crop.
        crop: side in pixels of what the network sees.
        top1: share of correctly classified pictures in [0, 1], where the authors state it.
        interpolation: how the picture is resized.
        experiment: of version 3, a pattern of the authors' names of its experiment.
    """

    version: int
    architecture: str
    arguments: dict[str, Any]
    link: str
    resize: int
    crop: int
    top1: float | None = None
    interpolation: Interpolation = "bilinear"
    experiment: str = ""

    @property
    def parameters(self) -> int:
        """The number of the network's parameters; for Inception v3 without the auxiliary head."""
        name = next(name for name, entry in BCOS.items() if entry is self)
        return _SIZES[(self.version == 3 and twin(name)) or name.partition("-B")[0]]

    @property
    def file(self) -> str:
        """The file's name on this machine."""
        return {1: "state_dict.pkl", 2: self.link, 3: "last.ckpt"}[self.version]

    @property
    def url(self) -> str | None:
        """The file's address, where it is known."""
        return None if self.version == 3 else _ADDRESSES[self.version].format(self.link)

    @property
    def page(self) -> str | None:
        """The page from which a person can download it, where the file's address is not known."""
        return _ADDRESSES[3].format(self.link) if self.version == 3 else None

    @property
    def sha256_prefix(self) -> str:
        """The first ten hex digits of the file's sha256, where its name has them."""
        return self.link.removesuffix(".pth").rpartition("-")[2] if self.version == 2 else ""


def _chain(b: float, temperature: float, link: str) -> PublishedBcos:
    arguments = {
        "channels": [6, 64, 64, 128, 128, 128, 256, 256, 256, 10],
        "kernels": [3] * 8 + [1],
        "strides": [1, 1, 2, 1, 1, 2, 1, 1, 1],
        "b": float(b),
        "max_out": 2,
        "scale": 10 ** (-2 + 1.5 * (2.5 - b)),
        "temperature": float(temperature),
        "bias": CIFAR_BIAS,
    }
    return PublishedBcos(1, "bcos_chain", arguments, link, 32, 32)


def _v1(architecture: str, link: str, temperature: float, scale_factor: float, **arguments: Any) -> PublishedBcos:
    size = (320, 299) if architecture == "bcos_inception" else (256, 224)
    norm = {} if architecture == "bcos_inception" else {"norm": "none"}
    shared = {"classes": 1000, "bias": V1_BIAS, "max_out": 2, "scale_factor": float(scale_factor), **norm}
    return PublishedBcos(1, architecture, {**shared, "temperature": temperature, **arguments}, link, *size)


def _v2(architecture: str, file: str, top1: float, resize: int = 256, **arguments: Any) -> PublishedBcos:
    shared = {"classes": 1000, "bias": V2_BIAS, "temperature": 1.0}
    return PublishedBcos(2, architecture, {**shared, **arguments}, f"{file}.pth", resize, 224, top1 / 100)


_CNNS = "v0.0.1-checkpoints"  # the release of all B-cosified networks but CLIP
LONG = 232  # what those that were trained longer, and the ConvNeXts, are resized to
_RESNETS = {
    "18": ([2, 2, 2, 2], False), "34": ([3, 4, 6, 3], False), "50": ([3, 4, 6, 3], True), "101": ([3, 4, 23, 3], True),
    "152": ([3, 8, 36, 3], True),
}  # fmt: skip
_DENSENETS = {
    "121": ([6, 12, 24, 16], 32, 64), "161": ([6, 12, 36, 24], 48, 96), "169": ([6, 12, 32, 32], 32, 64),
    "201": ([6, 12, 48, 32], 32, 64),
}  # fmt: skip
_CONVNEXTS = {"tiny": ([96, 192, 384, 768], [3, 3, 9, 3]), "base": ([128, 256, 512, 1024], [3, 3, 27, 3])}
_VITS = {  # width, depth of SimpleViT (ViT-C has one layer less), channels of ViT-C's stem
    "ti": (192, 12, [24, 48, 96, 192]), "s": (384, 12, [48, 96, 192, 384]),
    "b": (768, 12, [64, 128, 128, 256, 256, 512]), "l": (1024, 14, [64, 128, 128, 256, 256, 512]),
}  # fmt: skip


def _resnet(depth: str, file: str, top1: float, resize: int = 256, groups: int = 1) -> PublishedBcos:
    blocks, bottleneck = _RESNETS[depth]
    return _v2("bcos_resnet", file, top1, resize, blocks=blocks, bottleneck=bottleneck, groups=groups)


def _densenet(depth: str, file: str, top1: float, resize: int = 256) -> PublishedBcos:
    blocks, growth, first = _DENSENETS[depth]
    return _v2("bcos_densenet", file, top1, resize, blocks=blocks, growth=growth, first=first)


def _convnext(size: str, norm: str, file: str, top1: float) -> PublishedBcos:
    dims, blocks = _CONVNEXTS[size]
    return _v2("bcos_convnext", file, top1, LONG, dims=dims, blocks=blocks, norm=norm)


def _bcosified(name: str, experiment: str) -> PublishedBcos:
    arguments = {"name": name, "classes": 1000, "bias": V2_BIAS, "b": 2.0}
    return PublishedBcos(3, "bcosified", arguments, _CNNS, 256, 224, experiment=experiment)


def _bcosified_vit(size: str, kind: str) -> PublishedBcos:
    arguments = {**_vit(size, f"bcos_{kind}", 0).arguments, "b": 2.0}
    del arguments["temperature"]
    # Other options of the same script leave GELU out, or take the mean first: those are other networks.
    patch = "patch16_224" if kind == "simple_vit" else "patch1_14"
    experiment = rf"bcosifyv2_bcos_{kind}_{size}_{patch}(?:_[\d.e-]+)?(?:_lrWarmup)?_gapReorder"
    return PublishedBcos(3, "bcosified_vit", arguments, _CNNS, 256, 224, experiment=experiment)


def _vit(size: str, file: str, top1: float) -> PublishedBcos:
    dim, depth, stem = _VITS[size]
    simple = "simple" in file
    shape = {"depth": depth, "patch": 16} if simple else {"depth": depth - 1, "stem": stem}
    if file.startswith("standard"):
        arguments = {"classes": 1000, "dim": dim, **shape}
        return PublishedBcos(2, "standard_vit", arguments, f"{file}.pth", 256, 224, top1 / 100)
    return _v2("bcos_vit", file, top1, dim=dim, **shape)


BCOS: dict[str, PublishedBcos] = {
    "9L-M2-B1": _chain(1, 1e-3, "q8cRRojXZ2WNWbS"),
    "9L-M2-B1.25": _chain(1.25, 1e-3, "oX6H7jQiSN2dfWJ"),
    "9L-M2-B1.5": _chain(1.5, 1e-2, "3LxnBCarS8Lpq5b"),
    "9L-M2-B1.75": _chain(1.75, 10, "XLwEnaKr9bYQJaN"),
    "9L-M2-B2": _chain(2, 100, "mksX2CJMCDQbMYb"),
    "9L-M2-B2.25": _chain(2.25, 100, "qFsqLPdHLQyNHwH"),
    "9L-M2-B2.5": _chain(2.5, 1000, "XwEAFrPSEYJ2C79"),
    **{
        f"bcos-v1-densenet_121{suffix}": _v1(
            "bcos_densenet", link, 1e-3, 100, blocks=_DENSENETS["121"][0], growth=32, first=64
        )
        for suffix, link in (("", "LW2HsNDzAzaaaDH"), ("_cossched", "G8kdm73qWn4L8Lg"))
    },
    "bcos-v1-resnet_34": _v1("bcos_resnet", "mYe6TggQsDymZbk", 10.0, 100, blocks=_RESNETS["34"][0], bottleneck=False),
    "bcos-v1-vgg_11": _v1("bcos_vgg", "kEHgFSSKMEdeA5N", 0.1, 1000),
    "bcos-v1-inception_v3": _v1("bcos_inception", "QSEo6QSNgPZqNfi", 1.0, 200),
    "bcos-resnet18": _resnet("18", "resnet_18-68b4160fff", 68.736),
    "bcos-resnet34": _resnet("34", "resnet_34-a63425a03e", 72.284),
    "bcos-resnet50": _resnet("50", "resnet_50-ead259efe4", 75.882),
    "bcos-resnet101": _resnet("101", "resnet_101-84c3658278", 76.532),
    "bcos-resnet152": _resnet("152", "resnet_152-42051a77c1", 76.484),
    "bcos-resnext50_32x4d": _resnet("50", "resnext_50_32x4d-57af241ab9", 75.820, groups=32),
    "bcos-resnet50_long": _resnet("50", "resnet_50_long-ef38a88533", 79.468, LONG),
    "bcos-resnet152_long": _resnet("152", "resnet_152_long-0b4b434939", 80.144, LONG),
    "bcos-densenet121": _densenet("121", "densenet_121-b8daf96afb", 73.612),
    "bcos-densenet161": _densenet("161", "densenet_161-9e9ea51353", 76.622),
    "bcos-densenet169": _densenet("169", "densenet_169-7037ee0604", 75.186),
    "bcos-densenet201": _densenet("201", "densenet_201-00ac87066f", 75.480),
    "bcos-densenet121_long": _densenet("121", "densenet_121_long-5175461597", 77.302, LONG),
    "bcos-vgg11_bnu": _v2("bcos_vgg", "vgg_11_bnu-34036029f0", 69.310),
    "bcos-convnext_tiny": _convnext("tiny", "pn", "convnext_tiny_pn-539b1bfb37", 77.488),
    "bcos-convnext_base": _convnext("base", "pn", "convnext_base_pn-b0495852c6", 79.650),
    "bcos-convnext_tiny_bnu": _convnext("tiny", "bnu", "convnext_tiny_bnu-dbd7f5ef9d", 76.826),
    "bcos-convnext_base_bnu": _convnext("base", "bnu", "convnext_base_bnu-7c32a704b3", 80.142),
    "bcos-simple_vit_ti_patch16_224": _vit("ti", "bcos_simple_vit_ti_patch16_224-4b0824b1c1", 59.960),
    "bcos-simple_vit_s_patch16_224": _vit("s", "bcos_simple_vit_s_patch16_224-75e99d1f73", 69.246),
    "bcos-simple_vit_b_patch16_224": _vit("b", "bcos_simple_vit_b_patch16_224-1fc4750806", 74.408),
    "bcos-simple_vit_l_patch16_224": _vit("l", "bcos_simple_vit_l_patch16_224-9613b2ad0a", 75.060),
    "bcos-vitc_ti_patch1_14": _vit("ti", "bcos_vitc_ti_patch1_14-ddd6193a77", 67.260),
    "bcos-vitc_s_patch1_14": _vit("s", "bcos_vitc_s_patch1_14-cf55c88f0c", 74.504),
    "bcos-vitc_b_patch1_14": _vit("b", "bcos_vitc_b_patch1_14-a13c46397b", 77.152),
    "bcos-vitc_l_patch1_14": _vit("l", "bcos_vitc_l_patch1_14-8739e18b8d", 77.782),
    "bcosified-resnet18": _bcosified("resnet18", "resnet_18"),
    "bcosified-resnet50": _bcosified("resnet50", "resnet_50"),
    "bcosified-resnet50_V1": _bcosified("resnet50", "resnet_50_V1"),
    "bcosified-densenet121": _bcosified("densenet121", "densenet_121"),
    **{f"bcosified-simple_vit_{size}_patch16_224": _bcosified_vit(size, "simple_vit") for size in _VITS},
    **{f"bcosified-vitc_{size}_patch1_14": _bcosified_vit(size, "vitc") for size in _VITS},
    "bcosified-clip_rn50": PublishedBcos(
        3,
        "bcosified_clip",
        {"blocks": [3, 4, 6, 3], "width": 64, "embedding": 1024, "classes": 1000},
        "v0.0.2-CLIP-checkpoints",
        224,
        224,
        interpolation="bicubic",
        experiment=r"resnet_50_clip_b2_noBias_randomResizedCrop(?:_cyclicLR)?_sigLip_ImageNet_bcosification",
    ),
    "standard_simple_vit_ti_patch16_224": _vit("ti", "standard_simple_vit_ti_patch16_224-2ae8c65a39", 70.230),
    "standard_simple_vit_s_patch16_224": _vit("s", "standard_simple_vit_s_patch16_224-f2934fcdcf", 74.470),
    "standard_simple_vit_b_patch16_224": _vit("b", "standard_simple_vit_b_patch16_224-87074200ed", 75.300),
    "standard_simple_vit_l_patch16_224": _vit("l", "standard_simple_vit_l_patch16_224-62dc536e03", 75.710),
    "standard_vitc_ti_patch1_14": _vit("ti", "standard_vitc_ti_patch1_14-a5d6bded37", 72.590),
    "standard_vitc_s_patch1_14": _vit("s", "standard_vitc_s_patch1_14-34ecd7288e", 75.756),
    "standard_vitc_b_patch1_14": _vit("b", "standard_vitc_b_patch1_14-4d374b0220", 76.790),
    "standard_vitc_l_patch1_14": _vit("l", "standard_vitc_l_patch1_14-560e48f246", 77.866),
}


def twin(name: str) -> str | None:
    """Find the network of version 2 whose shapes a B-cosified network has, or the other way round.

    Args:
        name: of a configuration.

    Returns:
        The other one's name; None where there is none, as for CLIP.
    """
    if name.startswith("bcosified-"):
        other = name.replace("bcosified-", "bcos-").removesuffix("_V1")
    else:
        other = name.replace("bcos-", "bcosified-").removesuffix("_long")
    return other if other != name and name in BCOS and other in BCOS else None


# Parameters of each, by name; those of 9L-M2-B* are all alike, and those of a B-cosified network are its twin's.
_SIZES = {
    "bcos-resnet18": 11_693_120,
    "bcos-resnet34": 21_797_568,
    "bcos-resnet50": 25_538_880,
    "bcos-resnet101": 44_504_896,
    "bcos-resnet152": 60_125_504,
    "bcos-resnext50_32x4d": 25_003_200,
    "bcos-resnet50_long": 25_538_880,
    "bcos-resnet152_long": 60_125_504,
    "bcos-densenet121": 7_945_440,
    "bcos-densenet161": 28_584_144,
    "bcos-densenet169": 14_078_688,
    "bcos-densenet201": 19_907_808,
    "bcos-densenet121_long": 7_945_440,
    "bcos-vgg11_bnu": 132_855_872,
    "bcos-convnext_tiny": 28_543_392,
    "bcos-convnext_base": 88_466_304,
    "bcos-convnext_tiny_bnu": 28_543_392,
    "bcos-convnext_base_bnu": 88_466_304,
    "bcos-simple_vit_ti_patch16_224": 5_800_128,
    "bcos-simple_vit_s_patch16_224": 22_217_088,
    "bcos-simple_vit_b_patch16_224": 86_901_504,
    "bcos-simple_vit_l_patch16_224": 178_787_328,
    "bcos-vitc_ti_patch1_14": 5_318_712,
    "bcos-vitc_s_patch1_14": 20_878_704,
    "bcos-vitc_b_patch1_14": 81_326_016,
    "bcos-vitc_l_patch1_14": 167_444_160,
    "standard_simple_vit_ti_patch16_224": 5_670_184,
    "standard_simple_vit_s_patch16_224": 21_956_200,
    "standard_simple_vit_b_patch16_224": 86_378_728,
    "standard_simple_vit_l_patch16_224": 178_104_296,
    "standard_vitc_ti_patch1_14": 5_334_952,
    "standard_vitc_s_patch1_14": 20_910_184,
    "standard_vitc_b_patch1_14": 81_388_648,
    "standard_vitc_l_patch1_14": 167_541_352,
    "bcosified-clip_rn50": 38_181_568,
    "9L-M2": 3_772_160,
    "bcos-v1-densenet_121": 15_807_232,
    "bcos-v1-densenet_121_cossched": 15_807_232,
    "bcos-v1-resnet_34": 43_578_112,
    "bcos-v1-vgg_11": 265_706_240,
    "bcos-v1-inception_v3": 47_600_000,
}


def bcos_named_in(path: str, candidates: Iterable[str]) -> str | None:
    """Find the configuration that a path names, by the authors' name or by coda's.

    Args:
        path: of a file, or the experiment that a trainer's file names, as DATASET/NETWORKS/NAME.
        candidates: names of configurations.

    Returns:
        The one of the candidates that stands in the path as a whole word; None where there is none, or more than one.
    """

    parts = path.replace(".safetensors", "").replace("\\", "/").split("/")

    def is_named(name: str) -> bool:
        """Whether the path has the name of a configuration as a word, as the authors or as coda write it."""
        by_authors = rf"(?<![\w.-]){re.escape(name.removeprefix('bcos-v1-'))}(?![\w-]|\.\d)"
        return (
            re.search(by_authors, path) is not None
            or (BCOS[name].version == 2 and _has_file_name(name, path))
            or name in parts
            or _is_folder_of_authors(name, parts)
            or (BCOS[name].version == 3 and _is_experiment(name, path))
        )

    found = [name for name in candidates if is_named(name)]
    return found[0] if len(found) == 1 else None


def _has_file_name(name: str, path: str) -> bool:
    """Whether a path has the name of a published file of version 2.

    The ten digits may be others, those of a network that was trained again with the authors' code; but not of a ResNet
    of which a B-cosified network's file would have the same name and the same tensors.
    """
    link = BCOS[name].link
    theirs = link.rpartition("-")[0]
    other = twin(name)
    shared = other is not None and BCOS[other].experiment == theirs and "resnet" in theirs
    return (link.removesuffix(".pth") if shared else theirs + "-") in path


def _is_folder_of_authors(name: str, parts: Sequence[str]) -> bool:
    """Whether a path has the folders of version 2's experiments, such as bcos_final/resnet_18/last.ckpt."""
    if BCOS[name].version != 2:
        return False
    theirs = BCOS[name].link.rpartition("-")[0]
    return any(
        (end := _EXPERIMENTS.get(experiment)) is not None and folder.removesuffix(end) + end == theirs
        for experiment, folder in itertools.pairwise(parts)
    )


# Folders of experiments, and what the published files of their networks have at the end of their names.
_EXPERIMENTS = {"bcos_final": "", "bcos_final_long": "_long", "vit_final": ""}


def _is_experiment(name: str, path: str) -> bool:
    """Whether a path names the experiment of a B-cosified network: alone where its name is like no other's."""
    experiment = BCOS[name].experiment
    folder = r"(?<![^/\\])bcosification[/\\]" if BCOS[name].architecture == "bcosified" else r"(?<![\w.-])"
    return re.search(rf"{folder}{experiment}(?:$|[/\\]|\.\w+$|-[0-9a-f]{{10}}\.)", path) is not None


_BCOSIFIED = ("bcosification", "vit_bcosification", "clip_bcosification")  # folders of experiments


def version_of_experiment(experiment: str) -> int | None:
    """Tell which version's networks an experiment of the authors' trainers made.

    Args:
        experiment: DATASET/NETWORKS/NAME.

    Returns:
        2, 3 for B-cosified ones, or None.
    """
    folders = experiment.split("/")[:-1]
    if any(folder in _BCOSIFIED for folder in folders):
        return 3
    return 2 if any(folder in _EXPERIMENTS for folder in folders) else None
