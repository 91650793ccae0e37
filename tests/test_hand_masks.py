"""The sums inside masks against plain numpy, on rendered pictures, and on photographs where they are present."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import program
import pytest

from coda_cli.explanation.regions import shapes
from coda_cli.media.coverage import of_mask

ROOT = Path(__file__).resolve().parent.parent
PHOTOGRAPHS = Path(os.environ.get("CODA_TEST_DATA", ROOT.parent / "shared" / "data"))
MASKS = program.EXAMPLES / "masks"
ALLOWED = 1e-6  # of the sum of magnitudes: maps are kept in float32

script = program.example("hand_masks")


def explained(pictures: Path, masks: Path, folder: Path, network: str) -> list[Path]:
    """The records of pictures with masks, and their maps."""
    program.run("explain", pictures, "--mask", masks, "-m", network, "--write", "npz,json", "-q", "-o", folder)
    return sorted(folder.glob("*.coda.json"))


@pytest.mark.parametrize("network", ["imagenet", "imagenette"])  # exact at a cut, and to the pixels
def test_sums_inside_masks_are_those_of_plain_numpy(network: str, tmp_path: Path) -> None:
    records = explained(program.EXAMPLES / "pictures", MASKS, tmp_path, network)
    assert len(records) == 7
    for path in records:
        found = script.check(path, MASKS)
        (region,) = json.loads(path.read_text("utf-8"))["explained"][0]["regions"]["regions"]
        assert found.difference < ALLOWED, found
        assert found.share == pytest.approx(region["share"], abs=ALLOWED)
        assert found.share > found.area > 0.1


def test_pixels_that_are_counted_whole_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(*args: object) -> object:
        found = of_mask(*args)  # type: ignore[arg-type]
        return replace(found, shares=np.round(found.shares))

    monkeypatch.setattr(shapes, "of_mask", rounded)
    records = explained(program.EXAMPLES / "pictures", MASKS, tmp_path, "imagenette")
    assert all(script.check(path, MASKS).difference > 10 * ALLOWED for path in records)


def test_the_outlines_lie_in_their_pictures() -> None:
    outlines = json.loads(script.OUTLINES.read_text("utf-8"))["pictures"]
    assert len(outlines) == 20
    for name, polygons in outlines.items():
        for polygon in polygons:
            points = np.array(polygon)
            assert points.shape[0] >= 4, name
            assert ((points >= 0) & (points <= 1)).all(), name


def test_photographs_with_masks_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (PHOTOGRAPHS / "imagenet-one-each-160.tar").exists():
        pytest.skip("needs imagenet-one-each-160.tar; CODA_TEST_DATA names its folder")
    script.prepare(PHOTOGRAPHS, tmp_path)
    records = explained(tmp_path / "pictures", tmp_path / "masks", tmp_path / "run", "imagenet")
    found = [script.check(path, tmp_path / "masks") for path in records]
    assert len(found) == 20
    assert max(one.difference for one in found) < ALLOWED
    assert all(one.share > one.area for one in found)
    script.print_table(tmp_path / "run", tmp_path / "masks")
    assert "largest difference from numpy" in capsys.readouterr().out
