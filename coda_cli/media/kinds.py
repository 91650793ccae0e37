"""What bytes are that are no picture, by how they begin: for messages that say what to do about them."""

from __future__ import annotations

import re
from pathlib import Path

HEAD = 512  # bytes that tell it

_PACKED = "compressed with {}; decompress it first"
_ARCHIVE = "a {} archive, which is read from a file whose name ends in {}"
_KINDS = [
    (re.compile(beginning, re.DOTALL | re.IGNORECASE), what)
    for beginning, what in (
        (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", _ARCHIVE.format("ZIP", ".zip")),
        (rb".{257}ustar", _ARCHIVE.format("tar", ".tar")),
        (rb"PAR1[\0-\x1f]", "a Parquet file, which is read where its name ends in .parquet"),
        (rb"\x1f\x8b", _PACKED.format("gzip")),
        (rb"BZh[1-9]1AY&SY", _PACKED.format("bzip2")),
        (rb"\xfd7zXZ\0", _PACKED.format("xz")),
        (rb"\x28\xb5\x2f\xfd", _PACKED.format("zstd")),
        (rb"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it first"),
        (rb"Rar!\x1a\x07", "a RAR archive; unpack it first"),
        (rb".{4}ftyp(?!avi[fs]|hei|hev|mi[fs]1)|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a clip; coda video explains it"),
        (rb"%PDF-", "a PDF; save its pages as pictures first"),
        (
            rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<svg[\s>]",
            "a drawing in SVG; save it as PNG first",
        ),
        (rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)[\s>]", "a web page"),
        (rb"\xff\xfe|\xfe\xff", "a text in UTF-16; save it in UTF-8 first"),
    )
]


def kind_of(head: bytes) -> str | None:
    """Say what bytes are that are no picture which coda reads.

    Args:
        head: the first HEAD bytes, or all there are; more do no harm.

    Returns:
        What they are and what to do, as words that stand behind "it is"; None where that is not known.
    """
    return next((what for beginning, what in _KINDS if beginning.match(head)), None)


def of_file(path: Path) -> str | None:
    """Say what a file is that is not what was expected.

    Args:
        path: the file.

    Returns:
        As ``kind_of``; None also where it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return kind_of(stream.read(HEAD))
    except OSError:
        return None


def why_no_archive(path: Path, error: Exception) -> str:
    """Say why a file that is an archive by its name cannot be listed.

    Args:
        path: the file, whose name ends as one of ``archives.ARCHIVES``.
        error: what the library that reads such archives raised.

    Returns:
        The message: that it is something else, or what the library says.
    """
    suffix = path.suffix.lower()
    expected = {".zip": "ZIP", ".parquet": "Parquet", ".tar": "tar", ".bz2": "bzip2", ".tbz2": "bzip2"}.get(
        suffix, "gzip"
    )
    name = {"ZIP": "ZIP archive", "Parquet": "Parquet file"}.get(expected, "tar archive")
    kind = of_file(path)
    if kind and expected not in kind:
        return f"is no {name}, whatever its name says: it is {kind}"
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200] or type(error).__name__
    return f"is no {name}, or is broken or cut off ({reason})"
