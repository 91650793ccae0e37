"""Pulling published checkpoints, against a server on this machine: what arrives, what is resumed, what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import program
import pytest
import torch
from foreign import flat_file
from local_server import FileServer

from coda_cli.checkpoints import fetch, manifest
from coda_cli.checkpoints.fetch import pull
from coda_cli.checkpoints.loading import load
from coda_cli.core.networks import build
from coda_cli.errors import CheckpointError, DownloadError, ExitCode, MediaError, UsageError

NAME = "9L-S-CoDA-SQ-10"
ADDRESS = f"/{NAME}/model_epoch_200.pkl"
CONTENT = bytes(range(256)) * 400  # what the server has, where its sha256 is recorded beforehand


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        server.files[ADDRESS] = CONTENT
        yield server


@pytest.fixture
def target(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the checkpoint goes; the cache folder is empty and the server is the mirror."""
    monkeypatch.setenv("CODA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CODA_MIRROR", server.url)
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "cache" / NAME / "model_epoch_200.pkl"


def expect(target: Path, content: bytes) -> None:
    """As if an earlier pull had recorded the hash of ``content``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    manifest.recorded_hash_file(target).write_text(hashlib.sha256(content).hexdigest() + "\n", encoding="ascii")


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def cut(server: FileServer, after: int) -> None:
    """One pull that breaks off after some bytes."""
    server.cut_after = after
    with pytest.raises(DownloadError, match=f"broke|{after} of"):
        pull(NAME)
    server.cut_after = None


# ---- whole -----------------------------------------------------------------------------------------------------------


def test_the_first_pull_brings_a_network_that_loads_and_records_its_hash(server: FileServer, target: Path) -> None:
    content = server.files[ADDRESS] = flat_file(NAME)
    assert manifest.known()[NAME].sha256 is None
    assert pull(NAME) == target
    assert target.read_bytes() == content
    assert manifest.known()[NAME].sha256 == hashlib.sha256(content).hexdigest() == load(NAME).sha256
    names = {path.name for path in target.parent.iterdir()}
    assert names == {target.name, target.name + ".sha256", target.name + ".lock"}  # nothing unfinished is left


def test_a_pulled_file_can_be_read_by_the_others_of_a_shared_cache(target: Path) -> None:
    expect(target, CONTENT)
    before = os.umask(0o022)
    try:
        pull(NAME)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_a_file_with_the_recorded_hash_is_not_downloaded_again(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    pull(NAME)
    assert pull(NAME) == target
    assert pull(NAME, offline=True) == target
    assert len(server.asked) == 1


def test_a_sound_file_in_a_cache_that_cannot_be_written_is_fine(target: Path) -> None:
    expect(target, CONTENT)
    target.write_bytes(CONTENT)
    assert pull(NAME) == target
    assert not target.with_name(target.name + ".lock").exists()  # nothing was written


def test_force_downloads_again(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    pull(NAME)
    pull(NAME, force=True)
    assert [path for path, _ in server.asked] == [ADDRESS] * 2
    assert target.read_bytes() == CONTENT


def test_a_damaged_file_is_replaced_by_a_sound_one(target: Path) -> None:
    expect(target, CONTENT)
    target.write_bytes(CONTENT[:-1])
    pull(NAME)
    assert target.read_bytes() == CONTENT


def test_a_file_copied_here_by_hand_is_checked_and_taken(server: FileServer, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(flat_file(NAME))
    assert pull(NAME, offline=True) == target
    assert manifest.known()[NAME].sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert not server.asked


def test_a_file_copied_here_by_hand_that_is_something_else_is_refused(target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"not the checkpoint 9L-S-CoDA-SQ-10 .*delete it and pull again"):
        pull(NAME)
    assert manifest.known()[NAME].sha256 is None


def test_progress_is_told_in_bytes_up_to_the_whole(target: Path) -> None:
    expect(target, CONTENT)
    heard: list[tuple[int, int]] = []
    pull(NAME, progress=lambda done, total: heard.append((done, total)))
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert heard == sorted(heard)


def test_redirects_are_followed_with_the_range(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    server.files["/elsewhere"] = server.files.pop(ADDRESS)
    server.redirects[ADDRESS] = "/elsewhere"
    cut(server, 1000)
    pull(NAME)
    assert target.read_bytes() == CONTENT
    assert server.asked[-1] == ("/elsewhere", "bytes=1000-")


def test_a_server_that_tells_no_length_is_read_to_the_end(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    server.lengths = False
    heard: list[tuple[int, int]] = []
    pull(NAME, progress=lambda done, total: heard.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert heard[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_that_would_compress_is_asked_not_to(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    server.compresses = True
    pull(NAME)
    assert target.read_bytes() == CONTENT


def test_what_a_killed_pull_left_unchecked_is_not_trusted(server: FileServer, target: Path) -> None:
    server.files[ADDRESS] = flat_file(NAME)
    left = target.parent / ".incoming" / target.name
    left.parent.mkdir(parents=True)
    left.write_bytes(flat_file(NAME, 0.02))
    pull(NAME)
    assert target.read_bytes() == flat_file(NAME)


@pytest.mark.usefixtures("target")
def test_a_bundled_network_needs_no_pull(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = manifest.known()[NAME].model_copy(update={"url": None})
    monkeypatch.setattr(manifest, "known", lambda: {NAME: bundled})
    assert pull(NAME, force=True) == bundled.path
    assert not server.asked


def test_two_pulls_at_once_are_one_download(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    server.wait = 0.3
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(pull, [NAME, NAME])) == [target, target]
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


# ---- resumed ---------------------------------------------------------------------------------------------------------


def test_a_cut_download_is_resumed_where_it_broke_off(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    cut(server, 40_000)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:40_000]
    heard: list[tuple[int, int]] = []
    pull(NAME, progress=lambda done, total: heard.append((done, total)))
    assert server.asked == [(ADDRESS, None), (ADDRESS, "bytes=40000-")]
    assert target.read_bytes() == CONTENT
    assert heard[0][0] > 40_000
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert not part_of(target).exists()


def test_it_can_be_cut_again_and_again(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    for _ in range(3):
        server.cut_after = 30_000
        with pytest.raises(DownloadError):
            pull(NAME)
    server.cut_after = None
    pull(NAME)
    assert [wanted for _, wanted in server.asked] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]
    assert target.read_bytes() == CONTENT


def test_a_server_that_ignores_the_range_starts_over(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    cut(server, 40_000)
    server.ranges = False
    pull(NAME)
    assert target.read_bytes() == CONTENT
    assert len(server.asked) == 2  # the whole answer to the second request is used


OLD, NEW = flat_file(NAME, 0.01), flat_file(NAME, 0.02)
HALF = len(OLD) // 2


def test_the_two_states_of_the_file_below_are_as_alike_as_they_can_be() -> None:
    assert len(OLD) == len(NEW)
    assert OLD[:HALF] != NEW[:HALF]
    assert OLD[HALF:] != NEW[HALF:]


def test_a_file_that_changed_in_between_is_not_glued_to_the_old_beginning(server: FileServer, target: Path) -> None:
    server.files[ADDRESS] = OLD
    cut(server, HALF)
    server.files[ADDRESS], server.etag = NEW, '"second"'
    pull(NAME)
    assert target.read_bytes() == NEW


@pytest.mark.parametrize(("etag", "modified"), [('"first"', None), (None, "Mon, 01 Jan 2024 00:00:00 GMT")])
def test_the_same_etag_or_date_allows_to_resume_without_a_recorded_hash(
    server: FileServer, target: Path, etag: str | None, modified: str | None
) -> None:
    server.files[ADDRESS], server.etag, server.modified = OLD, etag, modified
    cut(server, HALF)
    pull(NAME)
    assert server.asked == [(ADDRESS, None), (ADDRESS, f"bytes={HALF}-")]
    assert target.read_bytes() == OLD


def test_an_answer_that_begins_elsewhere_than_asked_is_not_used(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    cut(server, 40_000)
    server.shift = 256  # the same bytes again, 256 further on
    pull(NAME)
    assert target.read_bytes() == CONTENT
    assert server.asked[-1] == (ADDRESS, None)


def test_without_etag_and_hash_nothing_is_resumed(server: FileServer, target: Path) -> None:
    server.files[ADDRESS], server.etag = OLD, None
    cut(server, HALF)
    server.files[ADDRESS] = NEW
    pull(NAME)
    assert target.read_bytes() == NEW


def test_without_etag_the_recorded_hash_allows_to_resume(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    server.etag = None
    cut(server, 40_000)
    pull(NAME)
    assert server.asked[-1] == (ADDRESS, "bytes=40000-")
    assert target.read_bytes() == CONTENT


def test_a_part_that_was_complete_already_is_downloaded_anew(target: Path) -> None:
    expect(target, CONTENT)
    part_of(target).write_bytes(CONTENT)  # killed between the last byte and the final name; the server answers 416
    pull(NAME)
    assert target.read_bytes() == CONTENT


# ---- refused ---------------------------------------------------------------------------------------------------------


def refused(error: type[Exception], target: Path, *, kept: bytes | None = None, force: bool = False) -> str:
    """What a pull is refused with: one line; under the final name is left what was there, ``kept``."""
    with pytest.raises(error) as caught:
        pull(NAME, force=force)
    assert "\n" not in str(caught.value)
    assert (target.read_bytes() if target.exists() else None) == kept
    return str(caught.value)


def test_a_truncated_answer_is_a_network_error(server: FileServer, target: Path) -> None:
    server.announced = len(CONTENT) + 1
    assert re.search("pull again, it goes on where this one stopped", refused(DownloadError, target))


def test_a_server_that_sends_less_of_the_rest_than_there_is_is_noticed(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    cut(server, 40_000)
    server.announced = server.cut_after = 10  # a whole answer by its own length
    assert re.search(f"ended after 40010 of {len(CONTENT)} bytes", refused(DownloadError, target))
    server.announced = server.cut_after = None
    pull(NAME)
    assert target.read_bytes() == CONTENT


def test_another_file_than_the_recorded_one_is_refused_and_the_old_kept(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    pull(NAME)
    server.files[ADDRESS] = CONTENT[::-1]
    message = refused(CheckpointError, target, kept=CONTENT, force=True)
    assert re.search("sent another file", message)
    assert str(manifest.recorded_hash_file(target)) in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert not part_of(target).exists()  # or the next pull would go on from it
    assert manifest.known()[NAME].sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_a_first_pull_that_brings_something_else_is_refused_and_not_recorded(server: FileServer, target: Path) -> None:
    server.files[ADDRESS] = b"<html>Log in to the hotel's network</html>"
    message = refused(CheckpointError, target)
    assert re.search("not the checkpoint 9L-S-CoDA-SQ-10", message)
    assert ".incoming" not in message
    assert manifest.known()[NAME].sha256 is None
    server.files[ADDRESS] = flat_file(NAME)
    pull(NAME)
    assert target.exists()


@pytest.mark.usefixtures("target")
def test_a_network_whose_published_hash_differs_is_refused(tmp_path: Path, server: FileServer) -> None:
    """The hash's first digits are in the link of a B-cos network; the file may well be such a network."""
    name = "bcos-resnet18"
    entry = manifest.known()[name]
    torch.save(build(entry.checkpoint.architecture, entry.checkpoint.arguments).state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    assert not hashlib.sha256(content).hexdigest().startswith(entry.sha256_prefix)
    server.files[f"/{name}/{entry.path.name}"] = content
    said = f"not the checkpoint {name} .*the published one begins with {entry.sha256_prefix}"
    with pytest.raises(CheckpointError, match=said):
        pull(name)
    assert not entry.path.exists()
    assert manifest.known()[name].sha256 is None


def test_a_first_pull_that_brings_another_network_is_refused(server: FileServer, target: Path) -> None:
    server.files[ADDRESS] = flat_file("9L-S-CoDA-SQ-rank-4")
    assert re.search(r"expects \[32, 6, 3, 3\], got \[4, 6, 3, 3\]", refused(CheckpointError, target))


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_an_http_error_is_named(server: FileServer, target: Path, status: int) -> None:
    del server.files[ADDRESS]
    server.status[ADDRESS] = status
    assert re.search(f"HTTP {status} .*CODA_MIRROR", refused(DownloadError, target))


def test_a_part_survives_an_http_error(server: FileServer, target: Path) -> None:
    expect(target, CONTENT)
    cut(server, 40_000)
    content = server.files.pop(ADDRESS)
    assert re.search("HTTP 404", refused(DownloadError, target))
    server.files[ADDRESS] = content
    pull(NAME)
    assert server.asked[-1] == (ADDRESS, "bytes=40000-")


def test_a_server_that_falls_silent_ends_in_an_error(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 2.0)  # in which the first bytes arrive, however busy this machine is
    expect(target, CONTENT)
    server.stall_after = 5000
    assert re.search(r"no answer for 2 s", refused(DownloadError, target))
    assert part_of(target).read_bytes() == CONTENT[:5000]


def test_a_server_that_never_answers_ends_in_an_error(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    server.wait = program.PATIENCE
    assert re.search(r"no answer for 0\.2 s", refused(DownloadError, target))


def test_a_server_that_trickles_ends_in_an_error(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which it sends a byte each second; the real timeout between two pieces is never near."""
    clock = SimpleNamespace(monotonic=lambda: 50 * time.monotonic())
    monkeypatch.setattr(fetch, "time", clock)
    server.files[ADDRESS] = bytes(150)
    server.trickle = 0.02
    assert re.search(r"stalled, \d+ bytes in", refused(DownloadError, target))


def test_a_refused_connection_says_so_and_what_to_do(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]  # nobody listens there, and no other program gets it meanwhile
        monkeypatch.setenv("CODA_MIRROR", f"http://127.0.0.1:{port}")
        message = refused(DownloadError, target)
    assert re.search("Connection refused", message)
    assert f"copy the file from another machine to {target}" in message


def test_endless_redirects_end(server: FileServer, target: Path) -> None:
    server.redirects[ADDRESS] = ADDRESS
    assert re.search("redirects", refused(DownloadError, target))


def test_offline_never_asks(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match="without a connection") as caught:
        pull(NAME, offline=True)
    assert caught.value.exit_code == ExitCode.DOWNLOAD
    assert str(target) in str(caught.value)
    assert not server.asked


def test_a_password_in_the_mirrors_address_is_not_shown(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODA_MIRROR", server.url.replace("//", "//me:hunter2@") + "/missing")
    message = refused(DownloadError, target)
    assert re.search("HTTP 404", message)
    assert "hunter2" not in message


@pytest.mark.parametrize("mirror", ["mirror.example.org", "ftp://mirror.example.org", "http://", "http://["])
def test_a_mirror_that_is_no_address_is_a_usage_error(
    target: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("CODA_MIRROR", mirror)
    assert re.search("CODA_MIRROR", refused(UsageError, target))


@pytest.mark.usefixtures("target")
def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CODA_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(MediaError, match="cannot be written"):
        pull(NAME)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("9L-S-CoDA-SQ-11", "did you mean '9L-S-CoDA-SQ-10"),
        ("9l-s-coda-sq-10", "did you mean '9L-S-CoDA-SQ-10'"),
        ("9L-S-CoDA-SQ-10000", "the authors published no weights"),
        ("zebra", "coda models list shows all"),
    ],
)
def test_an_unknown_name_is_a_usage_error_with_suggestions(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pull(name)


def test_without_a_mirror_the_authors_link_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODA_MIRROR", raising=False)
    entry = manifest.known()[NAME]
    assert fetch.link(entry) == entry.url
    monkeypatch.setenv("CODA_MIRROR", "https://mirror.example.org/coda/")
    assert fetch.link(entry) == "https://mirror.example.org/coda" + ADDRESS
