"""The server of the demo: one address, nothing fetched for visitors, and nothing left when it ends."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from coda_cli.errors import CodaError, DownloadError, UsageError
from coda_cli.explanation.demo.desk import Desk
from coda_cli.explanation.demo.networks import Networks
from coda_cli.explanation.demo.visits import Visits

MOST_ASKED = 1_000_000  # bytes of a request that is no upload: a choice of classes has some hundred
AROUND_A_FILE = 100_000  # bytes that a browser sends around an uploaded file, at most
PATIENCE = 15.0  # seconds that a decomposition under way may still take when the server ends
STARTS_WITHIN = 60.0  # seconds
# The page and its frames load from this server alone, whatever a version of Gradio puts into it.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Guard:
    """Stands before the page: refuses requests that are too large, and such as have this machine fetch an address.

    Gradio would take an address in the place of an uploaded file, and would pass on what is there.

    Args:
        app: what answers all other requests.
        most: bytes of an uploaded file.
    """

    def __init__(self, app: App, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, as servers call an application.

        Args:
            scope: what is asked for.
            receive: gives the body.
            send: takes the answer.
        """

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                if b"content-security-policy" not in names:
                    message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if not refusal and scope["method"] == "POST" and not _is_upload(scope):
            body = await _body(receive)
            refusal = None if _is_clean(body) else (400, b"addresses are not read")
            receive = _again(body, receive)
        if refusal:
            await _refuse(send, *refusal)
        else:
            await self._app(scope, receive, with_policy)

    def _refusal(self, scope: Message) -> tuple[int, bytes] | None:
        """Status and reason, where the first lines of a request say that it is refused."""
        if "://" in scope["path"] or "/proxy=" in scope["path"]:
            return 404, b"addresses are not read"
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, b"the length of the request is missing"
        most = self._most + AROUND_A_FILE if _is_upload(scope) else MOST_ASKED
        return None if int(length) <= most else (413, b"larger than the limit of this page")


def _is_upload(scope: Message) -> bool:
    """Whether a request brings a file."""
    path: str = scope["path"]
    return path.endswith("/upload")


async def _body(receive: Receive) -> bytes:
    """The whole body of a request, whose length is known to be small."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to the one who reads next."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return waiting.pop() if waiting else await receive()

    return given


def _is_clean(body: bytes) -> bool:
    """Whether a request names no file by an address."""
    try:
        rest = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return False
    while rest:
        value = rest.pop()
        if isinstance(value, dict):
            if isinstance(path := value.get("path"), str) and "://" in path:
                return False
            rest += value.values()
        elif isinstance(value, list):
            rest += value
    return True


async def _refuse(send: Send, status: int, why: bytes) -> None:
    """Answer with a reason."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why})


def bound(host: str, port: int) -> socket.socket:
    """Take an address for the page, before anything is loaded.

    Args:
        host: a name or an address of this machine.
        port: from 0 to 65535; 0 is any that is free.

    Returns:
        The socket, which listens.

    Raises:
        UsageError: another program has the port, or this machine has no such address.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"the page cannot have the address {host}:{port} ({reason}); choose another with --port or --host"
        ) from error


def serve(
    networks: Networks, listening: socket.socket, host: str, most: int, share: bool, on_ready: Callable[[str], None]
) -> None:
    """Serve the page until the program is stopped. It needs Gradio.

    Args:
        networks: what visitors may choose.
        listening: the socket of its address.
        host: the address, as the user wrote it.
        most: bytes of an uploaded file.
        share: whether a public link is made.
        on_ready: called with the address of the page, and with the public link.

    Raises:
        DownloadError: no public link can be had.
        CodaError: the server does not start.
    """
    with _folder() as root:
        visits = Visits(root)
        desk = Desk(networks, visits)
        try:
            with _running(_application(networks, visits, desk, most), listening) as thread:
                port = listening.getsockname()[1]
                on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
                if share:
                    on_ready(_public(host, port, root))
                while thread.is_alive():
                    thread.join(0.5)
        finally:
            desk.close(PATIENCE)


@contextmanager
def _running(app: App, listening: socket.socket) -> Iterator[Thread]:
    """A server in a thread while the block runs in this one, which gets the signals. Raises CodaError."""
    import uvicorn

    for name in ("uvicorn", "asyncio"):  # what a browser breaks off is nobody's concern
        logging.getLogger(name).setLevel(logging.CRITICAL)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = Thread(target=server.run, kwargs={"sockets": [listening]}, name="demo", daemon=True)
    thread.start()
    try:
        began = time.monotonic()
        while not server.started:
            if not thread.is_alive() or time.monotonic() - began > STARTS_WITHIN:
                raise CodaError("the server of the page does not start")
            time.sleep(0.05)
        yield thread
    finally:
        server.should_exit = True
        thread.join(5)


def _application(networks: Networks, visits: Visits, desk: Desk, most: int) -> Guard:
    """The page, the pages about answers, and what guards both."""
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import FileResponse, PlainTextResponse, Response

    from coda_cli.explanation.demo.page import PAGES, STYLE, page_of

    def report(answer: str, name: str) -> Response:
        path = visits.page(answer, name) if name.endswith(".html") else None
        if path is None:
            return PlainTextResponse("this answer is no longer here", 404)
        return FileResponse(
            path, headers={"content-security-policy": "sandbox allow-scripts", "cache-control": "no-store"}
        )

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route(f"/{PAGES}/{{answer}}/{{name}}", report, response_class=Response, response_model=None)
    app = gr.mount_gradio_app(
        app,
        page_of(networks, visits, desk),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=most,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=STYLE,
    )
    return Guard(app, most)


def _public(host: str, port: int, folder: Path) -> str:
    """A public link to the page, by Gradio's own service. Raises DownloadError."""
    from gradio import networking

    networking.CERTIFICATE_PATH = str(folder / "certificate.pem")  # it would stay in the working folder
    try:
        link = str(networking.setup_tunnel(host, port, secrets.token_urlsafe(32), None, None))
    except Exception as error:
        raise DownloadError(f"--share: no public link can be had ({error or type(error).__name__})") from error
    return f"https://{link.partition('://')[2]}"


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for all files while the block runs, told to Gradio together with what it must not do."""
    with tempfile.TemporaryDirectory(prefix="coda-demo-", ignore_cleanup_errors=True) as name:
        os.environ |= {
            "GRADIO_TEMP_DIR": name,
            "GRADIO_EXAMPLES_CACHE": name,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        yield Path(name).resolve()
