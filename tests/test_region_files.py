"""Masks and annotation files: what they say, found for each picture, and refused in one line where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coda_cli.errors import CodaError, MediaError
from coda_cli.explanation.regions.annotations import Place, shapes_in
from coda_cli.explanation.regions.asked import Regions
from coda_cli.explanation.regions.coco import run_lengths
from coda_cli.explanation.regions.shapes import Shape, laid
from coda_cli.machine import budget
from coda_cli.media.masks import outlines_of, read_mask
from coda_cli.media.view import View
from coda_cli.opencv import cv2

PICTURE = Place(Path("in/dog.jpg"))
VIEW = View(np.zeros((50, 100, 3), np.uint8), (0, 0, 100, 50), (100, 50))  # the original itself


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def area(shape: Shape) -> float:
    """Of a picture of 100 x 50 pixels, how many lie inside."""
    return float(laid(shape, VIEW).coverage.shares.sum())


def named(path: Path, *wanted: str, place: Place = PICTURE) -> dict[str, float]:
    return {shape.name: area(shape) for shape in shapes_in(path, place, wanted)}


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_the_numbers_of_a_mask_count_not_its_colours(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    palette = Image.fromarray(numbers)
    palette.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9, 7, 7, 7])  # 0 is white, and is outside
    palette.save(tmp_path / "palette.png")
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    Image.fromarray(numbers.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    Image.fromarray(np.stack([numbers, numbers * 0, numbers], 2)).save(tmp_path / "colour.png")
    alpha = np.stack([numbers, np.where(numbers == 1, 0, 255).astype(np.uint8)], 2)
    Image.fromarray(alpha, "LA").save(tmp_path / "alpha.png")
    Image.fromarray(numbers > 1).save(tmp_path / "bits.png")
    for name in ("palette", "grey"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), numbers)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png"), numbers.astype(int) * 1000)
    np.testing.assert_array_equal(read_mask(tmp_path / "colour.png"), numbers.astype(int) * 65537)
    np.testing.assert_array_equal(read_mask(tmp_path / "alpha.png"), np.where(numbers == 1, 0, numbers))
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png"), numbers > 1)


def test_what_is_transparent_is_outside_in_every_kind_of_mask(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    palette = Image.fromarray(numbers)
    palette.putpalette(list(range(12)))
    palette.save(tmp_path / "one.png", transparency=2)
    palette.save(tmp_path / "each.png", transparency=bytes([255, 9, 0]))
    palette.save(tmp_path / "one.gif", transparency=2)
    Image.fromarray(numbers).save(tmp_path / "grey.png", transparency=2)
    for name in ("one.png", "each.png", "one.gif", "grey.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), np.where(numbers == 2, 0, numbers), name)


def test_no_number_of_a_mask_becomes_0(tmp_path: Path) -> None:
    values = np.array([[0, 0.25, -0.5, 1], [2, 300, 0, 70_000]], np.float32)
    Image.fromarray(values).save(tmp_path / "fractions.tif")
    np.testing.assert_array_equal(read_mask(tmp_path / "fractions.tif"), [[0, 1, -1, 1], [2, 300, 0, 70_000]])
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(tmp_path / "nan.tif")
    deep = np.ones((4, 5, 3), np.uint16)  # 1 of 65,535, of which Pillow keeps the upper half
    cv2.imwrite(str(tmp_path / "colours.png"), deep)
    cv2.imwrite(str(tmp_path / "colours.tif"), deep)
    for name, part in (("nan.tif", "no label"), ("colours.png", "of 16 bits"), ("colours.tif", "of 16 bits")):
        with pytest.raises(MediaError, match=part):
            read_mask(tmp_path / name)


def test_a_mask_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    frames = [Image.new("L", (4, 4), value) for value in (0, 9)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    for name, part in (("text.png", "not a picture"), ("empty.png", "empty"), ("two.gif", "2 frames")):
        with pytest.raises(MediaError, match=part):
            read_mask(tmp_path / name)


def test_a_mask_that_would_fill_the_memory_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (20_000, 7_000)).save(tmp_path / "huge.png")
    with pytest.raises(MediaError, match="more than 128 million"):
        read_mask(tmp_path / "huge.png")


def test_outlines_go_around_every_part_of_a_mask() -> None:
    mask = np.zeros((50, 100), bool)
    mask[10:20, 10:30] = mask[30:40, 50:90] = True
    lines = outlines_of(mask, (2, 1))
    bounds = sorted((*line.min(0).tolist(), *line.max(0).tolist()) for line in lines)
    assert bounds == [(21, 10.5, 59, 19.5), (101, 30.5, 179, 39.5)]


def test_a_folder_has_a_mask_for_each_picture(tmp_path: Path) -> None:
    for n, name in enumerate(("dog.png", "cat.jpg.png", "deep/dog.png"), 1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        mask = np.zeros((50, 100), np.uint8)
        mask[:, :n] = 200
        Image.fromarray(mask).save(tmp_path / name)
    asked = Regions(masks=str(tmp_path))
    for place, columns in ((PICTURE, 1), (Place(Path("cat.jpg")), 2), (Place(Path("dog.webp"), Path("deep")), 3)):
        (region,) = asked.found(place, VIEW).regions
        assert region.coverage.shares.sum() == 50 * columns
    (tmp_path / "deep" / "dog.png").rename(tmp_path / "deep" / "dog.PNG")  # as cameras and some programs write it
    assert asked.found(Place(Path("dog.webp"), Path("deep")), VIEW).regions[0].coverage.shares.sum() == 150
    with pytest.raises(MediaError, match=r"has no mask named bird\.png"):
        asked.found(Place(Path("bird.jpg")), VIEW)


def test_parts_of_a_mask_are_regions_of_their_own(tmp_path: Path) -> None:
    mask = np.zeros((50, 100), np.uint8)
    mask[:, :10], mask[:, 10:30] = 1, 7
    Image.fromarray(mask).save(tmp_path / "m.png")

    def areas(*labels: str) -> dict[str, float]:
        found = Regions(masks=str(tmp_path / "m.png"), labels=labels).found(PICTURE, VIEW)
        return {region.name: float(region.coverage.shares.sum()) for region in found.regions}

    assert areas() == {"mask": 1500}
    assert areas("all") == {"1": 500, "7": 1000}
    assert areas("all", "7=dog") == {"1": 500, "dog": 1000}
    assert areas("7=dog") == {"dog": 1000}
    with pytest.raises(MediaError, match="the region 3 is empty: no pixel of its mask"):
        areas("3")


# ---- COCO ------------------------------------------------------------------------------------------------------------


def coco(*annotations: dict[str, Any], **changes: Any) -> dict[str, Any]:
    images = [{"id": 5, "file_name": "dog.jpg", "width": 100, "height": 50}, {"id": 6, "file_name": "x/cat.jpg"}]
    entries = [{"image_id": 5, "category_id": 1, **a} for a in annotations]
    return {"images": images, "categories": [{"id": 1, "name": "dog"}], "annotations": entries} | changes


def written_by_coco(mask: NDArray[np.bool_]) -> str:
    """COCO's text of a mask, written from its description: lengths by columns, differences, five bits a character."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    lengths = np.diff(np.concatenate([[0], edges])).tolist()
    text = ""
    for n, length in enumerate(lengths):
        value, more = length - (lengths[n - 2] if n > 2 else 0), True
        while more:
            low, value = value & 31, value >> 5
            more = value != -1 if low & 16 else value != 0
            text += chr(48 + (low | (32 if more else 0)))
    return text


def test_instances_of_coco(tmp_path: Path) -> None:
    mask = np.zeros((50, 100), bool)
    mask[5:45, 10:90] = np.random.default_rng(0).random((40, 80)) < 0.5
    path = write(
        tmp_path / "coco.json",
        coco(
            {"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 30, 0, 30, 5]]},
            {"segmentation": {"size": [50, 100], "counts": written_by_coco(mask)}},
            {"segmentation": {"size": [50, 100], "counts": [100, 250, 4650]}},
            {"bbox": [10, 10, 20, 5]},
        ),
    )
    shapes = shapes_in(path, PICTURE)
    assert [area(s) for s in shapes] == pytest.approx([125, mask.sum(), 250, 100])
    np.testing.assert_array_equal(shapes[1].mask, mask)
    found = Regions(annotations=str(path)).found(PICTURE, VIEW)
    assert [region.name for region in found.regions] == ["dog", "dog 2", "dog 3", "dog 4"]


def test_a_panoptic_file_has_its_masks_beside_it(tmp_path: Path) -> None:
    numbers = np.zeros((50, 100, 3), np.uint8)
    numbers[:, :10] = (7, 1, 0)  # 263
    numbers[:, 10:25] = (0, 0, 2)  # 131072
    (tmp_path / "panoptic").mkdir()
    Image.fromarray(numbers).save(tmp_path / "panoptic" / "dog.png")
    segments = [{"id": 263, "category_id": 1}, {"id": 131072, "category_id": 2}]
    content = coco({"file_name": "dog.png", "segments_info": segments})
    content["categories"].append({"id": 2, "name": "grass"})
    path = write(tmp_path / "panoptic.json", content)
    assert named(path) == {"dog": 500, "grass": 750}
    assert named(path, "grass") == {"grass": 750}
    files = Regions(annotations=str(path)).files(PICTURE)
    assert list(files) == [path.as_posix(), (tmp_path / "panoptic" / "dog.png").as_posix()]
    assert files == Regions(annotations=str(path)).found(PICTURE, VIEW).files


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{f}/dog.jpg", "width": 100, "height": 50} for n, f in ((5, "in"), (6, "out"))]
    annotations = [{"image_id": n, "category_id": 1, "bbox": [0, 0, n, n]} for n in (5, 6)]
    path = write(tmp_path / "c.json", coco(images=images, annotations=annotations))
    assert named(path) == {"dog": 25}
    assert named(path, place=Place(Path("out/dog.jpg"))) == {"dog": 36}
    with pytest.raises(MediaError, match="has 2 images that may be"):
        named(path, place=Place(Path("elsewhere/dog.jpg")))


def test_of_one_name_the_image_that_agrees_in_most_folders_is_taken(tmp_path: Path) -> None:
    names = ("dog.jpg", "in/dog.jpg", "deep/in/dog.jpg")
    images = [{"id": n, "file_name": name, "width": 100, "height": 50} for n, name in enumerate(names, 1)]
    annotations = [{"image_id": n, "category_id": 1, "bbox": [0, 0, n, n]} for n in (1, 2, 3)]
    path = write(tmp_path / "c.json", coco(images=images, annotations=annotations))
    for name, expected in (("other/dog.jpg", 1), ("in/dog.jpg", 4), ("deep/in/dog.jpg", 9)):
        assert named(path, place=Place(Path(name))) == {"dog": expected}


def test_images_are_found_by_the_number_of_a_frame(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"frame_{n:05}.png", "width": 100, "height": 50} for n in (2, 12)]
    annotations = [{"image_id": n, "category_id": 1, "bbox": [0, 0, n, n]} for n in (2, 12)]
    path = write(tmp_path / "c.json", coco(images=images, annotations=annotations))
    assert named(path, place=Place(Path("clip.mp4"), frame=12, time=0.5)) == {"dog": 144}
    with pytest.raises(MediaError, match="does not know frame 3"):
        named(path, place=Place(Path("clip.mp4"), frame=3, time=0.1))


BOX = {"bbox": [0, 0, 5, 5]}


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (coco(), "has no region for this picture"),
        (coco({**BOX, "category_id": 9}), "category 9"),
        (coco(BOX, images=[{"id": 5, "file_name": "other.jpg"}]), "does not know dog.jpg"),
        (coco(BOX, images=[]), "does not know dog.jpg"),
        (coco(BOX, images={"id": 5}), "its images are no list"),
        (coco(BOX, images=[5]), "its images are no list"),
        (coco(BOX, categories=[{"id": 1}]), "category has no name"),
        (coco(BOX, categories=[{"id": 1, "name": "a\x1b[2J"}]), "category has no name"),
        (coco({**BOX, "image_id": "5"}), "no image_id"),
        (coco({}), "neither a segmentation nor a box"),
        (coco({"bbox": [0, 0, "x", 5]}), "number of pixels is expected"),
        (coco({"bbox": [0, 0, 1e300, 5]}), "number of pixels is expected"),
        (coco({"bbox": [0, 0, True, 5]}), "number of pixels is expected"),
        (coco({"segmentation": [[1, 2, 3]]}), "a polygon of 3 numbers"),
        (coco({"segmentation": [[1, 2, 3, 4, 5, "x"]]}), "is no number"),
        (coco({"segmentation": [[1, 2, 3, 4, 5, [6]]]}), "is no number"),
        (coco({"segmentation": [5]}), "no list of polygons"),
        (coco({"segmentation": {"size": [50, 100], "counts": [1, 2]}}), "run lengths of 3 pixels"),
        (coco({"segmentation": {"size": [50, 100], "counts": [-1, 5001]}}), "no whole numbers"),
        (coco({"segmentation": {"size": [50, 100], "counts": "\x00"}}), "does not write"),
        (coco({"segmentation": {"size": [50, 100], "counts": "o" * 90}}), "does not write"),
        (coco({"segmentation": {"size": [9, 9], "counts": [81]}}), "run lengths of size"),
        (coco({"segments_info": [], "file_name": "../secret.png"}), "names no mask beside it"),
        (coco({"segments_info": [], "file_name": "none.png"}), "neither in"),
        ([1, 2], "neither COCO"),
        ({"annotations": 5}, "neither COCO"),
        ("[" * 100_000, "cannot|can be read"),
        ('{"annotations": NaN}', "NaN is no number"),
        ("", "is not JSON"),
    ],
)
def test_coco_that_is_wrong_is_refused_in_one_line(tmp_path: Path, content: object, part: str) -> None:
    path = write(tmp_path / "c.json", content)
    with pytest.raises(MediaError, match=part) as caught:
        Regions(annotations=str(path)).found(PICTURE, VIEW)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_what_is_wrong_with_others_does_not_matter_to_what_is_wanted(tmp_path: Path) -> None:
    """One point among the shapes of labelme, one broken run length: --labels takes what can be read."""
    content = coco({"bbox": [0, 0, 5, 5]}, {"category_id": 2, "segmentation": {"size": [1, 1], "counts": [1]}})
    content["categories"].append({"id": 2, "name": "crowd"})
    point = {"label": "eye", "points": [[1, 1]], "shape_type": "point"}
    box = {"label": "dog", "points": [[0, 0], [5, 5]], "shape_type": "rectangle"}
    paths = [write(tmp_path / "c.json", content), write(tmp_path / "l.json", labelme(point, box))]
    paths += [
        write(tmp_path / "y.txt", "1 2 3 4\n0 0.025 0.05 0.05 0.1\n"),
        write(tmp_path / "classes.txt", "dog\neye"),
    ][:1]
    broken = "<object><name>eye</name></object>"
    fine = DOG.replace(">10<", ">5<")
    paths.append(write(tmp_path / "v.xml", voc(broken + fine)))
    for path in paths:
        assert named(path, "dog") == pytest.approx({"dog": 25}), path
        with pytest.raises(MediaError):
            named(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.json", {"bbox": [50, 20, -20, 10]}),
        ("c.json", {"bbox": [50, 20, 20, -10]}),
        ("v.xml", "<xmin>80</xmin><ymin>1</ymin><xmax>10</xmax><ymax>5</ymax>"),
    ],
)
def test_a_box_whose_edges_are_in_the_wrong_order_is_refused(tmp_path: Path, name: str, content: Any) -> None:
    inside = f"<object><name>dog</name><bndbox>{content}</bndbox></object>"
    path = write(tmp_path / name, coco(content) if name == "c.json" else voc(inside))
    with pytest.raises(MediaError, match="the box of dog has its edges in the wrong order"):
        named(path)


def test_a_region_without_an_area_is_refused() -> None:
    for ring in ([[10, 10], [20, 20], [30, 30]], [[10, 10], [10, 20], [10, 30]], [[-25, 20], [-25, -25], [20, -25]]):
        with pytest.raises(MediaError, match="holds nothing of a picture"):
            area(Shape("line", (np.array(ring, float),)))
    assert area(Shape("thin", (np.array([[10, 10], [20, 10], [20, 10.001]], float),))) == pytest.approx(0.005)


def test_an_unknown_name_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="there is no cat among its names: dog"):
        named(write(tmp_path / "c.json", coco(BOX)), "cat")


def test_run_lengths_are_no_larger_than_pictures_may_be() -> None:
    with pytest.raises(MediaError, match="more than 128 million"):
        run_lengths({"size": [100_000, 100_000], "counts": [10**10]}, (100_000, 100_000))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.json", coco(BOX))
    monkeypatch.setattr(budget, "ANNOTATIONS_FILE", 100)
    with pytest.raises(MediaError, match="more than the 0 MB that are read"):
        named(path)


def test_one_picture_has_no_more_regions_than_can_be_summed(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", coco(*[BOX] * 201))
    with pytest.raises(MediaError, match="more than 200 regions"):
        Regions(annotations=str(path)).found(PICTURE, VIEW)


def test_regions_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.json", coco(*[BOX] * 3))
    monkeypatch.setattr(budget, "REGIONS_BYTES", 2 * 5 * 5 * 8)
    with pytest.raises(MediaError, match="its 3 regions take too much memory"):
        Regions(annotations=str(path)).found(PICTURE, VIEW)


# ---- labelme, YOLO, Pascal VOC ---------------------------------------------------------------------------------------


def labelme(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"imageWidth": 100, "imageHeight": 50, "shapes": [*shapes]} | changes


def test_shapes_of_labelme(tmp_path: Path) -> None:
    content = labelme(
        {"label": "dog", "points": [[0, 0], [10, 0], [10, 10]], "shape_type": "polygon"},
        {"label": "head", "points": [[30, 20], [10, 10]], "shape_type": "rectangle"},
        {"label": "eye", "points": [[50, 25], [50, 35]], "shape_type": "circle"},
    )
    path = write(tmp_path / "dog.json", content)
    assert named(path) == pytest.approx({"dog": 50, "head": 200, "eye": np.pi * 100}, rel=1e-4)
    assert named(path, "head") == {"head": 200}
    assert named(tmp_path / "dog.json", "eye").keys() == {"eye"}


POINTS = [[0, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (labelme(), "has no region"),
        (labelme({"label": "a"}), "has no points"),
        (labelme({"label": "", "points": POINTS}), "has no name"),
        (labelme({"label": "a", "points": [[0, 0, 0]]}), "not x, y"),
        (labelme({"label": "a", "points": [[0, 0], [1, None], [1, 1]]}), "number of pixels is expected"),
        (labelme({"label": "a", "points": POINTS, "shape_type": "mask"}), "is a mask; polygons"),
        (labelme({"label": "a", "points": POINTS}, imageWidth=None), "number of pixels is expected"),
        (labelme({"label": "a", "points": POINTS}, imageWidth=50), "is for a picture of 50 x 50"),
        (labelme({"label": "a", "points": [[200, 0], [300, 0], [300, 9]]}), "holds nothing of a picture"),
    ],
)
def test_labelme_that_is_wrong_is_refused(tmp_path: Path, content: object, part: str) -> None:
    with pytest.raises(MediaError, match=part):
        Regions(annotations=str(write(tmp_path / "a.json", content))).found(PICTURE, VIEW)


def test_lines_of_yolo(tmp_path: Path) -> None:
    path = write(tmp_path / "dog.txt", "0 0.5 0.5 0.2 0.4\n\n1 0 0 0.1 0 0.1 0.2\n")
    assert named(path) == pytest.approx({"0": 20 * 20, "1": 50})
    write(tmp_path / "classes.txt", "dog\ncat\n")
    assert named(path) == pytest.approx({"dog": 400, "cat": 50})
    assert list(Regions(annotations=str(path)).files(PICTURE)) == [str(path), str(tmp_path / "classes.txt")]
    write(tmp_path / "classes.txt", "dog\n\ncat\n\n")  # an empty line is a class without a name, but for the last ones
    with pytest.raises(MediaError, match="no name that can be shown"):
        named(path)
    write(tmp_path / "dog.txt", "2 0.5 0.5 0.2 0.4\n")
    assert named(path) == pytest.approx({"cat": 400})
    write(tmp_path / "dog.txt", "0 0.5 0.5 0.2 0.4\n")
    # Relative to whatever size the picture has.
    small = View(np.zeros((5, 5, 3), np.uint8), (0, 0, 5, 5), (5, 5))
    assert laid(shapes_in(path, PICTURE)[0], small).coverage.shares.sum() == pytest.approx(2)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "has no region"),
        ("dog 0.5 0.5 0.2 0.4", "does not begin with the number"),
        ("0 0.5 0.5 0.2", "has 3 numbers"),
        ("0 0.5 0.5 0.2 20", "outside 0 to 1"),
        ("0 0.5 0.5 0.2 nan", "outside 0 to 1"),
        ("0 0.5 0.5 0.2 x", "is no number"),
        ("7 0.5 0.5 0.2 0.2", "has 1 names"),
        ("0 0.5 0.5 0 0", "holds nothing of a picture"),
    ],
)
def test_yolo_that_is_wrong_is_refused(tmp_path: Path, text: str, part: str) -> None:
    write(tmp_path / "classes.txt", "dog")
    with pytest.raises(MediaError, match=part):
        Regions(annotations=str(write(tmp_path / "dog.txt", text))).found(PICTURE, VIEW)


def voc(inside: str, head: str = "", size: str = "<size><width>100</width><height>50</height></size>") -> str:
    return f"{head}<annotation>{size}{inside}</annotation>"


DOG = "<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>5</ymax></bndbox></object>"


def test_objects_of_pascal_voc_count_pixels_from_1(tmp_path: Path) -> None:
    assert named(write(tmp_path / "dog.xml", voc(DOG))) == {"dog": 50}
    assert named(write(tmp_path / "dog.xml", voc(DOG, size=""))) == {"dog": 50}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not XML"),
        ("<annotation>", "not XML"),
        ("<html/>", "not a Pascal VOC"),
        (voc(""), "has no region"),
        (voc(DOG.replace("dog", "")), "has no name"),
        (voc(DOG.replace(">10<", ">x<")), "number of pixels is expected"),
        (voc("<object><name>a</name></object>"), "number of pixels is expected"),
        (voc(DOG, '<!DOCTYPE a [<!ENTITY b "bbbb">]>'), "with a document type"),
        (voc(DOG, '<!DOCTYPE a SYSTEM "file:///etc/passwd">'), "with a document type"),
        ("<a>" * 60 + "</a>" * 60, "nested too deeply"),
        ('<?xml version="1.0" encoding="nobody-knows"?><annotation/>', "not XML"),
    ],
)
def test_voc_that_is_wrong_is_refused(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(MediaError, match=part):
        Regions(annotations=str(write(tmp_path / "dog.xml", text))).found(PICTURE, VIEW)


def test_a_document_type_is_refused_in_any_encoding(tmp_path: Path) -> None:
    (tmp_path / "dog.xml").write_bytes(voc(DOG, '<!DOCTYPE a [<!ENTITY b "b">]>').encode("utf-16"))
    with pytest.raises(MediaError, match="with a document type"):
        named(tmp_path / "dog.xml")


def test_a_folder_has_a_file_of_annotations_for_each_picture(tmp_path: Path) -> None:
    write(tmp_path / "dog.json", labelme({"label": "dog", "points": POINTS}))
    write(tmp_path / "cat.txt", "0 0.5 0.5 0.2 0.4")
    write(tmp_path / "bird.xml", voc(DOG))
    asked = Regions(annotations=str(tmp_path))
    for name in ("dog", "cat", "bird"):
        assert asked.found(Place(Path(f"{name}.jpg")), VIEW).regions
    with pytest.raises(MediaError, match=r"has no file of regions named fish\.json"):
        asked.found(Place(Path("fish.jpg")), VIEW)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", coco(BOX))
    asked = Regions(annotations=str(path))
    first = asked.files(PICTURE)
    assert named(path) == {"dog": 25}
    write(path, coco({"bbox": [0, 0, 10, 10.0]}))
    assert named(path) == {"dog": 100}
    assert asked.files(PICTURE) != first


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodaError, match=r"expected \.json"):
        Regions(annotations=str(write(tmp_path / "a.csv", "1,2"))).found(PICTURE, VIEW)
