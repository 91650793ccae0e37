"""The words that options accept: each vocabulary is one ``Literal``, for the command line, the library and the records.

Nothing is imported here, so that ``coda --help`` can name the words without waiting for torch.
"""

from __future__ import annotations

from typing import Literal, get_args

# How a picture is shown to a network: its centre as the network was trained on, the whole picture made small, or the
# whole picture at its own size.
Fit = Literal["crop", "pad", "native"]

# How a picture is made larger or smaller for a network.
Interpolation = Literal["bilinear", "bicubic"]

# What a network computes in. With bfloat16 only the large matrix products do; weights and input stay in float32.
Precision = Literal["float32", "float64", "bfloat16"]

# What an overlay shows: contributions with their sign, or the colours that the weights ask for (B-cos papers).
Style = Literal["signed", "colour"]

# What happens to a file that is there: leave it if it is from the same picture, network and settings, else fail; fail;
# leave it; replace it; write beside it under another name.
IfExists = Literal["match", "error", "skip", "overwrite", "rename"]

# What explains many pictures: this process, or workers that Ray starts.
Engine = Literal["local", "ray"]

# What stands in a frame of an explained clip.
Layout = Literal["side", "overlay", "heatmap", "panel"]

# Whose predicted class is explained: that of the whole clip, or each frame's own.
ClassPolicy = Literal["clip", "frame"]

# How many pictures make a grid of grid localisation.
Grid = Literal["2x2", "3x3"]

# How pictures are put into grids: "published" repeats an off-by-one of the original code, which uses up more pictures.
Protocol = Literal["corrected", "published"]

# Which pixels are removed first: the least or the most important ones.
Direction = Literal["least", "most"]

# What stands in the place of removed pixels: 0 in all six channels (as published), the picture's mean colour, or the
# blurred picture.
Baseline = Literal["zero", "mean", "blurred"]

# Why the shares of a logit add up: the network is made so, it is piecewise linear (a theorem), or gates are held.
Exactness = Literal["by construction", "piecewise linear", "held gates"]

# What the matrix products of training are computed in.
TrainingPrecision = Literal["float32", "bfloat16"]

# What an ordinary network becomes: CoDA layers on its last map, or B-cos layers in the place of all of its own.
Conversion = Literal["hybrid", "bcos"]

# What decided the contribution that is drawn in full colour: the network's description, all maps of a run, the map
# itself, or the user.
ScaleOf = Literal["network", "run", "image", "given"]

# Where the labels of summarised pictures are from: the folders that they lie in, a file of the user, or nowhere.
LabelSource = Literal["folders", "file", "none"]


def one_of(value: object, vocabulary: object) -> bool:
    """Whether a value is a word of a vocabulary.

    Args:
        value: what somebody wrote.
        vocabulary: one of the ``Literal`` types above.

    Returns:
        The answer.
    """
    return value in get_args(vocabulary)
