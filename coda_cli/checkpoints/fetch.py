"""Downloads published checkpoints into the cache folder: interrupted downloads go on, and every file is checked.

A pull writes to ``FILE.part`` beside the final name. When it is interrupted, the next pull asks only for the rest. A
complete file gets its final name only when it is what it should be: the file whose sha256 an earlier pull recorded, or,
the first time, a file that loads as the network it is said to be, because most authors published no hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from coda_cli.checkpoints.descriptions import short_text
from coda_cli.checkpoints.manifest import KnownCheckpoint, find, recorded_hash_file
from coda_cli.errors import CheckpointError, DownloadError, MediaError, UsageError
from coda_cli.machine.ahead import in_time
from coda_cli.media.http import reason_of

if TYPE_CHECKING:
    from requests import Response

TIMEOUT = 20.0  # seconds: to connect, between two pieces of an answer, and the time over which SLOWEST is measured
SLOWEST = 500.0  # bytes a second; a server that sends less is taken to have stopped
LARGEST = 3_000_000_000  # bytes; the largest published file has 1.2 GB
HEAD = 45.0  # seconds until an answer begins, redirects included
LONGEST = 6 * 3600.0  # seconds that one pull may take; the next one goes on where it stopped
PIECE = 1 << 18  # bytes read at once, at most
_LENGTH = "[0-9]{1,18}"  # a number of bytes, as a server states it

Progress = Callable[[int, int], None]  # called with the bytes that are here, and the bytes in all


def pull(name: str, *, force: bool = False, offline: bool = False, progress: Progress | None = None) -> Path:
    """Make sure that a known checkpoint is on this machine.

    A bundled checkpoint always is. A published one is downloaded unless its file is here and has the recorded sha256.
    The first pull records the sha256 beside the file, and later pulls must match it. When two pulls of one checkpoint
    run at the same time, the second waits for the first.

    Args:
        name: the checkpoint's name, as ``coda models list`` shows it.
        force: download in any case.
        offline: never download.
        progress: called during the download with the bytes that are here, and the bytes in all.

    Returns:
        The checkpoint's file.

    Raises:
        UsageError: for an unknown name, one whose file's address is not known, or when CODA_MIRROR is not an address.
        DownloadError: when the file cannot be downloaded.
        CheckpointError: when what was sent is not the checkpoint; the file that was here is kept.
        MediaError: when the cache folder cannot be written.
    """
    entry = find(name)
    if entry.bundled:
        return entry.path
    if entry.url is None:
        raise UsageError(
            f"coda does not know which file of {entry.page} it is; download it there, and use it with "
            f"--model FILE --arch {name}",
            item=name,
        )
    if entry.sha256 and not force and _sound(entry):  # without the lock: a shared cache may be read-only
        return entry.path
    import filelock

    try:
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(_beside(entry.path, ".lock")):
            entry = find(name)  # again: another pull may have recorded the hash while this one waited
            if force or not _sound(entry):
                if offline:
                    raise DownloadError(
                        f"{name!r} cannot be pulled without a connection; pull it online, or {_by_hand(entry.path)}"
                    )
                _replace(entry, progress)
    except OSError as error:
        raise MediaError(f"{error.filename or entry.path}: cannot be written ({error.strerror or error})") from error
    return entry.path


def link(entry: KnownCheckpoint) -> str:
    """Say where the file of a published checkpoint is downloaded from.

    This is the authors' link, or ``CODA_MIRROR/NAME/FILE`` when the environment variable CODA_MIRROR holds a base
    address, for instance of an institute's own mirror.

    Args:
        entry: the checkpoint.

    Returns:
        The address; "" for a checkpoint that was never published.

    Raises:
        UsageError: when CODA_MIRROR is not an http or https address.
    """
    mirror = os.environ.get("CODA_MIRROR")
    if not mirror:
        return entry.url or ""
    try:
        whole = mirror.startswith(("http://", "https://")) and urlsplit(mirror).hostname
    except ValueError:
        whole = False
    if not whole:
        raise UsageError(f"CODA_MIRROR is {mirror!r}; expected an address that begins with https:// or http://")
    return f"{mirror.rstrip('/')}/{entry.checkpoint.name}/{entry.path.name}"


def _beside(path: Path, suffix: str) -> Path:
    """The file beside ``path`` whose name is longer by ``suffix``."""
    return path.with_name(path.name + suffix)


def _by_hand(path: Path) -> str:
    """What a person can do instead of a download."""
    return f"copy the file from another machine to {path}"


# ---- what may have the final name ------------------------------------------------------------------------------------


def _sound(entry: KnownCheckpoint) -> bool:
    """Whether the file is here and has the recorded sha256; without a record it is checked, and its hash recorded."""
    if not entry.here:
        return False
    if entry.sha256 is None:  # copied here by hand, or a pull was killed before it wrote the record
        _record(entry, _sha256_of_network(entry.path, entry, str(entry.path), "delete it and pull again"))
        return True
    return _sha256(entry.path) == entry.sha256


def _sha256(path: Path) -> str:
    """Hex sha256 of a file. Not loading.file_sha256: that module imports torch, which takes a second."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _replace(entry: KnownCheckpoint, progress: Progress | None) -> None:
    """Download to ``FILE.part``, check it, and only then give it the final name."""
    url, part = link(entry), _beside(entry.path, ".part")
    _download(url, entry, part, progress)
    try:
        if entry.sha256 is None:
            sha256 = _sha256_of_network(part, entry, _shown(url), "a browser shows what it is")
        elif (sha256 := _sha256(part)) != entry.sha256:
            raise CheckpointError(
                f"{_shown(url)}: sent another file than the first pull's, whose sha256 is {entry.sha256}; what was "
                f"here is kept; if the authors replaced theirs, delete {recorded_hash_file(entry.path)} and pull again"
            )
    except CheckpointError:
        part.unlink()  # or the next pull would go on from it
        raise
    part.replace(entry.path)
    _record(entry, sha256)


def _sha256_of_network(path: Path, entry: KnownCheckpoint, origin: str, advice: str) -> str:
    """The sha256 of a file without a recorded one; raises CheckpointError unless it loads as its network."""
    from coda_cli.checkpoints import loading

    name = entry.checkpoint.name
    try:
        sha256 = loading.file_sha256(path)
        if not sha256.startswith(entry.sha256_prefix):
            raise CheckpointError(f"sha256 is {sha256}, the published one begins with {entry.sha256_prefix}", item=path)
        return loading.load(path, arch=name, cut=None).sha256
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"not the checkpoint {name} ({reason}); {advice}", item=origin) from error


def _record(entry: KnownCheckpoint, sha256: str) -> None:
    """Write the sha256 that later pulls must match."""
    from coda_cli.media.files import write_with

    write_with(recorded_hash_file(entry.path), lambda stream: stream.write(f"{sha256}\n".encode("ascii")))


# ---- the download ----------------------------------------------------------------------------------------------------


def _download(url: str, entry: KnownCheckpoint, part: Path, progress: Progress | None) -> None:
    """Complete the file ``part``: from where it ends if that is safe, and from the start if it is not."""
    here = part.stat().st_size if part.exists() else 0
    with _connection_errors(url, entry.path):
        for start in dict.fromkeys((here, 0)):
            with _ask(url, start) as response:
                continued = start > 0 and _continues(response, start, part, checked=entry.sha256 is not None)
                if start and not continued and response.status_code != 200:
                    continue  # the answer is not the rest of what is here, so all of it is asked for
                if response.status_code not in (200, 206):
                    raise DownloadError(
                        f"{_shown(url)}: HTTP {response.status_code} {response.reason}; try again later, name a mirror "
                        f"in CODA_MIRROR, or {_by_hand(entry.path)}"
                    )
                with part.open("ab" if continued else "wb") as stream:
                    # Only now, when the old beginning is gone: a pull that is killed before leaves no wrong beginning.
                    _beside(part, ".from").write_text(_identity(response), encoding="utf-8")
                    _copy(response, stream, start if continued else 0, _shown(url), progress)
                    stream.flush()
                    os.fsync(stream.fileno())
                _beside(part, ".from").unlink()
                return


def _ask(url: str, start: int) -> Response:
    """The server's answer to a request for the file from byte ``start`` on."""
    import requests

    # Without "identity" a server may compress, and neither lengths nor ranges would be those of the file.
    headers = {"Accept-Encoding": "identity", "User-Agent": "coda"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # In a thread: the timeout of requests is between two pieces, and the head of an answer may come byte by byte.
    try:
        return in_time(lambda: requests.get(url, headers=headers, stream=True, timeout=TIMEOUT), HEAD)
    except TimeoutError:
        raise DownloadError(f"no complete answer in {HEAD:g} s; {_RESUME}", item=_shown(url)) from None


def _continues(response: Response, start: int, part: Path, *, checked: bool) -> bool:
    """Whether an answer is the rest, from byte ``start``, of the very file that ``part`` is the beginning of.

    A file without ETag or date could have changed in between. It is only continued where a hash will tell.
    """
    if response.status_code != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        return False
    noted, identity = _beside(part, ".from"), _identity(response)
    told_apart = checked or bool(identity.partition(" ")[2])
    return told_apart and short_text(noted) == identity


def _identity(response: Response) -> str:
    """A line that changes when the file does: its size, and the server's ETag, or its date where there is none."""
    return f"{_size(response)} {response.headers.get('ETag') or response.headers.get('Last-Modified', '')}"


def _size(response: Response) -> int | None:
    """Bytes of the whole file, as far as the server says so."""
    text = response.headers.get("Content-Length", "")
    if response.status_code == 206:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(text) if re.fullmatch(_LENGTH, text) else None


def _copy(response: Response, stream: IO[bytes], done: int, url: str, progress: Progress | None) -> None:
    """Append the body of an answer to the ``done`` bytes that ``stream`` has. Raises DownloadError."""
    stated = response.headers.get("Content-Length")
    if stated is not None and not re.fullmatch(_LENGTH, stated):  # what follows could be anything: RFC 9112, 6.3
        raise DownloadError(f"the server states the length {stated[:40]!r}, which is no number; {_AGAIN}", item=url)
    total = _size(response)
    if total is not None and total > LARGEST:
        raise DownloadError(f"the server offers {total} bytes; no network has more than {LARGEST}", item=url)
    begin = since = time.monotonic()
    before = done
    # read1 returns what has arrived; read would wait for a full piece, however slowly it comes.
    while piece := response.raw.read1(PIECE):
        stream.write(piece)
        done += len(piece)
        if progress:
            progress(done, total or done)
        now = time.monotonic()
        if done > min(LARGEST, LARGEST if total is None else total):
            raise DownloadError(f"the server sent {done} bytes and does not end; {_AGAIN}", item=url)
        if now - begin > LONGEST:
            raise DownloadError(f"not complete after {LONGEST / 3600:g} hours; {_RESUME}", item=url)
        if now - since > TIMEOUT:
            if done - before < SLOWEST * (now - since):
                raise DownloadError(f"stalled, {done - before} bytes in {now - since:.0f} s; {_RESUME}", item=url)
            since, before = now, done
    if total is not None and done != total:
        raise DownloadError(f"the answer ended after {done} of {total} bytes; {_RESUME}", item=url)


_AGAIN = "name another mirror in CODA_MIRROR, or try again later"
_RESUME = "pull again, it goes on where this one stopped"


@contextlib.contextmanager
def _connection_errors(url: str, path: Path) -> Iterator[None]:
    """Turn what requests and urllib3 raise into DownloadError, with one line of text."""
    import requests
    import urllib3.exceptions

    place = _shown(url)
    try:
        yield
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise DownloadError(f"no answer for {TIMEOUT:g} s; {_RESUME}, or {_by_hand(path)}", item=place) from error
    except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
        raise DownloadError(
            f"no connection, or it broke ({reason_of(error)}); check it, {_RESUME}, or {_by_hand(path)}", item=place
        ) from error
    except (requests.RequestException, ValueError) as error:  # ValueError: of addresses that cannot be read
        raise DownloadError(f"cannot be downloaded ({error}); {_by_hand(path)}", item=place) from error


def _shown(url: str) -> str:
    """An address without the user and password that it may hold."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
