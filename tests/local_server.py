"""A small file server on this machine that can misbehave: cut answers off, stall, ignore ranges, redirect."""

from __future__ import annotations

import gzip
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import TracebackType


class FileServer(HTTPServer):
    """Serves ``files`` (path -> content) with ranges and an ETag, and remembers what it was asked in ``asked``.

    One request after the other, in one thread: none is left running when a client has its answer.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.status: dict[str, int] = {}  # path -> an error to answer with
        self.passing: list[int] = []  # errors to answer with first, each once
        self.after: str | None = None  # Retry-After of these
        self.etag: str | None = '"first"'
        self.modified: str | None = None  # Last-Modified
        self.ranges = True
        self.shift = 0  # bytes by which an answer to a range begins elsewhere than asked
        self.compresses = False  # for clients that say they take it
        self.encoding: str | None = None  # Content-Encoding that is told to all
        self.lengths = True  # whether answers tell their length
        self.announced: int | None = None  # Content-Length, if another than the truth
        self.cut_after: int | None = None  # bytes of a body after which the connection is closed
        self.stall_after: int | None = None  # bytes of a body after which nothing more comes
        self.trickle: float | None = None  # seconds between single bytes
        self.wait = 0.0  # seconds before an answer
        self.asked: list[tuple[str, str | None]] = []  # path, Range
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the game."""

    def __enter__(self) -> FileServer:
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.released.set()
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self.close_connection = True
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        server.released.wait(server.wait)
        if server.passing:
            self._head(server.passing.pop(0), **({"Retry-After": server.after} if server.after is not None else {}))
        elif self.path in server.redirects:
            self._head(302, Location=server.redirects[self.path])
        elif self.path not in server.files:
            self._head(server.status.get(self.path, 404))
        else:
            self._send(server.files[self.path], wanted if server.ranges else None)

    def _send(self, content: bytes, wanted: str | None) -> None:
        server, start = self.server, 0
        headers = {name: value for name, value in (("ETag", server.etag), ("Last-Modified", server.modified)) if value}
        if wanted and (found := re.fullmatch(r"bytes=(\d+)-", wanted)):
            start = int(found[1])
            if start >= len(content):
                self._head(416, **{"Content-Range": f"bytes */{len(content)}"})
                return
            start += server.shift
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if server.compresses and "gzip" in self.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        if server.encoding:
            headers["Content-Encoding"] = server.encoding
        length = len(body) if server.announced is None else server.announced
        self._head(206 if wanted else 200, length, **headers)
        if server.cut_after is not None:
            body = body[: server.cut_after]
        if server.stall_after is not None:
            self.wfile.write(body[: server.stall_after])
            self.wfile.flush()
            for _ in range(500):  # ten seconds: a client without a timeout fails its test and does not hang
                if server.stall_after is None or server.released.wait(0.02):
                    break
        elif server.trickle is not None:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if server.released.wait(server.trickle):
                    return
        else:
            self.wfile.write(body)

    def _head(self, status: int, length: int = 0, **headers: str) -> None:
        self.send_response(status)
        if self.server.lengths:
            self.send_header("Content-Length", str(length))
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
