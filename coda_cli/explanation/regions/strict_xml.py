"""XML of somebody else. It may have no document type, so that it can define no entities."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.parsers import expat

from coda_cli.errors import MediaError

DEEPEST = 50  # elements inside each other


def read_xml(data: bytes) -> ElementTree.Element:
    """Read XML of somebody else.

    Args:
        data: the file.

    Returns:
        Its root.

    Raises:
        MediaError: it is no XML, has a document type (which may define entities), or is nested too deeply.
    """
    builder, depth = ElementTree.TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise MediaError("is XML that is nested too deeply")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise MediaError("is XML with a document type, which could define entities; remove the line <!DOCTYPE ...>")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:  # an encoding that nobody knows is a LookupError
        raise MediaError(f"is not XML that can be read ({error})") from error
