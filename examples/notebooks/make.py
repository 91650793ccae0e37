"""Makes the notebooks of this folder: their cells stand here, and their outputs come from running them.

    pip install nbclient ipykernel
    python examples/notebooks/make.py

Run it in the folder of the source code. The same cells are run by a test.
"""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
PATIENCE = 600  # seconds for a cell
WIDEST = 900  # pixels of a picture in a notebook that is kept; whole ones made the files 9 MB

text, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell

FIRST = [
    text(
        "# First explanations\n\nA logit of the network `imagenette` is split into the contributions of the pixels. Nothing is "
        "downloaded. Run this in the folder of the source code."
    ),
    code(
        'import coda_cli as coda\n\nnet = coda.load("imagenette")\ne = coda.explain("examples/pictures/church.png", net)\ne'
    ),
    text(
        "Red speaks for the class, blue against it. The equation below the picture is the proof: what is red, what is blue, "
        "and the bias add up to the logit, but for what rounding left over, the residual."
    ),
    code(
        "maps, record = e.maps[0], e.record().explained[0]\n"
        'print(record.name, "logit", round(record.logit, 4))\n'
        'print("sum of the map", round(float(maps.sum()), 4), "residual", f"{float(e.residual[0]):.1e}")'
    ),
    text("**Why this class and not another one?** The difference of two logits is split in the same way."),
    code('coda.explain("examples/pictures/church.png", net, ["church"], versus="gas pump")'),
    text("**How much lies in a box?** A share of the evidence is a sum over pixels, as exact as the map itself."),
    code(
        "steeple = e.regions(steeple=(200, 10, 280, 200))[0]\n"
        'print(f"{steeple.regions[0].share:.0%} of the evidence on {steeple.regions[0].area:.0%} of the area")'
    ),
    text("**The same as files**, under the names that `coda explain` uses:"),
    code(
        "import tempfile\n\nwith tempfile.TemporaryDirectory() as folder:\n    print([path.name for path in e.save(folder)])"
    ),
]
PAPERS = [
    text(
        "# From the papers' notebooks\n\nThe figures of the authors' notebooks, each in a line or two. "
        "[From the papers' code](../../docs/from-the-papers-code.md) has the whole table. Run this in the folder of the source "
        "code."
    ),
    text("**Contribution maps with one colour scale for all pictures** (*CoDA-Networks Examples*)."),
    code(
        'import coda_cli as coda\n\nnet = coda.load("cifar10")\n'
        'ship, truck = (coda.explain(f"examples/cifar10/pictures/{name}.png", net) for name in ("ship", "truck"))\n'
        "display(ship.panel(scale=0.05), truck.panel(scale=0.05))  # logit a pixel in full colour"
    ),
    text(
        "**Colour explanations of a B-cos network** (*Qualitative Examples*): the weights that the network applied to the "
        "picture, as colours."
    ),
    code(
        'bcos = coda.load("cifar10-bcos")\n'
        'coda.explain("examples/cifar10/pictures/ship.png", bcos).overlay(style="colour")'
    ),
    text("**Two classes beside each other** (`plot_top2_comparison`): the exact difference of two logits."),
    code('coda.explain("examples/cifar10/pictures/ship.png", bcos, ["ship"], versus="airplane")'),
    text(
        "**A map at every layer** (the animation of the CoDA-Nets' page): each map and the bias add up to the same logit."
    ),
    code(
        'e = coda.explain("examples/cifar10/pictures/truck.png", net, layer="all")\n'
        "for layer in e.record().explained[0].layers:\n"
        '    size = f"{layer.height} x {layer.width}"\n'
        '    print(f"{layer.name:10} {size:8} sum {layer.sum:.4f} residual {layer.residual:.1e}")'
    ),
]
NOTEBOOKS = {"first-explanations": FIRST, "from-the-papers-notebooks": PAPERS}


def composed(cells: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """A notebook without outputs; its cells are named by their numbers, and not by chance."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.from_dict({**cell, "id": f"cell-{number}"}) for number, cell in enumerate(cells)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def executed(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in the folder of the source code."""
    place = {"metadata": {"path": str(ROOT)}}
    # A kernel on a busy machine sends one line in several pieces, and each would be an output of its own.
    NotebookClient(notebook, timeout=PATIENCE, resources=place, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # the times of a run, which differ every time
    return notebook


def lighter(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with its pictures as smaller JPEGs."""
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        shown = output.get("data", {})
        if "image/png" in shown:
            shown["image/jpeg"] = _as_jpeg(shown.pop("image/png"))
        if "text/html" in shown:
            pictures = r"data:image/png;base64,([\w+/=]+)"
            shown["text/html"] = re.sub(
                pictures, lambda found: f"data:image/jpeg;base64,{_as_jpeg(found[1])}", shown["text/html"]
            )
    return notebook


def _as_jpeg(png: str) -> str:
    """A picture in base64, at most WIDEST pixels wide."""
    picture, file = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.thumbnail((WIDEST, WIDEST))
    picture.save(file, "JPEG", quality=85, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> int:
    """Write the notebooks."""
    for name, cells in NOTEBOOKS.items():
        nbformat.write(lighter(executed(composed(cells))), FOLDER / f"{name}.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
