"""``coda demo`` without its page: what is answered, what is kept and removed, and which requests are refused."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import program
import pytest
from conftest import Coda
from program import moving, photo, woollen

from coda_cli.checkpoints.loading import Net, load
from coda_cli.errors import CodaError, DownloadError, UsageError
from coda_cli.explanation.demo import server
from coda_cli.explanation.demo import visits as visits_module
from coda_cli.explanation.demo.answers import answer_of, moves
from coda_cli.explanation.demo.desk import FAULT, Desk
from coda_cli.explanation.demo.networks import Networks
from coda_cli.explanation.demo.server import MOST_ASKED, POLICY, Guard, bound
from coda_cli.explanation.demo.visits import Visits
from coda_cli.schema.pictures import from_json


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    """A network of two small layers and two classes."""
    return load(woollen(tmp_path_factory.mktemp("net") / "net.safetensors"))


def going_on(frames: int) -> None:
    """What hears of each frame, and has nothing against it."""
    del frames


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_a_picture_gets_the_files_of_coda_explain_and_its_page(net: Net, tmp_path: Path) -> None:
    upload = photo(tmp_path / "sent" / "my photo.png")
    (tmp_path / "answer").mkdir()
    answer = answer_of(upload, net, [1, 0], tmp_path / "answer", going_on)
    kinds = ["cardigan.heatmap", "cardigan.overlay", "cardigan-0.heatmap", "cardigan-0.overlay"]
    expected = [f"my photo.{kind}.png" for kind in kinds] + ["my photo.coda.json", "my photo.coda.npz", "report.html"]
    assert sorted(path.name for path in answer.files) == sorted(expected) == sorted(os.listdir(tmp_path / "answer"))
    assert [line.split(",")[0] for line in answer.said] == ["cardigan", "Cardigan"]
    record = from_json((tmp_path / "answer" / "my photo.coda.json").read_text())
    assert [part.index for part in record.explained] == [1, 0]
    assert record.source.path == "my photo.png"  # no folder of this machine
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in answer.files)


def test_a_clip_gets_the_files_of_coda_video_and_its_page(net: Net, tmp_path: Path) -> None:
    (tmp_path / "answer").mkdir()
    heard = list[int]()
    answer = answer_of(moving(tmp_path / "walk.gif"), net, [], tmp_path / "answer", heard.append)
    names = ["report.html", "walk.coda.gif", "walk.coda.jsonl", "walk.coda.mp4"]
    assert sorted(path.name for path in answer.files) == names == sorted(os.listdir(tmp_path / "answer"))
    assert heard == [1, 2, 3, 4]  # three frames, and the clip
    assert "3 frames" in answer.said[0]


@pytest.mark.parametrize(
    ("name", "content", "clip"),
    [
        ("notes.txt", b"nothing that is a picture", True),
        ("broken.jpg", b"\xff\xd8\xff\xe0", False),
        ("broken.gif", b"GIF89a", False),
        ("clip.mp4", b"\0\0\0\x18ftypmp42", True),
        ("clip%02d.mp4", b"", True),
        ("picture", b"\xff\xd8\xff\xe0", False),
    ],
)
def test_what_cannot_be_read_is_one_sentence_without_a_path(
    net: Net, tmp_path: Path, name: str, content: bytes, clip: bool
) -> None:
    (tmp_path / "answer").mkdir()
    upload = tmp_path / name
    upload.write_bytes(content)
    assert moves(upload) == clip
    with pytest.raises(CodaError) as caught:
        answer_of(upload, net, [], tmp_path / "answer", going_on)
    assert str(caught.value).startswith(f"{name}: ")
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_still_is_no_clip_and_an_animation_is_one(tmp_path: Path) -> None:
    assert [moves(photo(tmp_path / name)) for name in ("a.png", "a.jpg", "a.gif", "a.webp")] == [False] * 4
    assert [moves(moving(tmp_path / name)) for name in ("b.png", "b.gif", "b.webp")] == [True] * 3


# ---- networks and visitors -------------------------------------------------------------------------------------------


def test_a_network_is_loaded_once_and_few_are_kept(net: Net) -> None:
    loaded = list[str]()

    def loading(name: str) -> Net:
        loaded.append(name)
        return net

    networks = Networks("abc", loading, most=2)
    assert networks["a"] is networks["a"] is networks["b"] is networks["a"] is net
    assert loaded == ["a", "b"]
    networks["c"]  # b was not used for longest
    networks["a"]
    assert loaded == ["a", "b", "c"]
    networks["b"]
    assert loaded == ["a", "b", "c", "b"]
    with pytest.raises(UsageError, match="there is no such network here"):
        networks["../secret"]


def uploaded(root: Path, folder: str, name: str = "a.png") -> Path:
    """A file as Gradio stores it, in a folder named after its content."""
    path = root / folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def test_a_visitor_has_one_upload_and_one_answer_and_leaves_nothing(tmp_path: Path) -> None:
    visits = Visits(tmp_path)
    first = visits.begin("her", uploaded(tmp_path, "1"))
    (first / "report.html").touch()
    assert visits.page(first.name, "report.html") == first / "report.html"
    assert [visits.page(first.name, "../1/a.png"), visits.page("1", "a.png"), visits.page("..", "a")] == [None] * 3
    second = visits.begin("her", uploaded(tmp_path, "1"))  # the same file, with other classes
    assert sorted(os.listdir(tmp_path)) == sorted(["1", second.name])
    assert visits.page(first.name, "report.html") is None
    third = visits.begin("her", uploaded(tmp_path, "2"))
    assert sorted(os.listdir(tmp_path)) == sorted(["2", third.name])
    fourth = visits.begin("him", uploaded(tmp_path, "2"))
    visits.end("her")
    assert sorted(os.listdir(tmp_path)) == sorted(["2", fourth.name])  # he sent the same file
    visits.end("him")
    visits.end("nobody")
    assert os.listdir(tmp_path) == []
    with pytest.raises(CodaError, match=r"a\.png: is no longer here; drop it again"):
        visits.begin("him", tmp_path / "1" / "a.png")


def test_what_was_asked_for_by_a_visitor_who_left_leaves_nothing(tmp_path: Path) -> None:
    visits = Visits(tmp_path)
    answer = visits.begin("her", uploaded(tmp_path, "1"))
    visits.settle("her", answer)
    assert answer.exists()
    visits.leave("her")  # while the answer is made, in a folder that its writer makes anew
    answer.mkdir()
    visits.settle("her", answer)
    assert os.listdir(tmp_path) == []
    with pytest.raises(UsageError, match="you left this page"):  # what waited for its turn
        visits.begin("her", uploaded(tmp_path, "2"))
    assert os.listdir(tmp_path) == []


def test_an_upload_that_was_broken_off_is_removed_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = Visits(tmp_path)
    (tmp_path / "tmp123").touch()
    kept = uploaded(tmp_path, "1")
    answer = visits.begin("her", kept)
    assert (tmp_path / "tmp123").exists()
    monkeypatch.setattr(visits_module, "OLDEST", -1.0)
    visits.begin("him", kept)
    assert not (tmp_path / "tmp123").exists()
    assert kept.exists()
    assert answer.exists()


def test_the_desk_says_why_there_is_no_answer_and_goes_on(
    net: Net, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(Networks(["net"], lambda _: net), Visits(tmp_path))
    upload = uploaded(tmp_path, "1", "a.txt")
    upload.write_text("no picture")
    refusal = desk.answer("her", upload, "net", [], going_on)
    assert isinstance(refusal, str)
    assert refusal.startswith("a.txt: ")
    assert desk.answer("her", upload, "other", [], going_on) == "there is no such network here; choose one of the list"
    assert (
        desk.answer("her", upload, "net", [2], going_on) == "a.txt: class 2 is out of range: 'woollen' has classes 0..1"
    )
    monkeypatch.setattr("coda_cli.explanation.demo.desk.answer_of", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING):
        assert desk.answer("her", upload, "net", [], going_on) == FAULT
    assert "ZeroDivisionError" in caplog.text
    assert desk.classes("net") == [("Cardigan", 0), ("cardigan", 1)]


def test_a_desk_that_closes_ends_the_clip_under_way_and_waits_for_it(net: Net, tmp_path: Path) -> None:
    desk = Desk(Networks(["net"], lambda _: net), Visits(tmp_path))
    upload = uploaded(tmp_path, "1", "walk.gif")
    moving(upload)
    closing = threading.Thread(target=desk.close, args=[program.PATIENCE])

    def close_at_the_first_frame(frames: int) -> None:
        if frames == 1:
            closing.start()
            while not desk.closed:
                pass

    assert desk.answer("her", upload, "net", [], close_at_the_first_frame) == "walk.gif: this page was closed"
    closing.join()
    assert not list(tmp_path.rglob("*report.html"))


# ---- the address and its requests ------------------------------------------------------------------------------------


def asked(path: str, method: str = "GET", body: bytes = b"", length: int | None = None) -> tuple[int, str]:
    """The status and policy with which a request is answered by the guard of a page that takes files of 1 MB."""
    received, sent = list[bytes](), list[dict[str, Any]]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del scope
        received.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if length == -1 else [(b"content-length", str(len(body) if length is None else length).encode())]
    asyncio.run(
        Guard(app, 1_000_000)({"type": "http", "path": path, "method": method, "headers": headers}, receive, send)
    )
    assert received in ([], [body])
    return sent[0]["status"], dict(sent[0]["headers"]).get(b"content-security-policy", b"").decode()


def test_requests_are_bounded_and_name_no_address() -> None:
    assert asked("/") == (200, POLICY)
    assert asked("/gradio_api/upload", "POST", b"a picture")[0] == 200
    assert asked("/gradio_api/upload", "POST", length=2_000_000)[0] == 413
    assert asked("/gradio_api/upload", "POST", length=-1)[0] == 411
    assert asked("/gradio_api/queue/join", "POST", length=MOST_ASKED + 1)[0] == 413
    assert asked("/gradio_api/file=https://example.org/a.png")[0] == 404
    assert asked("/gradio_api/proxy=https:/example.org")[0] == 404
    own = json.dumps({"data": [{"path": "uploads/a.png", "url": "http://127.0.0.1:7860/a.png"}, "x"]}).encode()
    assert asked("/gradio_api/queue/join", "POST", own)[0] == 200
    theirs = json.dumps({"data": [[{"path": "https://example.org/a.png"}]]}).encode()
    assert asked("/gradio_api/queue/join", "POST", theirs)[0] == 400
    assert asked("/gradio_api/queue/join", "POST", b"[" * 100_000)[0] == 400
    assert asked("/gradio_api/reset", "POST")[0] == 200


def test_a_port_that_is_taken_is_one_line() -> None:
    with bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot have the address 127.0.0.1:{port} .*--port"):
            bound("127.0.0.1", port)
    with pytest.raises(UsageError, match="--host"):
        bound("no such host", 0)


# ---- the public link -------------------------------------------------------------------------------------------------


class Tunnels:
    """Stands for Gradio's service of public links, which nothing here reaches."""

    CERTIFICATE_PATH = ".gradio/certificate.pem"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.reason, self.kept = list[tuple[Any, ...]](), "", list[Path]()
        monkeypatch.setitem(sys.modules, "gradio", ModuleType("gradio"))
        monkeypatch.setitem(sys.modules, "gradio.networking", self)

    def setup_tunnel(self, *given: Any) -> str:
        self.asked.append(given)
        self.kept.append(Path(self.CERTIFICATE_PATH))
        self.kept[-1].write_text("a certificate")
        if self.reason:
            raise RuntimeError(self.reason)
        return "http://0123.gradio.live"


@contextmanager
def ended(app: Any, listening: socket.socket) -> Iterator[threading.Thread]:
    """A server that has ended already."""
    del app, listening
    yield threading.Thread()


def addresses(share: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a page says of its addresses; nothing of it is served."""
    monkeypatch.setattr(server, "_application", lambda *given: given)
    monkeypatch.setattr(server, "_running", ended)
    said = list[str]()
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        server.serve(Networks([], load, 1), listening, "127.0.0.1", 1, share, said.append)
    return [line.replace(str(port), "PORT") for line in said]


def test_a_public_link_is_made_where_it_is_asked_for_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    tunnels = Tunnels(monkeypatch)
    assert addresses(False, monkeypatch) == ["http://127.0.0.1:PORT"]
    assert tunnels.asked == []
    addresses(True, monkeypatch)
    assert addresses(True, monkeypatch) == ["http://127.0.0.1:PORT", "https://0123.gradio.live"]
    hosts, _, secrets, *rest = zip(*tunnels.asked, strict=True)
    assert set(hosts) == {"127.0.0.1"}
    assert len(set(secrets)) == 2  # nobody can guess one of another page
    assert min(map(len, secrets)) >= 32
    assert rest == [(None, None)] * 2  # Gradio's own service, with its own certificate
    assert not any(path.exists() for path in tunnels.kept)  # which is gone when the page is


def test_a_public_link_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Tunnels(monkeypatch).reason = "no connection"
    with pytest.raises(DownloadError, match=r"^--share: no public link can be had \(no connection\)$"):
        addresses(True, monkeypatch)


def test_gradio_still_takes_what_it_is_asked_for() -> None:
    networking = pytest.importorskip("gradio.networking")
    names = ["local_host", "local_port", "share_token", "share_server_address", "share_server_tls_certificate"]
    assert list(inspect.signature(networking.setup_tunnel).parameters) == names
    assert networking.CERTIFICATE_PATH.endswith(".pem")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_without_gradio_a_line_says_what_to_install(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert coda("demo", status=2).error == "the demo needs Gradio: pip install 'coda-cli[demo]'"


def test_a_file_that_lies_in_the_folder_makes_no_public_link(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "coda.toml").write_text("[demo]\nshare = true\n")
    assert "demo.share: a file that only lies in the working folder may not set this" in coda("demo", status=2).error


def test_the_networks_that_are_offered(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Gradio's place taken: the command comes as far as serving."""
    monkeypatch.setitem(sys.modules, "gradio", np)
    served = list[tuple[Any, ...]]()
    monkeypatch.setattr("coda_cli.explanation.demo.server.serve", lambda *given: served.append(given))
    woollen(tmp_path / "mine.safetensors")
    coda("demo", "-m", "mine.safetensors", "-m", "cifar10", "--port", "0", "--upload-limit", "3")
    networks, listening, host, most, share, _ = served[0]
    assert listening.fileno() == -1  # it is closed where the command ends
    assert networks.names == ("mine.safetensors", "cifar10")
    assert networks["mine.safetensors"].checkpoint.name == "woollen"
    assert (host, most, share) == ("127.0.0.1", 3_000_000, False)
    (tmp_path / "other").mkdir()
    woollen(tmp_path / "other/mine.safetensors")
    twice = coda("demo", "-m", "mine.safetensors", "-m", "other/mine.safetensors", "--port", "0", status=2)
    assert "two networks are called mine.safetensors" in twice.error
    assert "--arch" in coda("demo", "--arch", "timm:resnet18", "--port", "0", status=2, env={"CODA_MODEL": ""}).error
