"""DICOM, as scanners write it: grey values by the stated window, which is said; nothing of a patient goes anywhere."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Coda
from program import looked_at, photo, scene

from coda_cli.errors import MediaError
from coda_cli.media import dicom
from coda_cli.media.sources import resolve
from coda_cli.media.stills import SUFFIXES, begins_as_picture, memory_of, read_image

needed = pytest.mark.skipif(importlib.util.find_spec("pydicom") is None, reason="pydicom is not installed")
GREY = np.arange(-1000, 200, 10, dtype=np.int16).reshape(10, 12)


def scan(path: Path, values: np.ndarray[Any, Any] = GREY, **fields: Any) -> Path:
    """A file with these pixels; fields as DICOM calls them."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = fields.pop("syntax", ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName = "Secret^Name"
    data.Rows, data.Columns = values.shape[-3:-1] if values.shape[-1] == 3 else values.shape[-2:]
    data.SamplesPerPixel = 3 if values.shape[-1] == 3 else 1
    data.PhotometricInterpretation = "RGB" if values.shape[-1] == 3 else "MONOCHROME2"
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


@needed
def test_grey_values_follow_the_window_of_the_file(tmp_path: Path) -> None:
    picture = read_image(scan(tmp_path / "a.dcm", WindowCenter=-400, WindowWidth=800))
    expected = np.clip(((GREY.astype(float) + 400.5) / 799 + 0.5), 0, 1) * 255  # PS3.3, C.11.2.1.2.1
    assert np.abs(picture.rgb[..., 0] - expected).max() <= 0.51
    assert (picture.rgb == picture.rgb[..., :1]).all()
    assert picture.notes == ("window -400, width 800",)


@needed
@pytest.mark.parametrize(
    ("fields", "note", "first", "last"),
    [
        ({}, "no window in the file: -1000 is black, 190 is white", 0, 255),
        ({"RescaleSlope": 2, "RescaleIntercept": 5}, "no window in the file: -1995 is black, 385 is white", 0, 255),
        ({"WindowCenter": [0, 5], "WindowWidth": [2000, 9]}, "window 0, width 2000", 0, 152),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "no window in the file: -1000 is black, 190 is white", 255, 0),
    ],
)
def test_what_its_fields_say_is_done_and_said(
    tmp_path: Path, fields: dict[str, Any], note: str, first: int, last: int
) -> None:
    picture = read_image(scan(tmp_path / "a.dcm", **fields))
    assert picture.notes[0] == note
    assert abs(int(picture.rgb[0, 0, 0]) - first) <= 1
    assert abs(int(picture.rgb[-1, -1, 0]) - last) <= 1
    assert ("PhotometricInterpretation" in fields) == any("inverted" in said for said in picture.notes)


@needed
def test_colours_and_the_first_of_several_frames(tmp_path: Path) -> None:
    colours = scene(20, 16)
    assert np.array_equal(read_image(scan(tmp_path / "c.dcm", colours)).rgb, colours)
    frames = np.stack([np.full((8, 9), value, np.uint8) for value in (10, 200)])
    frames[:, 0, 0], frames[:, 0, 1] = 0, 255
    picture = read_image(scan(tmp_path / "f.dcm", frames, NumberOfFrames=2))
    assert picture.rgb.shape == (8, 9, 3)
    assert picture.rgb[4, 4, 0] == 10
    assert "first of 2 frames" in picture.notes


@needed
def test_it_is_explained_and_its_patient_is_nowhere(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    scan(tmp_path / "p" / "a.dcm", WindowCenter=-400, WindowWidth=800)
    assert [item.name for item in resolve([str(tmp_path / "p")])] == [str(tmp_path / "p" / "a.dcm")]
    record = coda("explain", "p", "-o", "out", "--json").record
    assert "window -400, width 800" in record["source"]["notes"]
    assert not any(b"Secret" in path.read_bytes() for path in (tmp_path / "out").iterdir())
    data = (tmp_path / "p" / "a.dcm").read_bytes()
    assert begins_as_picture(data[:4096])
    assert looked_at(coda, "-", input=data).record["source"]["path"] == "stdin"


@needed
def test_what_cannot_be_read_is_one_line(tmp_path: Path, coda: Coda) -> None:
    from pydicom.uid import JPEG2000Lossless

    whole = scan(tmp_path / "whole.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-40])
    (tmp_path / "head.dcm").write_bytes(whole[:300])
    (tmp_path / "none.dcm").write_bytes(bytes(128) + b"DICM" + b"x" * 500)
    (tmp_path / "packed.dcm").write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1))
    scan(tmp_path / "large.dcm", Rows=65000, Columns=65000)
    for name in ("cut", "head", "none", "packed", "large"):
        result = coda("explain", f"{name}.dcm", "-o", name, status=1)
        assert result.error.startswith(f"{name}.dcm: ")
    assert "more than 128 million pixels" in coda("explain", "large.dcm", status=1).error
    fake = scan(tmp_path / "j2k.dcm")
    data = importlib.import_module("pydicom").dcmread(fake)
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.PixelData = importlib.import_module("pydicom.encaps").encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    data["PixelData"].VR = "OB"
    data.save_as(fake)
    assert coda("explain", "j2k.dcm", status=1).error.startswith("j2k.dcm: ")


@needed
def test_its_memory_is_counted_by_its_header(tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", np.zeros((300, 400), np.uint16))
    assert memory_of(path) >= path.stat().st_size + 300 * 400 * 4
    assert memory_of("a.dcm", path.read_bytes()) == memory_of(path)


def test_without_its_library_a_picture_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom.require.cache_clear()
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(MediaError, match=r"is a DICOM picture, and pip install 'coda-cli\[dicom\]' reads DICOM"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.skipif(".dcm" in SUFFIXES, reason="pydicom is installed")
def test_a_scan_says_how_to_read_what_it_leaves_out(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "b.dcm").write_bytes(bytes(128) + b"DICM")
    said: list[str] = []
    resolve([str(tmp_path)], on_left_out=said.append)
    assert "reads DICOM" in said[0]


def test_it_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM")
    assert dicom.is_dicom(tmp_path / "a")
    stream = io.BytesIO(b"DICM")
    assert not dicom.is_dicom(stream)
    assert stream.tell() == 0
