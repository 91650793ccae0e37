"""The templates of a page, filled in: every text of a user is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def _environment() -> Environment:
    """The templates of this package. What is filled in is escaped, whatever the template is called."""
    return Environment(
        loader=PackageLoader("coda_cli.explanation.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def rendered(template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: its file.
        **values: what it is filled in with.

    Returns:
        HTML.
    """
    return _environment().get_template(template).render(values)


def generated(template: str, **values: Any) -> Iterator[str]:
    """Fill in a template part by part, so that no more than one entry of a page is held.

    Args:
        template: its file.
        **values: what it is filled in with; an iterable is read as the parts come.

    Yields:
        HTML.
    """
    yield from _environment().get_template(template).generate(values)


@cache
def own_file(name: str) -> str:
    """Read a file that is put into pages as it is.

    Args:
        name: of the file, the style or the script.

    Returns:
        Its text.
    """
    return files("coda_cli.explanation.page").joinpath(name).read_text("utf-8")


def hash_of(text: str) -> str:
    """Name a style or a script in a content security policy.

    Args:
        text: all that is between the tags.

    Returns:
        "sha256-" and its hash.
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
