"""Paths as text."""


def utf8(text: str) -> str:
    """A path as text for records and for names of outputs: bytes that are no UTF-8 are written as \\xff."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
