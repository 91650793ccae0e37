"""Pictures at http and https addresses, from servers that may be slow, broken, or somebody's trap.

Every picture is one request in bounded time and memory, tried again where that may help. Redirects lead to http and
https only, and neither they nor the addresses of a list lead into a private network unless the user said so.
"""

from __future__ import annotations

import ipaddress
import random
import re
import socket
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

from coda_cli.errors import MediaError
from coda_cli.machine import budget
from coda_cli.machine.ahead import in_time
from coda_cli.media.stored import Stored

if TYPE_CHECKING:
    from requests import Response, Session

T = TypeVar("T")
Private = Literal["never", "named", "always"]  # may lead into a private network: no; only it itself; redirects, too

LONGEST = 60.0  # seconds for one picture, all tries together
SILENCE = 20.0  # seconds to connect, and between two pieces of an answer
PIECE = 1 << 18  # bytes read at once, at most
TRIES, PAUSE = 3, 0.5  # how often a picture is asked for; seconds before the second time, then twice as long
REDIRECTS = 5
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of servers that may answer otherwise a moment later


class PassingError(MediaError):
    """Something went wrong that may go well a moment later.

    Attributes:
        after: seconds that the server asks to wait before the next try.
    """

    after: float = 0.0


@dataclass(frozen=True)
class Remote(Stored):
    """A picture at an address, which is asked for until it comes or the time is over.

    Attributes:
        name: the address without what may be secret in it.
        url: the whole address.
        size: bytes that it may have, at most.
    """

    name: str
    url: str
    size: int = budget.ADDRESS_BYTES

    @property
    def key(self) -> str:
        """The whole address, which tells it from all others."""
        return self.url

    def read(self) -> bytes:
        """Ask for the picture.

        Returns:
            Its bytes.

        Raises:
            MediaError: it is not there, forbidden, too large, cut off or too slow, leads where it may not, or what
                reads such addresses is missing.
        """
        return with_tries(self._read, self.name)

    @abstractmethod
    def _read(self, until: float) -> bytes:
        """One try, that ends at the time ``until``. Raises MediaError."""


@dataclass(frozen=True)
class AtAddress(Remote):
    """A picture at an http or https address.

    Attributes:
        private: whether it may lead into a private network.
    """

    private: Private = "never"

    def _read(self, until: float) -> bytes:
        """One try, redirects included, that ends at the time ``until``."""
        url, public = self.url, self.private == "never"
        for _ in range(REDIRECTS + 1):
            answer = self._ask(url, public, until)
            with answer:
                if answer.status_code not in (301, 302, 303, 307, 308):
                    self._refuse_status(answer)
                    return self._body(answer, until)
                if not (to := answer.headers.get("Location")):
                    raise MediaError(f"the server answers with HTTP {answer.status_code}, and says no other address")
                url = urljoin(url, to)
            if urlsplit(url).scheme not in ("http", "https"):
                raise MediaError("leads to an address that is neither http nor https, and is not followed")
            public = self.private != "always" and (public or not leads_to_private(self.url))
        raise MediaError(f"leads on more than {REDIRECTS} times, and is not followed")

    def _ask(self, url: str, public: bool, until: float) -> Response:
        """The server's answer, of which only the head was read."""
        import requests
        import urllib3.exceptions

        if public and leads_to_private(url):
            raise _private(url)
        headers = {"Accept-Encoding": "identity", "User-Agent": "coda"}  # a compressed answer has no length of its own
        timeout = min(SILENCE, max(0.1, until - time.monotonic()))
        with _session(public) as session:
            try:
                # In a thread: a timeout is between two pieces, and the head of an answer may come byte by byte.
                return in_time(
                    lambda: session.get(url, headers=headers, stream=True, timeout=timeout, allow_redirects=False),
                    until - time.monotonic(),
                )
            except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError):
                raise PassingError("the server does not answer") from None
            except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
                raise PassingError(f"no connection, or it broke ({reason_of(error)})") from None
            except (requests.RequestException, ValueError) as error:
                raise MediaError(f"is no address that can be read ({type(error).__name__})") from None

    def _refuse_status(self, answer: Response) -> None:
        status = answer.status_code
        if status in (404, 410):
            raise MediaError(f"nothing is at this address (HTTP {status})")
        if status in (401, 403):
            raise MediaError(
                f"is forbidden (HTTP {status}); the server wants a user, or a signature that is still valid"
            )
        if status in _PASSING:
            error = PassingError(f"the server answers with HTTP {status}")
            error.after = _seconds(answer.headers.get("Retry-After", ""))
            raise error
        if status != 200:
            raise MediaError(f"the server answers with HTTP {status}")

    def _body(self, answer: Response, until: float) -> bytes:
        """The content of an answer."""
        import urllib3.exceptions

        stated = answer.headers.get("Content-Length")
        if stated is not None and not re.fullmatch("[0-9]{1,18}", stated):
            raise MediaError("the server states a length that is no number")
        if (packed := answer.headers.get("Content-Encoding", "identity").lower()) not in ("", "identity"):
            raise MediaError(f"the server compresses its answer ({packed[:20]}), which it was asked not to do")
        content = bytearray()
        refuse_length(int(stated or 0))
        try:
            # read1 gives what has arrived; read would wait for a full piece, however slowly it comes.
            while piece := answer.raw.read1(PIECE):
                content += piece
                refuse_length(len(content))
                if time.monotonic() > until:
                    raise PassingError(f"is too slow, {len(content)} bytes in {LONGEST:.0f} s")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, urllib3.exceptions.TimeoutError):
                raise PassingError(f"the server stopped after {len(content)} bytes") from None
            raise PassingError(f"is cut off after {len(content)} bytes ({reason_of(error)})") from None
        return bytes(content)  # urllib3 has seen to it that these are as many as stated


def _seconds(text: str) -> float:
    """How long a server asks to wait: it says seconds, or a time of the day; 0 where it says neither."""
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def with_tries(read: Callable[[float], T], name: str) -> T:
    """Try something a few times within ``LONGEST``, as long as it fails for a passing reason.

    Args:
        read: what is tried; it is given the time of ``time.monotonic`` at which it must have ended.
        name: what is read, for the error.

    Returns:
        What ``read`` gives.

    Raises:
        MediaError: it failed for a lasting reason, or each time.
    """
    until = time.monotonic() + LONGEST
    for tries in range(1, TRIES + 1):
        try:
            return read(until)
        except PassingError as error:
            pause = max(error.after, PAUSE * 2 ** (tries - 1)) * random.uniform(1.0, 1.25)
            if tries == TRIES or time.monotonic() + pause > until:
                times = "" if tries == 1 else f" (tried {tries} times)"
                wait = f", and asks to wait {error.after:.0f} s" if error.after and tries < TRIES else ""
                raise MediaError(f"{error.message}{wait}{times}", item=name) from None
            time.sleep(pause)
        except MediaError as error:
            raise error.about(name) from None
    raise AssertionError("the last try returns or raises")


def refuse_length(length: int) -> None:
    """Refuse a picture at an address that is too large.

    Args:
        length: bytes that it has, or says it has.

    Raises:
        MediaError: it has more than budget.ADDRESS_BYTES.
    """
    if length > budget.ADDRESS_BYTES:
        most = budget.ADDRESS_BYTES / 1e6
        raise MediaError(f"has more than the {most:.0f} MB that are read from an address; download it first")


def without_secrets(url: str) -> str:
    """Write an address without user, password, query and fragment.

    Args:
        url: the address.

    Returns:
        What may be shown and recorded.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def reason_of(error: BaseException) -> str:
    """Say what the operating system said, which the libraries' own errors wrap.

    Args:
        error: what a library raised.

    Returns:
        A few words, without the address.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


# ---- private networks ------------------------------------------------------------------------------------------------


_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # IPv4 numbers, as networks that have IPv6 alone write them (RFC 6052)


def is_private(address: str) -> bool:
    """Say whether a number of the internet belongs to this machine, a private network, or to nobody.

    Args:
        address: IPv4 or IPv6, in digits.

    Returns:
        Whether it is not one that everybody can reach.
    """
    number = ipaddress.ip_address(address.partition("%")[0])
    meant = getattr(number, "ipv4_mapped", None) or getattr(number, "sixtofour", None) or number
    if number in _NAT64:
        meant = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    return not meant.is_global or meant.is_multicast


def leads_to_private(url: str) -> bool:
    """Say whether the host of an address is private; of several numbers one is enough.

    Args:
        url: the address.

    Returns:
        Whether it is; False for a host that is not known.
    """
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # the request will say so
        return False
    return any(is_private(str(one[4][0])) for one in found)


def _private(url: str) -> MediaError:
    host = urlsplit(url).hostname
    return MediaError(f"leads to {host}, which is private; --allow-private reads it if you trust this list and server")


def _session(public: bool) -> Session:
    """A session for one request; where ``public``, one that looks at whom it reached before it says anything."""
    import requests

    session = requests.Session()
    if public:
        for scheme in ("http://", "https://"):
            session.mount(scheme, _public_adapter())
    return session


def _public_adapter() -> Any:
    """An adapter whose connections refuse private numbers: a name may mean another one than when it was looked up."""
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Public(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            reached = super()._new_conn()
            if is_private(str(reached.getpeername()[0])):
                reached.close()
                raise _private(f"http://{self.host}")
            return reached

    class PublicTLS(HTTPSConnection):
        _new_conn = Public._new_conn

    class Pool(HTTPConnectionPool):
        ConnectionCls = Public

    class PoolTLS(HTTPSConnectionPool):
        ConnectionCls = PublicTLS

    adapter = HTTPAdapter()
    adapter.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": PoolTLS}
    return adapter
