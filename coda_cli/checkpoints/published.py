"""The published CoDA-Net configurations by their names, as arguments of networks.coda_net. Does not import torch.

The ReLU networks without biases stand here, too.

Source: CoDA-Nets, experiments/{CIFAR10,Imagenet}/final/experiment_parameters.py.
"""

from __future__ import annotations

import math
import re
from typing import Any

# Bias of the published CoDA-Nets: a class probability of 0.1 where a picture holds no evidence.
PUBLISHED_BIAS = math.log(0.1 / 0.9)

LICENCE = (
    "weights published by the authors of CoDA-Nets (github.com/moboehle/CoDA-Nets) without a licence of their own; "
    "their repository allows non-commercial research, education and art only"
)
_NEXTCLOUD = "https://nextcloud.mpi-klsb.mpg.de/index.php/s/{}/download"
# Link code and epoch of every file that the authors published, without hashes.
# Source: CoDA-Nets, interpretability/utils.py:32-45.
_LINKS = {
    "9L-L-CoDA-SQ-100000": ("pArrgmncXAAiH5R", 60),
    "9L-S-CoDA-SQ-10": ("H8FgwMHJTTTYDJw", 200),
    "9L-S-CoDA-SQ-50": ("SqPBioqmxEWbH9g", 200),
    "9L-S-CoDA-SQ-100": ("yk7LajwLwpXXzf5", 200),
    "9L-S-CoDA-SQ-500": ("zfeYMASLtKNGgsQ", 200),
    "9L-S-CoDA-SQ-1000": ("8ykMc8XLQMtCxHo", 200),
    "9L-S-CoDA-SQ-5000": ("6iY992FYEsfHkeA", 200),
}
# Name and address of every file.
FILES = {name: (f"model_epoch_{epoch}.pkl", _NEXTCLOUD.format(code)) for name, (code, epoch) in _LINKS.items()}

# ReLU networks without biases, by their names here: the authors' name, and how many parameters there are.
# Source: fast-axiomatic-attribution, imagenet/models.
BIAS_FREE = {
    "x-alexnet": ("xalexnet", 61_090_496),
    "x-vgg16": ("xvgg16", 138_344_128),
    "x-resnet50": ("xfixup_resnet50", 25_502_912),
}
BIAS_FREE_LICENCE = (
    "weights published with github.com/visinf/fast-axiomatic-attribution under the Apache 2.0 licence; they were "
    "trained on ImageNet, whose terms are non-commercial"
)
_VISINF = "https://download.visinf.tu-darmstadt.de/data/2021-neurips-fast-axiomatic-attribution/models/{}"
FILES |= {
    name: (file := f"{theirs}_model_best.pth.tar", _VISINF.format(file)) for name, (theirs, _) in BIAS_FREE.items()
}

_S_CHANNELS = (6, 16, 16, 32, 32, 32, 64, 64, 64, 10)
_L_CHANNELS = (6, 16, 32, 32, 64, 64, 64, 64, 64, 100)
_SQ_TEMPERATURES = (10, 50, 100, 500, 1000, 5000, 10000)
_LAMBDAS = ("0.0", "0.1", "0.25", "0.5", "1.0")


def _of_cifar10(norm: str, temperature: float, rank: int = 32) -> dict[str, Any]:
    return {
        "channels": list(_S_CHANNELS),
        "kernels": [3] * 8 + [1],
        "strides": [1, 1, 2, 1, 1, 2, 1, 1, 1],
        "ranks": [rank] * 2 + [2 * rank] * 7,
        "norm": norm,
        "temperature": float(temperature),
        "bias": PUBLISHED_BIAS,
    }


def _of_imagenet() -> dict[str, Any]:
    return {
        "channels": list(_L_CHANNELS),
        "kernels": [7] + [3] * 8,
        "strides": [3, 1, 1, 2, 1, 1, 2, 1, 1],
        "ranks": [64] * 3 + [128] * 3 + [256] * 3,
        "norm": "SQ",
        "temperature": 100000.0,
        "bias": PUBLISHED_BIAS,
    }


# Each entry holds the arguments of coda_net. The lambda series differs from the others in training only.
PUBLISHED: dict[str, dict[str, Any]] = {
    **{f"9L-S-CoDA-SQ-{t}": _of_cifar10("SQ", t) for t in _SQ_TEMPERATURES},
    "9L-S-CoDA-L2-1000": _of_cifar10("L2", 1000),
    **{f"9L-S-CoDA-SQ-rank-{r}": _of_cifar10("SQ", 1000, r) for r in (4, 8, 16, 144)},
    **{f"9L-S-CoDA-SQ-lambda-{v}": _of_cifar10("SQ", 64) for v in _LAMBDAS},
    "9L-L-CoDA-SQ-100000": _of_imagenet(),
}


def published_name(text: str) -> str | None:
    """Find the published configuration that a text names.

    Args:
        text: such as a path.

    Returns:
        The one configuration whose name stands there as a whole word; None where there is none, or more than one.
    """
    words = {name: name for name in PUBLISHED} | {
        name: f"{theirs}_model_best" for name, (theirs, _) in BIAS_FREE.items()
    }
    found = [
        name
        for name, theirs in words.items()
        if re.search(rf"(?<![\w.-])(?:{re.escape(name)}|{re.escape(theirs)})(?![\w-]|\.\d)", text)
    ]
    return found[0] if len(found) == 1 else None
