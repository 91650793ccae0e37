"""What ``coda models pull`` takes from a server that does not end, lies about sizes, or redirects to nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import program
import pytest
from campaign.server import Liar, head
from foreign import flat_file

from coda_cli.checkpoints import fetch
from coda_cli.errors import DownloadError

Coda = Callable[..., program.Result]
NAME = "9L-S-CoDA-SQ-10"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CODA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Callable[..., Liar]]:
    del cache
    liars: list[Liar] = []

    def start(*args: bytes, **more: object) -> Liar:
        liars.append(Liar(*args, **more))  # type: ignore[arg-type]
        monkeypatch.setenv("CODA_MIRROR", liars[-1].url)
        return liars[-1]

    yield start
    for liar in liars:
        liar.close()


def test_more_than_any_network_has_is_not_begun(lying: Callable[..., Liar], cache: Path) -> None:
    lying(head(length=10**12), b"x", endless=bytes(1000))
    with pytest.raises(DownloadError, match="offers 1000000000000 bytes; no network has more than 3000000000"):
        fetch.pull(NAME)
    assert not (cache / NAME / "model_epoch_200.pkl").exists()


def test_an_answer_without_an_end_is_left(lying: Callable[..., Liar], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "LARGEST", 1_000_000)
    lying(head(), endless=bytes(10_000))
    with pytest.raises(DownloadError, match="and does not end"):
        fetch.pull(NAME)


def test_an_answer_longer_than_it_says_is_left(lying: Callable[..., Liar], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pieces have lengths of their own, which are those that count for HTTP."""
    monkeypatch.setattr(fetch, "LARGEST", 50_000_000)
    lying(head(length=5000, **{"Transfer-Encoding": "chunked"}), endless=b"3e8\r\n" + bytes(1000) + b"\r\n")
    with pytest.raises(DownloadError, match="and does not end") as caught:
        fetch.pull(NAME)
    assert int(str(caught.value).split(" bytes")[0].split()[-1]) < 5000 + 2 * fetch.PIECE


def test_an_answer_shorter_than_it_says_can_be_gone_on_with(lying: Callable[..., Liar]) -> None:
    pieces = b"3e8\r\n" + bytes(1000) + b"\r\n0\r\n\r\n"
    lying(head(length=5000, **{"Transfer-Encoding": "chunked"}), pieces)
    with pytest.raises(DownloadError, match="the answer ended after 1000 of 5000 bytes; pull again"):
        fetch.pull(NAME)


def test_a_pull_has_a_longest_time(lying: Callable[..., Liar], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "LONGEST", 0.5)
    lying(head(length=10**9), endless=bytes(1000), pause=0.01)
    with pytest.raises(DownloadError, match="not complete after"):
        fetch.pull(NAME)


def test_a_head_that_comes_byte_by_byte_is_left(lying: Callable[..., Liar], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "HEAD", 0.5)
    lying(head(length=5, X="y" * 10_000), pause=0.05)
    with pytest.raises(DownloadError, match=r"no complete answer in 0\.5 s"):
        fetch.pull(NAME)


@pytest.mark.parametrize("length", ["9" * 5000, "²", "-1", "x", "0x10", "1e9", "+5", ""])
def test_a_length_that_is_no_number_is_no_answer(lying: Callable[..., Liar], length: str, cache: Path) -> None:
    """Also where the whole file follows, as the answer ends where the connection does."""
    lying(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode(), flat_file(NAME))
    with pytest.raises(DownloadError, match=r"states the length|cannot be downloaded|no connection"):
        fetch.pull(NAME)
    assert not (cache / NAME / "model_epoch_200.pkl").exists()


@pytest.mark.parametrize(
    "where",
    ["http://[::1", "http://", "://", "file:///etc/hostname", "http://127.0.0.1:99999/", "http://127.0.0.1:x/",
     "http://[v1.x]/", "//", "http://.../", "http://\x1b[2J/", "http://" + "a" * 300 + "/", "http://a..b/"],
)  # fmt: skip
def test_a_redirect_to_nowhere_is_a_failed_download(lying: Callable[..., Liar], where: str) -> None:
    lying(head("302 Found", 0, Location=where))
    with pytest.raises(DownloadError):
        fetch.pull(NAME)


def test_a_sound_file_still_arrives(lying: Callable[..., Liar], cache: Path) -> None:
    data = flat_file(NAME)
    lying(head(length=len(data)), data)
    assert fetch.pull(NAME).read_bytes() == data
    assert cache.exists()
