"""coda: exact explanations of dynamic-linear image classifiers, from Python.

>>> import coda_cli as coda
>>> e = coda.explain("photo.jpg")
>>> e.overlay().save("overlay.png")

=====================  ================================================================================
explain                one picture: a path, PIL image, array or tensor -> Explanation
explain_many           many pictures, a folder, a DataLoader -> an outcome for each
explain_clip           a clip, frame by frame -> ClipExplanation
shard                  one of several parts of the files of a run, for explain_many
load, save             a network from its name or file -> Net, and back
decompose              the mathematics alone: any module that qualifies -> Decomposition
shares_by_layer        the same at every layer
decompose_neurons      the same for activations of a layer; strongest_channels: what its channels have of a logit
Attribution            captum's interface
quantus_explain        Quantus' explain_func
encode                 pictures -> the six channels that networks take
Drawing, ClipDrawing   how pictures and clips are drawn
Selection              which frames of a clip, and which part of them
Regions                parts of pictures whose contributions are summed: boxes, masks, annotations
Explanation            maps, logits, residual, record; overlay(), heatmap(), panel(), save()
CodaError              base of all errors that coda raises on purpose
ray.explain            the pictures in a dataset of Ray -> the dataset with records and maps
=====================  ================================================================================
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

from coda_cli.errors import CodaError

if TYPE_CHECKING:
    from coda_cli.checkpoints.loading import Net, load
    from coda_cli.checkpoints.saving import save
    from coda_cli.core.decompose import Decomposition, decompose
    from coda_cli.core.depth import shares_by_layer
    from coda_cli.core.networks import encode
    from coda_cli.core.neurons import decompose_neurons, strongest_channels
    from coda_cli.explanation.clip.drawing import ClipDrawing
    from coda_cli.explanation.clip.run import ClipExplanation, explain_clip
    from coda_cli.explanation.picture import Explanation, explain
    from coda_cli.explanation.record import Drawing
    from coda_cli.explanation.regions.asked import Regions
    from coda_cli.explanation.run import explain_many
    from coda_cli.explanation.shards import shard
    from coda_cli.study.attribution import Attribution, quantus_explain
    from coda_cli.video.reading import Selection

_HOMES = {
    "Attribution": "study.attribution",
    "ClipDrawing": "explanation.clip.drawing",
    "ClipExplanation": "explanation.clip.run",
    "Decomposition": "core.decompose",
    "Drawing": "explanation.record",
    "Explanation": "explanation.picture",
    "Net": "checkpoints.loading",
    "Regions": "explanation.regions.asked",
    "Selection": "video.reading",
    "decompose": "core.decompose",
    "decompose_neurons": "core.neurons",
    "encode": "core.networks",
    "explain": "explanation.picture",
    "explain_clip": "explanation.clip.run",
    "explain_many": "explanation.run",
    "load": "checkpoints.loading",
    "quantus_explain": "study.attribution",
    "save": "checkpoints.saving",
    "shard": "explanation.shards",
    "shares_by_layer": "core.depth",
    "strongest_channels": "core.neurons",
}

_ALSO_OLD = {"explain_clip", "explain_many"}  # of deprecated.py, where they also take what version 0.1 did
_OLD = {"ClipOutputs", "Naming", "Output", "Request", "explain_image", "resolve"}  # names of version 0.1

__all__ = [
    "Attribution",
    "ClipDrawing",
    "ClipExplanation",
    "CodaError",
    "Decomposition",
    "Drawing",
    "Explanation",
    "Net",
    "Regions",
    "Selection",
    "decompose",
    "decompose_neurons",
    "encode",
    "explain",
    "explain_clip",
    "explain_many",
    "load",
    "quantus_explain",
    "save",
    "shard",
    "shares_by_layer",
    "strongest_channels",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> object:
    # Lazy: the command line's help must not wait for torch.
    if name == "__version__":
        from importlib.metadata import version

        return version("coda-cli")
    if name == "ray":  # a module, and no name of __all__: it needs an extra
        return import_module("coda_cli.ray")
    if name in _HOMES:
        home = _HOMES[name]
        if "torch" not in sys.modules:
            from coda_cli import _help

            if _help.is_only_shown(sys._getframe(1)) and (shown := _help.stand_in(name, home)):
                return shown
        return getattr(import_module(f"coda_cli.{'deprecated' if name in _ALSO_OLD else home}"), name)
    if name in _OLD:
        return import_module("coda_cli.deprecated").old_name(name)
    raise AttributeError(f"module 'coda_cli' has no attribute {name!r}")
