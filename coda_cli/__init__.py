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
    from coda_cli.core.decompose import Decomposition, decompose
    from coda_cli.core.depth import shares_by_layer
    from coda_cli.core.networks import encode
    from coda_cli.explanation.clip.drawing import ClipDrawing
    from coda_cli.explanation.clip.files import ClipOutputs
    from coda_cli.explanation.clip.run import explain_clip
    from coda_cli.explanation.files import Output
    from coda_cli.explanation.naming import Naming
    from coda_cli.explanation.picture import Explanation, Request, explain_image
    from coda_cli.explanation.record import Drawing
    from coda_cli.explanation.run import explain_many
    from coda_cli.media.sources import resolve
    from coda_cli.video.reading import Selection

_HOMES = {
    "Net": "checkpoints.loading", "load": "checkpoints.loading", "save": "checkpoints.loading",
    "Decomposition": "core.decompose", "decompose": "core.decompose", "encode": "core.networks",
    "shares_by_layer": "core.depth", "Explanation": "explanation.picture",
    "Request": "explanation.picture", "explain_image": "explanation.picture",
    "explain_many": "explanation.run", "Output": "explanation.files", "Naming": "explanation.naming",
    "Drawing": "explanation.record",
    "resolve": "media.sources", "explain_clip": "explanation.clip.run", "Selection": "video.reading",
    "ClipDrawing": "explanation.clip.drawing", "ClipOutputs": "explanation.clip.files",
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
