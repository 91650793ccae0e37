"""A server that lies, for ``coda models pull``."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from foreign import flat_file

from campaign.case import Case
from campaign.mutations import ODD_TEXTS, spoiled

PIECE = 65_536
ENDLESS = 4_000_000_000  # bytes; the program's limit is 3 GB

PULLED, FILE = "9L-S-CoDA-SQ-10", "model_epoch_200.pkl"  # published without a hash: any sound file is taken
FAILED = (3, 5)


class Liar:
    """Answers every request with the same bytes, whatever is asked; one connection after the other."""

    def __init__(self, head: bytes, body: bytes = b"", endless: bytes = b"", pause: float = 0.0) -> None:
        self.head, self.body, self.endless, self.pause = head, body, endless, pause
        self.ended = threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(0.1)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    def close(self) -> None:
        """Stop listening."""
        self.ended.set()
        self.thread.join()
        self.listening.close()

    def _serve(self) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self.listening.accept()
                with connection:
                    connection.settimeout(1.0)
                    connection.recv(PIECE)
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        for piece in self._pieces():
            if self.ended.is_set():
                return
            connection.sendall(piece)
            if self.pause:
                self.ended.wait(self.pause)

    def _pieces(self) -> Iterator[bytes]:
        if self.pause:
            yield from (bytes([byte]) for byte in self.head + self.body)
        else:
            yield self.head
            yield self.body
        if self.endless:  # not without an end: a program that had no limit would fill the disk
            yield from itertools.repeat(self.endless, ENDLESS // len(self.endless))


def head(status: str = "200 OK", length: int | str | None = None, **more: str) -> bytes:
    """The head of an answer; what it says may be false."""
    fields = {"Connection": "close", **({} if length is None else {"Content-Length": str(length)}), **more}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1", "replace")


@cache
def sound() -> bytes:
    """The file that is asked for, in a few kilobytes."""
    return flat_file(PULLED)


def make(folder: Path, rng: random.Random) -> Case:
    """A download from a server that does not do what it should."""
    kinds = (
        "spoiled",
        "spoiled",
        "short",
        "long",
        "odd length",
        "redirect",
        "redirect",
        "loop",
        "reason",
        "status",
        "no HTTP",
        "huge length",
        "endless body",
        "endless head",
        "many fields",
        "slow head",
        "slow body",
        "range",
        "compressed",
        "mirror",
    )
    kind = rng.choice(kinds)
    case = Case(f"server, {kind}", ["models", "pull", PULLED], FAILED, may_connect=True)
    case.env = {"CODA_CACHE_DIR": str(folder / "cache")}
    file = sound()
    if kind == "mirror":
        case.env["CODA_MIRROR"] = rng.choice(
            (
                "http://",
                "ftp://127.0.0.1",
                "http://[::1",
                "http://127.0.0.1:99999",
                "http://127.0.0.1:x",
                "\x1b[2J",
                "http://user\x1b:pw@127.0.0.1:1",
                "http://127.0.0.1:1/\n",
                "https://127.0.0.1:1",
                "http://" + "a" * 300,
                "http://a..b/",
            )
        )
        case.codes = (2, 5)
        case.own_files = (f"cache/{PULLED}/{FILE}.lock",)
        return case
    if kind in ("range", "spoiled"):  # there is the beginning of an earlier download
        part = folder / "cache" / PULLED / f"{FILE}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(file[: rng.randrange(10)])
        part.with_name(f"{FILE}.part.from").write_text(rng.choice(("10 x", f"{len(file)} ", "", "\0")))
    if kind != "mirror":
        case.own_files = tuple(f"cache/{PULLED}/{FILE}{suffix}" for suffix in (".part", ".part.from", ".lock"))
    liar = _liar(kind, file, rng)
    case.held.callback(liar.close)
    case.env["CODA_MIRROR"] = liar.url
    if kind in ("spoiled", "compressed", "many fields"):
        case.codes = (0, *FAILED)
    return case


def _liar(kind: str, file: bytes, rng: random.Random) -> Liar:
    """The server of one kind."""
    if kind == "spoiled":
        data = spoiled(file, rng)[1]
        return Liar(head(length=len(data)), data)
    if kind == "redirect":
        where = rng.choice(
            (
                "http://[::1",
                "http://",
                "://",
                "file:///etc/hostname",
                "http://127.0.0.1:99999/",
                "\x00",
                "http://\x1b[2J/",
                "x" * 9000,
                "ftp://127.0.0.1/",
                "http://127.0.0.1:x/",
                "http://[v1.x]/",
                "//",
                "data:,x",
                "http://\xff/",
                "http://.../",
                "http://a b/",
            )
        )
        return Liar(head("302 Found", 0, Location=where))
    simple = {
        "short": (head(length=len(file)), file[: rng.randrange(len(file))]),
        "long": (head(length=rng.randrange(len(file))), file),
        "odd length": (head(length=rng.choice(("-1", "x", "1e9", "9" * 5000, "²", "+5", "", "0x10"))), file),
        "loop": (head("302 Found", 0, Location="/again"), b""),
        "reason": (
            head(
                f"{rng.choice((200, 404, 500))} {rng.choice(ODD_TEXTS[1:]).encode(errors='replace').decode('latin-1')}",
                0,
            ),
            b"",
        ),
        "status": (
            head(rng.choice(("99 X", "1000 X", "204 None", "206 Partial", "304 X", "100 Continue", "-5 X", "x")), 4),
            b"abcd",
        ),
        "no HTTP": (rng.choice((b"", b"\0" * 1000, b"SSH-2.0\r\n", b"HTTP/9.9\r\n\r\n", rng.randbytes(3000))), b""),
        "many fields": (
            head(length=len(file), **{f"X_{n}": "y" * 50 for n in range(rng.choice((90, 150, 5000)))}),
            file,
        ),
        "compressed": (head(length=len(file), Content_Encoding=rng.choice(("gzip", "br", "zstd", "x"))), file),
        "range": (
            head(
                "206 Partial Content",
                5,
                Content_Range=rng.choice(("bytes 5-9/10", "bytes */0", "x", "bytes 0-4/99999999999")),
            ),
            b"abcde",
        ),
    }
    if kind in simple:
        return Liar(*simple[kind])
    if kind == "huge length":
        return Liar(head(length=rng.choice((10**12, 10**18))), b"x" * 1000, endless=bytes(PIECE))
    if kind == "endless body":
        return Liar(head(Transfer_Encoding="identity"), endless=bytes(PIECE))
    if kind == "endless head":
        return Liar(b"HTTP/1.1 200 OK\r\n", endless=rng.choice((b"X: y\r\n" * 1000, b"x" * PIECE)))
    if kind == "slow head":
        return Liar(head(length=len(file), X="y" * 10_000), pause=1.0)
    return Liar(head(length=len(file)), file, pause=0.01)
