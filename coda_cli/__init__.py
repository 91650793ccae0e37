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
    from coda_cli.accounts import Drawing
    from coda_cli.checkpoints.loading import Net, load, save
    from coda_cli.clips.run import explain_clip
    from coda_cli.clips.sheets import ClipDrawing
    from coda_cli.clips.sink import ClipOutputs
    from coda_cli.core.decompose import Decomposition, decompose
    from coda_cli.core.depth import shares_by_layer
    from coda_cli.core.networks import encode
    from coda_cli.explain import Explanation, Request, explain_image
    from coda_cli.media.clips import Selection
    from coda_cli.media.sources import resolve
    from coda_cli.outputs import Output
    from coda_cli.report.files import Naming
    from coda_cli.runs import explain_many

_HOMES = {
    "Net": "checkpoints.loading", "load": "checkpoints.loading", "save": "checkpoints.loading",
    "Decomposition": "core.decompose", "decompose": "core.decompose", "encode": "core.networks",
    "shares_by_layer": "core.depth", "Explanation": "explain", "Request": "explain", "explain_image": "explain",
    "explain_many": "runs", "Output": "outputs", "Naming": "report.files", "Drawing": "accounts",
    "resolve": "media.sources", "explain_clip": "clips.run", "Selection": "media.clips",
    "ClipDrawing": "clips.sheets", "ClipOutputs": "clips.sink",
}  # fmt: skip

__all__ = [
    "ClipDrawing",
    "ClipOutputs",
    "CodaError",
    "Decomposition",
    "Drawing",
    "Explanation",
    "Naming",
    "Net",
    "Output",
    "Request",
    "Selection",
    "decompose",
    "encode",
    "explain_clip",
    "explain_image",
    "explain_many",
    "load",
    "resolve",
    "save",
    "shares_by_layer",
]


def __getattr__(name: str) -> object:
    # Lazy: the command line's help must not wait for torch.
    if name == "__version__":
        from importlib.metadata import version

        return version("coda-cli")
    if name in _HOMES:
        return getattr(import_module(f"coda_cli.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'coda_cli' has no attribute {name!r}")
