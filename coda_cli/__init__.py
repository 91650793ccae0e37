"""coda: exact explanations of dynamic-linear image classifiers, from Python.

>>> import coda_cli
>>> net = coda_cli.load("imagenette")
>>> explanation = coda_cli.explain_image("photo.jpg", net)
>>> explanation.maps.shape, explanation.decomposition.residual
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from coda_cli.errors import CodaError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net, load, save
    from coda_cli.clips.run import explain_clip
    from coda_cli.core.decompose import Decomposition, decompose
    from coda_cli.core.networks import encode
    from coda_cli.explain import Explanation, Request, explain_image
    from coda_cli.runs import explain_many

_HOMES = {
    "Net": "checkpoints.loading", "load": "checkpoints.loading", "save": "checkpoints.loading",
    "Decomposition": "core.decompose", "decompose": "core.decompose", "encode": "core.networks",
    "Explanation": "explain", "Request": "explain", "explain_image": "explain", "explain_many": "runs",
    "explain_clip": "clips.run",
}  # fmt: skip

__all__ = [
    "CodaError",
    "Decomposition",
    "Explanation",
    "Net",
    "Request",
    "decompose",
    "encode",
    "explain_clip",
    "explain_image",
    "explain_many",
    "load",
    "save",
]


def __getattr__(name: str) -> object:
    # Lazy: the command line's help must not wait for torch.
    if name == "__version__":
        from importlib.metadata import version

        return version("coda-cli")
    if name in _HOMES:
        return getattr(import_module(f"coda_cli.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'coda_cli' has no attribute {name!r}")
