"""Pictures at addresses: http and https, and what fsspec reads with the drivers of its users.

Passwords and signatures stay in the address that is asked for; messages, names and records have the rest of it.
"""

from __future__ import annotations

import os
import posixpath
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import PurePosixPath
from typing import Any, TypeVar

from coda_cli.errors import CodaError, MediaError, UsageError
from coda_cli.machine import budget
from coda_cli.machine.ahead import in_time
from coda_cli.media import http
from coda_cli.media.archives import is_archive
from coda_cli.media.http import AtAddress, PassingError, Private, Remote, reason_of, refuse_length, without_secrets
from coda_cli.media.stills import SUFFIXES
from coda_cli.media.stored import Stored

# What an address may begin with, and the extra of this package that brings the driver; None needs none.
SCHEMES = {
    "http": None, "https": None, "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure",
    "abfss": "azure", "hf": "hf", "zip": None, "tar": None, "memory": None,
}  # fmt: skip
T = TypeVar("T")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_BETWEEN = re.compile(r"::(?![^\[\]]*\])")  # two addresses; the :: of http://[2001:db8::1]/a.png is part of a host
_FORBIDDEN = "is forbidden; the driver has no credentials for it, or they do not allow it"
_OF_ARCHIVES = {  # what the libraries raise for archives inside other addresses, by its class
    "BadZipFile": "the ZIP archive around it is none, or is broken or cut off",
    "ReadError": "the tar archive around it is none, or is broken or cut off",
    "RuntimeError": "is encrypted; download the archive, and unpack it",
    "NotImplementedError": "is compressed in a way that coda does not read; download the archive, and unpack it",
}
_ONE_AT_A_TIME = threading.Lock()  # fsspec's archives share one stream, and its place in the file


def is_address(text: str) -> bool:
    """Say whether a text is an address, and not a path.

    Args:
        text: what a user wrote.

    Returns:
        Whether it begins as ``scheme://`` does.
    """
    return _ADDRESS.match(text) is not None


def refuse_missing(given: str, what: str) -> None:
    """Refuse what cannot be read because nothing is there, or because it is at an address and only disks are read.

    Args:
        given: a path, as a user wrote it.
        what: what would be read, such as "records", for the message about an address.

    Raises:
        UsageError: it is an address, or there is no such file or folder.
    """
    if is_address(given):
        raise UsageError(f"is an address, and {what} are read from a disk; download it first", item=shown(given))
    if not given or not os.path.exists(given):
        raise UsageError("no such file or folder", item=given or '""')


def links_of(url: str) -> list[str]:
    """Take an address inside another apart.

    Args:
        url: the address, such as ``zip://a.png::s3://bucket/b.zip``.

    Returns:
        Its addresses, the innermost first; one of most.
    """
    return _BETWEEN.split(url)


def find_at(
    url: str, *, recursive: bool, private: Private, by_folder: bool = False
) -> Iterator[tuple[PurePosixPath, Stored]]:
    """Find the pictures that an address names: one, those of a folder (it ends in /), or of a pattern.

    Args:
        url: the address.
        recursive: whether folders are looked into as a whole.
        private: whether http and https may lead into a private network.
        by_folder: whether folders are listed one after the other while the pictures of the first are used, in the order
            that the store has; otherwise all of them are in natural order.

    Yields:
        The place below the folder, "." for pictures that are named, and the picture.

    Raises:
        UsageError: no such addresses are read, a driver is missing, or there is no picture.
    """
    url = _one_spelling(url)
    stored = _asked(lambda: at(url, private=private), url)
    if isinstance(stored, AtAddress):
        yield PurePosixPath(), stored
        return
    groups = _asked(lambda: _listed(url, recursive, by_folder), url)
    if groups is None:
        yield PurePosixPath(), stored
        return
    empty = True
    while (group := _asked(lambda: next(groups, None), url)) is not None:
        for place, each in group:
            empty = False
            yield place, InStore(shown(each), each)
    if empty:
        raise UsageError("no pictures at this address", item=shown(url))


def _asked(question: Callable[[], T], url: str) -> T:
    """What a driver answers in time. Raises UsageError."""
    try:
        with driver_errors():
            return in_time(question, http.LONGEST)
    except (MediaError, TimeoutError) as error:
        message = error.message if isinstance(error, CodaError) else "the server does not answer"
        raise UsageError(message, item=shown(url)) from None


def at(url: str, *, private: Private, chains: bool = True) -> Stored:
    """Make what reads one address; nothing is asked yet.

    Args:
        url: the address.
        private: whether http and https may lead into a private network.
        chains: whether an address may lead through another, as ``zip://a.png::s3://bucket/b.zip`` does.

    Returns:
        The picture there.

    Raises:
        UsageError: no such addresses are read.
    """
    url = _one_spelling(url)
    links = links_of(url)
    schemes = [found[1].lower() for link in links if (found := _ADDRESS.match(link))]
    unknown = [scheme for n, scheme in enumerate(schemes) if scheme not in SCHEMES and not (n and scheme == "file")]
    if unknown:
        raise UsageError(f"{unknown[0]}:// is not read; coda reads {', '.join(SCHEMES)}", item=shown(url))
    if len(links) > 1 and (not chains or {"http", "https"} & {*schemes}):
        raise UsageError("an address inside another is read from the command line, not over http", item=shown(url))
    if is_archive(shown(links[0])):
        raise UsageError(
            _about_archive(shown(url), inside=chains and schemes[0] not in ("http", "https")), item=shown(url)
        )
    if schemes[0] in ("http", "https"):
        return AtAddress(shown(url), url, private=private)
    return InStore(shown(url), url)


def _one_spelling(url: str) -> str:
    """An address with its schemes in small letters, as the drivers know them."""
    parts = (link.partition("://") for link in links_of(url))
    return "::".join(f"{scheme.lower() if mark else scheme}{mark}{rest}" for scheme, mark, rest in parts)


def without_results(
    url: str, found: Iterable[tuple[PurePosixPath, Stored]], holds: Callable[[str], bool]
) -> Iterator[tuple[PurePosixPath, Stored]]:
    """Leave out results inside the folder, or the folder of the pattern, that an address names.

    A folder for results that lies around it leaves nothing out. One that is the very same is refused: in a store it is
    not told which pictures coda drew, and the next run would explain them.

    Args:
        url: the address.
        found: the pictures there, with their places.
        holds: says whether an address lies in the folder for results.

    Yields:
        The pictures that are no results.

    Raises:
        UsageError: the folder is the one for results, or there is nothing else.
    """
    before = re.split(r"[*?\[]", url, maxsplit=1)[0]  # the folder that a pattern begins with
    folder = shown(before.rpartition("/")[0] if before != url else url).rstrip("/")
    if holds(folder):
        yield from found
        return
    if holds(f"{folder}/"):
        raise UsageError("is where results go, and cannot be a source, too; choose another --output", item=shown(url))
    empty = True
    for place, stored in found:
        if not holds(stored.name):
            empty = False
            yield place, stored
    if empty:
        raise UsageError("no pictures at this address but those where results go", item=shown(url))


def _about_archive(url: str, *, inside: bool) -> str:
    """What to do about an archive at an address; ``inside``: whether its pictures may be named at addresses in it."""
    kind = next((kind for kind in ("zip", "tar") if inside and url.lower().endswith(f".{kind}")), None)
    way = f", or name what is in it: '{kind}://**::{url}'" if kind else ""
    return f"an archive at an address is not read; download it, and name the file{way}"


def shown(url: str) -> str:
    """Write an address as messages and records have it.

    Args:
        url: the address, also one inside another.

    Returns:
        The same without users with passwords, and without queries.
    """
    links = []
    for link in links_of(url):
        found = _ADDRESS.match(link)
        if found and found[1].lower() in ("http", "https"):
            links.append(without_secrets(link))
        else:  # "?" is part of names and patterns there, and "name@" of Azure's
            links.append(re.sub(r"\?[^/]*=.*", "", re.sub(r"://[^/@]*:[^/@]*@", "://", link)))
    return "::".join(links)


class InStore(Remote):
    """A picture that fsspec reads."""

    def _read(self, until: float) -> bytes:
        with driver_errors():
            content = in_time(self._content, until - time.monotonic())
        refuse_length(len(content))
        return content

    def _content(self) -> bytes:
        archive = len(links_of(self.url)) > 1 or self.url.startswith(("zip:", "tar:"))
        with _ONE_AT_A_TIME if archive else nullcontext():
            system, path = system_of(self.url)
            content: bytes = system.cat_file(path, end=budget.ADDRESS_BYTES + 1)
            return content


def system_of(url: str) -> tuple[Any, str]:
    """Find the file system of fsspec that an address belongs to.

    Args:
        url: the address.

    Returns:
        The file system, and the path in it.

    Raises:
        MediaError: the driver is missing.
    """
    import fsspec

    try:
        system, path = fsspec.url_to_fs(_one_spelling(url))
    except ImportError:
        scheme = url.partition("://")[0].lower()
        extra = SCHEMES.get(scheme)
        raise MediaError(f"needs a driver: pip install 'coda-cli[{extra}]'" if extra else "needs a driver") from None
    return system, str(path)


def _listed(url: str, recursive: bool, by_folder: bool) -> Iterator[list[tuple[PurePosixPath, str]]] | None:
    """The pictures of a folder or a pattern, with their places: all sorted, or one list for each folder.

    None for an address of one picture.
    """
    system, path = system_of(url)
    first, depth = links_of(url)[0], None if recursive else 1
    if any(mark in first for mark in "*?[") and not system.isfile(path):  # as a file of that very name on a disk
        # Pictures have the place ".", as those of a pattern of files have.
        found = [(PurePosixPath(), name) for name in system.glob(path)]
    elif first.endswith("/") or (not first.lower().endswith(SUFFIXES) and system.isdir(path)):
        folder = path.rstrip("/") or "/"
        if by_folder:
            return (
                _pictures([(place, f"{parent.rstrip('/')}/{name}") for name in files], url)
                for parent, _, files in system.walk(path, maxdepth=depth)
                for place in [_place(parent, folder)]
            )
        found = [(_place(name, folder).parent, name) for name in system.find(path, maxdepth=depth)]
    else:
        return None
    return iter([_pictures(sorted(found, key=lambda each: natural(each[1])), url)])


def _place(name: str, folder: str) -> PurePosixPath:
    """Where a name of a store is below a folder; archives write names without the / that their root has."""
    return PurePosixPath(posixpath.relpath(f"/{name.lstrip('/')}", f"/{folder.lstrip('/')}"))


def _pictures(found: list[tuple[PurePosixPath, str]], url: str) -> list[tuple[PurePosixPath, str]]:
    """The addresses of those that are pictures by their names, and not hidden."""
    first, *rest = links_of(url)
    scheme, through = first.partition("://")[0], "".join(f"::{link}" for link in rest)
    return [
        (place, f"{scheme}://{name.lstrip('/') if scheme != 'memory' else name}{through}")
        for place, name in found
        if name.lower().endswith(SUFFIXES) and "/." not in f"/{name}"
    ]


def natural(text: str) -> list[tuple[int, int, str]]:
    """Make the key of an order in which img2 comes before img10.

    Args:
        text: a name.

    Returns:
        The key.
    """
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in re.split(r"(\d+)", text)]


@contextmanager
def driver_errors() -> Iterator[None]:
    """Turn what drivers raise, errors of many classes, into a MediaError without what may be secret.

    Yields:
        Nothing.

    Raises:
        MediaError: for all but a lack of memory; PassingError where another try may help.
    """
    try:
        yield
    except (CodaError, MemoryError):
        raise
    except (FileNotFoundError, IsADirectoryError):
        raise MediaError("nothing is at this address") from None
    except PermissionError:
        raise MediaError(_FORBIDDEN) from None
    except TimeoutError:
        raise PassingError("the server does not answer") from None
    except OSError as error:
        raise PassingError(f"cannot be read ({reason_of(error)})") from None
    except Exception as error:  # botocore's, for one, are no OSErrors; their texts may hold the address
        name = type(error).__name__
        raise MediaError(
            _FORBIDDEN if "Credential" in name else _OF_ARCHIVES.get(name, f"cannot be read ({name})")
        ) from None
