"""The words that options, the library and records share; see there what each does.

They have a module of their own because options need them before torch is imported, which ``--help`` never does.
"""

from __future__ import annotations

from typing import Literal

# How many pictures make a grid of grid localisation.
Grid = Literal["2x2", "3x3"]
# How pictures are put into grids: "published" repeats an off-by-one of the original code, which uses up more pictures.
Protocol = Literal["corrected", "published"]
# Which pixels are removed first: the least or the most important ones.
Direction = Literal["least", "most"]
# What stands in the place of removed pixels: 0 in all six channels (as published), the picture's mean colour, or the
# blurred picture.
Baseline = Literal["zero", "mean", "blurred"]
# What the matrix products of training are computed in.
TrainingPrecision = Literal["float32", "bfloat16"]
