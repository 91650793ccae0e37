"""The templates of a page, filled in: every text of a user is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import IO, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

MARK = '<meta name="generator" content="coda '  # by which a page of coda is known


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


def page_of(
    template: str,
    stream: IO[bytes],
    *,
    scripts: Sequence[str],
    styles: Sequence[str] = ("page.css",),
    config: Any,
    **values: Any,
) -> None:
    """Write a page into a stream, with its style, its script, and the hashes by which its policy allows them.

    Args:
        template: its file.
        stream: that it is written to.
        scripts: the files of its script, after the one that all pages share.
        styles: the files of its style.
        config: numbers for the script; becomes JSON.
        **values: what the template is filled in with; an iterable is read as the parts come.
    """
    style, script = "".join(map(own_file, styles)), "".join(map(own_file, ("common.js", *scripts)))
    parts = generated(
        template,
        style=Markup(style),
        script=Markup(script),
        style_hash=hash_of(style),
        script_hash=hash_of(script),
        config=in_script(json.dumps(config)),
        version=version("coda-cli"),
        **values,
    )
    for part in parts:
        stream.write(part.encode())


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


def in_script(text: str) -> Markup:
    """Make JSON safe for a script element.

    Args:
        text: JSON.

    Returns:
        The same JSON, in which nothing can end the element or begin a comment.
    """
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def json_list(parts: Iterable[Any]) -> Iterator[Markup]:
    """Write the elements of a list for a script element, one at a time.

    Args:
        parts: what becomes JSON; texts that are JSON already are ``Markup``.

    Yields:
        JSON, with a comma before all but the first.
    """
    for number, part in enumerate(parts):
        text = part if isinstance(part, Markup) else in_script(json.dumps(part, separators=(",", ":")))
        yield Markup(f"{',' if number else ''}\n{text}")
