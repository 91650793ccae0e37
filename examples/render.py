"""Renders the example pictures, each with the mask of its object, and an example clip.

    python examples/render.py                  writes pictures/ and masks/, here and in cifar10/
    python examples/render.py golf-ball ship   writes only these
    python examples/render.py --clip FILE.mp4  writes a clip of a rolling golf ball, four seconds long

Everything is drawn from shapes, gradients and noise with fixed seeds, so the pictures are free to use.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import scenes_animals
import scenes_cifar10
import scenes_golf
import scenes_imagenette

HERE = Path(__file__).parent
SETS = {HERE: scenes_imagenette.SCENES | scenes_animals.SCENES, HERE / "cifar10": scenes_cifar10.SCENES}


def main() -> None:
    """Write the pictures and masks that were asked for, or the clip."""
    parser = argparse.ArgumentParser(description="Renders the example pictures, or a clip.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pictures (default: all)")
    parser.add_argument("--clip", type=Path, metavar="FILE.mp4", help="write the clip to this file, and no pictures")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {name for scenes in SETS.values() for name in scenes}
    if unknown:
        parser.error(f"no such picture: {', '.join(sorted(unknown))}")
    if arguments.clip:
        frames = np.stack(list(scenes_golf.clip()))
        imageio.imwrite(arguments.clip, frames, plugin="pyav", codec="libx264", fps=24)
        return
    for folder, scenes in SETS.items():
        for name, draw in scenes.items():
            if arguments.names and name not in arguments.names:
                continue
            picture, mask = draw()
            for kind, drawn in (("pictures", picture), ("masks", mask)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                drawn.save(folder / kind / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
