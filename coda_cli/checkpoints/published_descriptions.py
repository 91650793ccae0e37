"""The descriptions of the networks that the authors published: a state dict cannot tell them. Imports no torch."""

from __future__ import annotations

from functools import cache
from typing import Any

from coda_cli.checkpoints.class_names import class_data
from coda_cli.checkpoints.manifest import Accuracy, Checkpoint, Preprocessing
from coda_cli.checkpoints.published import BIAS_FREE, BIAS_FREE_LICENCE, LICENCE, PUBLISHED
from coda_cli.checkpoints.published_bcos import BCOS, LICENCES


@cache  # commands ask for ``known`` several times
def published_checkpoint(name: str) -> Checkpoint:
    """Make the description of a published configuration, which its state dict cannot tell.

    Args:
        name: of the configuration.

    Returns:
        The description.

    Raises:
        KeyError: there is no such configuration.
    """
    facts = _published_facts(name)
    arguments = facts["arguments"]
    count = arguments["classes"] if "classes" in arguments else arguments["channels"][-1]
    large = count > 10
    classes = class_data()["imagenet"][:count] if large else class_data()["cifar10"]
    data = {10: "CIFAR-10", 100: "ImageNet, its first 100 classes", 1000: "ImageNet"}[count]
    return Checkpoint(
        name=name,
        classes=tuple(entry["name"] for entry in classes),
        wnids=tuple(entry["wnid"] for entry in classes) if large else None,
        synonyms=tuple(tuple(entry["synonyms"]) for entry in classes) if large else None,
        training={"data": data},
        **facts,
    )


def _published_facts(name: str) -> dict[str, Any]:
    """Architecture, arguments, preprocessing, accuracy and licence of a published configuration. Raises KeyError."""
    if name in BIAS_FREE:
        return {
            "architecture": "bias_free",
            "arguments": {"name": BIAS_FREE[name][0], "classes": 1000},
            "preprocessing": Preprocessing(resize=256, crop=224),
            "licence": BIAS_FREE_LICENCE,
        }
    if name in BCOS:
        bcos = BCOS[name]
        split = "ImageNet validation, as published"
        return {
            "architecture": bcos.architecture,
            "arguments": bcos.arguments,
            "preprocessing": Preprocessing(resize=bcos.resize, crop=bcos.crop, interpolation=bcos.interpolation),
            "accuracy": Accuracy(value=bcos.top1, pictures=50_000, split=split) if bcos.top1 else None,
            "licence": LICENCES[bcos.version],
        }
    arguments = PUBLISHED[name]
    resize, crop = (256, 240) if arguments["channels"][-1] == 100 else (32, 32)
    return {
        "architecture": "coda_net",
        "arguments": arguments,
        "preprocessing": Preprocessing(resize=resize, crop=crop),
        "licence": LICENCE,
    }
