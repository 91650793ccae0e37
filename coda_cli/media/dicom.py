"""DICOM, as scanners write it: read by pydicom where that is installed (the extra ``dicom``), as a format of Pillow.

Numbers become grey values by the window that the file states (DICOM PS3.3, C.11.2), which is said. Nothing else of the
file is looked at, so that what it says of a patient goes nowhere.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from coda_cli.errors import MediaError

NAMES = (".dcm", ".dicom")  # suffixes of such files
ADVICE = "pip install 'coda-cli[dicom]' reads DICOM"
NOTES = "coda notes"  # key of what was converted, among what Pillow keeps of an image
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # pydicom unpacks all of such a file to look at its first byte
_TAGS = [
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleIntercept", "RescaleSlope",
    "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PixelData",
    "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData", "PixelPaddingValue",
]  # fmt: skip


def suffixes() -> tuple[str, ...]:
    """Say which suffixes a scan takes for pictures of this kind.

    Returns:
        NAMES where pydicom is installed, and nothing where it is not.
    """
    return NAMES if importlib.util.find_spec("pydicom") else ()


def is_dicom(file: Path | IO[bytes]) -> bool:
    """Say whether a file is of this kind, by what stands behind its first 128 bytes.

    Args:
        file: the file, or a stream at its beginning, which stays there.

    Returns:
        Whether it is.
    """
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return is_dicom(stream)
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM"


@cache
def require() -> None:
    """Make Pillow read such files, under the name DICOM.

    Raises:
        MediaError: pydicom is not installed.
    """
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise MediaError(f"is a DICOM picture, and {ADVICE}") from error
    Image.register_open(_DicomFile.format, _DicomFile)


class _DicomFile(ImageFile.ImageFile):
    """A frame of a file, the first unless another is sought: the header alone until it is loaded."""

    format = "DICOM"
    format_description = "Digital Imaging and Communications in Medicine"

    def _open(self) -> None:
        import pydicom

        stream = self.fp
        assert stream is not None
        if _DEFLATED in stream.read(2048):
            raise MediaError("a DICOM file that is compressed as a whole is not read; store it in another way first")
        stream.seek(0)
        self._data: Any = pydicom.dcmread(stream, specific_tags=_TAGS, defer_size=None)
        if "Rows" not in self._data or "Columns" not in self._data:
            raise MediaError("a DICOM file without a picture")
        self._size = (int(self._data.Columns), int(self._data.Rows))
        self._mode = "L" if int(self._data.get("SamplesPerPixel", 1)) == 1 and not _has_palette(self._data) else "RGB"
        self.n_frames = int(self._data.get("NumberOfFrames") or 1)
        self.tile, self._frame = [], 0

    def seek(self, frame: int) -> None:
        """Choose the frame that is decoded."""
        if not 0 <= frame < self.n_frames:
            raise EOFError
        self._frame = frame

    def load(self) -> Any:
        """Decode the frame."""
        if self._data is not None:
            values, notes = _decoded(self._data, self._frame)
            self.im, self._data = Image.fromarray(values).im, None
            self.info[NOTES] = notes
        return super().load()


def _has_palette(data: Any) -> bool:
    return str(data.get("PhotometricInterpretation", "")).strip() == "PALETTE COLOR"


def _decoded(data: Any, frame: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """A frame as uint8 [H, W] or [H, W, 3], and what was converted, in words. Raises MediaError."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    try:
        values = pixel_array(data, index=frame)
    except RuntimeError as error:
        syntax = data.file_meta.TransferSyntaxUID
        if syntax.is_compressed:
            raise MediaError(
                f"its pixels are compressed ({syntax.name}), and no decoder for that is installed; "
                "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or store it uncompressed"
            ) from error
        raise
    if _has_palette(data):
        values = apply_color_lut(values, data)
        return _to_bytes(values, 0.0, float(np.iinfo(values.dtype).max)), ()
    if values.ndim == 3:
        return _to_bytes(values, 0.0, float((1 << int(data.get("BitsStored", 8))) - 1)), ()
    grey, note = _windowed(apply_modality_lut(values, data).astype(np.float64), data)
    if str(data.get("PhotometricInterpretation", "")).strip() == "MONOCHROME1":
        return 255 - grey, (note, "inverted: it says that its smallest value is white")
    return grey, (note,)


def _windowed(values: NDArray[np.float64], data: Any) -> tuple[NDArray[np.uint8], str]:
    """Grey values by the file's window, else by its smallest and largest value, and which of them, in words."""
    from pydicom.pixels.processing import apply_voi_lut, apply_windowing

    if not np.isfinite(values).all():
        raise ValueError("some of its values are no numbers")
    centre, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width:
        ends = apply_windowing(np.array([centre - 1e6 * abs(width), centre + 1e6 * abs(width)]), data)
        return _to_bytes(apply_windowing(values, data), *map(float, ends)), f"window {centre:g}, width {width:g}"
    if data.get("VOILUTSequence"):
        table = apply_voi_lut(values.astype(np.int64), data).astype(np.float64)
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return _to_bytes(table, 0.0, float((1 << bits) - 1)), "grey values by its own table"
    low, high = float(values.min()), float(values.max())
    return _to_bytes(values, low, high), f"no window in the file: {low:g} is black, {high:g} is white"


def _first(value: Any) -> float | None:
    """The first of several values, or the only one."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (int, float, str)) or not hasattr(value, "__getitem__") else value[0])


def _to_bytes(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (values.astype(np.float64) - low) / max(high - low, 1e-12) * 255
    result: NDArray[np.uint8] = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return result
