"""Pictures at addresses: as files, whatever their servers do; nothing secret is shown, nothing private is reached."""

from __future__ import annotations

import io
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from local_server import FileServer
from PIL import Image
from program import PATIENCE, Result, looked_at, names_of, photo, scene, tree

from coda_cli.errors import MediaError, UsageError
from coda_cli.machine import ahead, budget
from coda_cli.media import addresses, http
from coda_cli.media.http import AtAddress, is_private
from coda_cli.media.sources import find, resolve

Coda = Callable[..., Result]


def png(seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene(seed=seed)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(http, "PAUSE", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FileServer() as served:
        served.files["/d/a.png"] = png()
        yield served


def failure(server: FileServer, path: str = "/d/a.png") -> str:
    with pytest.raises(MediaError) as caught:
        AtAddress("NAME", server.url + path, private="named").read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- http ------------------------------------------------------------------------------------------------------------


def test_a_picture_at_an_address_is_explained_as_its_file_is(coda: Coda, tmp_path: Path, server: FileServer) -> None:
    photo(tmp_path / "a.png")
    server.files["/d/a.png"] = (tmp_path / "a.png").read_bytes()
    url = f"{server.url}/d/a.png"
    there, here = looked_at(coda, url).record, looked_at(coda, tmp_path / "a.png").record
    assert there["source"] == here["source"] | {"path": url}
    assert there["explained"] == here["explained"]


def test_its_files_are_named_by_the_address_and_made_once(coda: Coda, server: FileServer) -> None:
    assert coda("explain", f"{server.url}/d/a.png", "--class", "0").lines[1] == "coda-out/a.coda.json"
    assert "already there" in coda("explain", f"{server.url}/d/a.png", "--class", "0").err
    assert server.asked == [("/d/a.png", None)] * 2
    server.files["/d/a.png"] = png(1)
    assert "exists from another picture" in coda("explain", f"{server.url}/d/a.png", "--class", "0", status=1).error


def test_what_is_secret_in_an_address_is_asked_for_and_never_shown(
    coda: Coda, tmp_path: Path, server: FileServer
) -> None:
    host = server.url.partition("//")[2]
    server.files["/d/a.png?sig=SECRET&id=1"] = png()
    for path, status in (("/d/a.png", 0), ("/d/gone.png", 1)):
        url = f"http://user:SECRET@{host}{path}?sig=SECRET&id=1#SECRET"
        result = coda("explain", url, "--json", "-v", status=status, cwd=tmp_path)
        assert names_of(result) == [f"{server.url}{path}"]
        assert "SECRET" not in result.out + result.err
    assert server.asked[0][0] == "/d/a.png?sig=SECRET&id=1"
    files = tree(tmp_path)
    assert files
    assert not [name for name, content in files.items() if b"SECRET" in content or "SECRET" in name]


def test_a_traceback_shows_nothing_secret(server: FileServer) -> None:
    import traceback

    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    for url in (f"{server.url}/gone?SECRET", f"http://user:SECRET@127.0.0.1:{closed.getsockname()[1]}/?SECRET"):
        with pytest.raises(MediaError) as caught:
            AtAddress("NAME", url, private="named").read()
        assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    closed.close()


@pytest.mark.parametrize(
    ("status", "says", "asked"),
    [
        (404, "nothing is at this address (HTTP 404)", 1),
        (403, "is forbidden (HTTP 403); the server wants a user, or a signature that is still valid", 1),
        (418, "the server answers with HTTP 418", 1),
        (503, "the server answers with HTTP 503 (tried 3 times)", 3),
    ],
)
def test_a_server_that_refuses(server: FileServer, status: int, says: str, asked: int) -> None:
    server.status["/gone"] = status
    assert failure(server, "/gone") == f"NAME: {says}"
    assert len(server.asked) == asked


def test_a_passing_failure_is_forgotten(server: FileServer) -> None:
    server.passing = [503, 429]
    assert AtAddress("NAME", f"{server.url}/d/a.png", private="named").read() == png()
    assert len(server.asked) == 3


def test_a_server_may_ask_to_wait(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(http.time, "sleep", pauses.append)
    server.after = "7"
    server.passing = [503, 429]
    assert AtAddress("NAME", f"{server.url}/d/a.png", private="named").read() == png()
    assert all(7 <= pause <= 10 for pause in pauses)
    assert len(pauses) == 2
    server.after, server.passing = formatdate(time.time() + 20, usegmt=True), [503]
    assert AtAddress("NAME", f"{server.url}/d/a.png", private="named").read() == png()
    assert 15 <= pauses[2] <= 30
    server.after, server.passing, asked = "3600", [429], len(server.asked)
    assert failure(server) == "NAME: the server answers with HTTP 429, and asks to wait 3600 s"
    assert len(server.asked) == asked + 1
    for nonsense in ("soon", "-1", "1e9", "9" * 400, ""):
        server.after, server.passing = nonsense, [503]
        assert AtAddress("NAME", f"{server.url}/d/a.png", private="named").read() == png()


def test_an_answer_that_is_cut_off_stops_or_lies(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(png())
    server.cut_after = 100
    assert failure(server).startswith("NAME: is cut off after 100 ")
    server.cut_after, server.announced = None, size + 1
    assert failure(server).startswith(f"NAME: is cut off after {size} ")
    server.announced = 10**12
    assert failure(server) == "NAME: has more than the 64 MB that are read from an address; download it first"
    server.announced, server.lengths = None, False
    monkeypatch.setattr(budget, "ADDRESS_BYTES", 1000)
    assert failure(server).startswith("NAME: has more than the 0 MB")
    monkeypatch.undo()
    assert len(server.asked) == 3 + 3 + 1 + 1


def test_a_compressed_answer_is_told_from_a_broken_picture(server: FileServer) -> None:
    server.encoding = "identity"
    assert AtAddress("NAME", f"{server.url}/d/a.png", private="named").read() == png()
    server.encoding = "gzip"
    assert failure(server) == "NAME: the server compresses its answer (gzip), which it was asked not to do"
    assert len(server.asked) == 2


@pytest.mark.parametrize("how", ["wait", "stall_after", "trickle"])
def test_a_slow_server_ends(server: FileServer, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The bytes before a silence come in time, however busy this machine is; slow is one by a clock that is fast."""
    monkeypatch.setattr(http, "TRIES", 1)
    if how == "trickle":
        monkeypatch.setattr(http, "time", SimpleNamespace(monotonic=lambda: 100 * time.monotonic(), sleep=time.sleep))
    else:
        monkeypatch.setattr(http, "SILENCE", 2.0 if how == "stall_after" else 0.2)
    setattr(server, how, {"wait": PATIENCE, "stall_after": 50, "trickle": 0.05}[how])
    says = {"wait": "the server does not answer", "stall_after": "the server stopped after 50 bytes", "trickle": "slow"}
    assert says[how] in failure(server)


def test_what_was_done_in_time_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(SimpleQueue[Any]):
        """The thread that has given its result is not yet at its end."""

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            super().put(item, block, timeout)
            time.sleep(0.2)

    monkeypatch.setattr(ahead, "SimpleQueue", Slow)
    assert ahead.in_time(lambda: 5, PATIENCE) == 5
    assert "in time" not in {thread.name for thread in threading.enumerate()}


def test_the_next_picture_goes_on(coda: Coda, server: FileServer) -> None:
    result = looked_at(coda, f"{server.url}/gone.png", f"{server.url}/d/a.png", status=1)
    assert names_of(result) == [f"{server.url}/gone.png", f"{server.url}/d/a.png"]
    assert result.error == f"{server.url}/gone.png: nothing is at this address (HTTP 404)"


def test_redirects_are_followed_a_few_times_and_to_http_alone(server: FileServer) -> None:
    server.redirects = {"/1": "/2", "/2": f"{server.url}/d/a.png", "/x": "file:///etc/passwd", "/o": "/o"}
    assert AtAddress("NAME", f"{server.url}/1", private="named").read() == png()
    assert failure(server, "/x") == "NAME: leads to an address that is neither http nor https, and is not followed"
    assert failure(server, "/o") == "NAME: leads on more than 5 times, and is not followed"
    server.status["/nowhere"] = 302
    assert failure(server, "/nowhere") == "NAME: the server answers with HTTP 302, and says no other address"


# ---- private networks ------------------------------------------------------------------------------------------------


def test_a_list_reaches_nothing_private_unless_it_is_allowed(coda: Coda, tmp_path: Path, server: FileServer) -> None:
    photo(tmp_path / "b.png")
    url = f"{server.url}/d/a.png"
    result = looked_at(coda, "-", input=f"{url}\nb.png\n", status=1, cwd=tmp_path)
    assert names_of(result) == [url, "b.png"]
    expected = "leads to 127.0.0.1, which is private; --allow-private reads it if you trust this list and server"
    assert result.error == f"{url}: {expected}"
    assert server.asked == []
    assert names_of(looked_at(coda, "-", "--allow-private", input=f"{url}\n", cwd=tmp_path)) == [url]


def test_a_public_server_leads_to_no_private_one(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "is_private", lambda address: address == "127.0.0.2")
    server.redirects = {"/1": server.url.replace("127.0.0.1", "127.0.0.2") + "/d/a.png"}
    assert "leads to 127.0.0.2, which is private" in failure(server, "/1")
    with pytest.raises(MediaError, match="private"):
        AtAddress("NAME", f"{server.url}/1", private="never").read()
    with pytest.raises(MediaError, match="no connection"):  # nothing listens there, but it was asked
        AtAddress("NAME", f"{server.url}/1", private="always").read()


def test_a_name_that_means_another_number_a_moment_later_is_seen(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "leads_to_private", lambda _: False)
    with pytest.raises(MediaError, match="private"):
        AtAddress("NAME", f"{server.url}/d/a.png", private="never").read()
    assert server.asked == []


@pytest.mark.parametrize(
    ("address", "private"),
    [("8.8.8.8", False), ("2606:4700::1111", False), ("10.0.0.1", True), ("127.0.0.1", True), ("169.254.169.254", True),
     ("192.168.1.1", True), ("0.0.0.0", True), ("::1", True), ("fe80::1%eth0", True), ("fd00::1", True),
     ("::ffff:127.0.0.1", True), ("224.0.0.1", True), ("2002:7f00:1::", True),
     ("64:ff9b::10.0.0.1", True), ("64:ff9b::8.8.8.8", False), ("::ffff:224.0.0.1", True)],
)  # fmt: skip
def test_numbers_that_are_private(address: str, private: bool) -> None:
    assert is_private(address) == private


# ---- fsspec ----------------------------------------------------------------------------------------------------------


def test_folders_and_patterns_of_a_store_are_as_those_of_a_disk(
    coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    for n, name in enumerate(("b/img10.png", "b/img2.png", "b/sub/c.png", "b/.x/d.png", "b/notes.txt")):
        store.pipe(f"/{name}", png(n))
    assert names_of(looked_at(coda, "memory://b/")) == ["memory:///b/img2.png", "memory:///b/img10.png"]
    assert names_of(looked_at(coda, "memory://b")) == ["memory:///b/img2.png", "memory:///b/img10.png"]
    assert names_of(looked_at(coda, "memory://b/*/*.png")) == ["memory:///b/sub/c.png"]
    assert names_of(looked_at(coda, "memory://b/img2.png")) == ["memory://b/img2.png"]
    coda("explain", "memory://b", "-r", "--write", "json", cwd=tmp_path)
    assert list(tree(tmp_path / "coda-out")) == ["img10.coda.json", "img2.coda.json", "sub/c.coda.json"]
    assert "3 skipped" in coda("explain", "memory://b", "-r", "--write", "json", cwd=tmp_path).err


def test_a_name_in_a_store_leads_out_of_no_output_folder(store: fsspec.AbstractFileSystem) -> None:
    store.store["/b/../../up.png"] = store.store["/b/a.png"] = fsspec.implementations.memory.MemoryFile(data=png())
    assert [item.name for item in resolve(["memory://b/"], recursive=True)] == ["memory:///b/a.png"]


def test_what_is_not_in_a_store_is_a_line(coda: Coda, store: fsspec.AbstractFileSystem) -> None:
    store.pipe("/b/a.png", png())
    result = looked_at(coda, "-", input="memory://b/gone.png\nmemory://b/a.png\n", status=1)
    assert result.error == "memory://b/gone.png: nothing is at this address"
    assert names_of(result) == ["memory://b/gone.png", "memory://b/a.png"]
    assert coda("explain", "memory://c/*.png", status=2).error == "memory://c/*.png: no pictures at this address"


def test_a_picture_in_a_store_has_a_limit(store: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("/b/a.png", png())
    monkeypatch.setattr(budget, "ADDRESS_BYTES", 1000)
    (item,) = resolve(["memory://b/a.png"])
    assert item.stored
    with pytest.raises(MediaError, match="has more than the 0 MB"):
        item.stored.read()


def test_an_archive_inside_a_store_is_read_by_an_address_inside_another(
    coda: Coda, tmp_path: Path, store: fsspec.AbstractFileSystem
) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for n in range(8):
            archive.writestr(f"{n}.png", png(n))
    store.pipe("/b/p.zip", (tmp_path / "p.zip").read_bytes())
    expected = [f"zip://{n}.png::memory://b/p.zip" for n in range(8)]
    assert names_of(looked_at(coda, "zip://*.png::memory://b/p.zip")) == expected
    assert len(looked_at(coda, f"zip://*.png::{tmp_path}/p.zip").records) == 8


def test_schemes_have_small_and_capital_letters(store: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    store.pipe("/b/a.png", png())
    (item,) = resolve(["MEMORY://b/a.png", "memory://b/a.png"])
    assert item.stored
    assert item.stored.read() == png()
    assert [item.name for item in resolve(["Memory://b/"])] == ["memory:///b/a.png"]
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("c.png", png())
    (item,) = resolve([f"ZIP://c.png::FILE://{tmp_path}/p.zip"])
    assert item.stored
    assert item.stored.read() == png()


def test_a_name_in_a_store_that_looks_like_a_pattern_is_that_name(store: fsspec.AbstractFileSystem) -> None:
    for name in ("photo [1].png", "photo 1.png", "a*.png", "ab.png"):
        store.pipe(f"/b/{name}", png())
    for pattern, names in (
        ("photo [1].png", ["photo [1].png"]),
        ("photo [2-9].png", []),
        ("photo ?.png", ["photo 1.png"]),
        ("a*.png", ["a*.png"]),
        ("*b.png", ["ab.png"]),
    ):
        if names:
            assert [item.path.name for item in resolve([f"memory://b/{pattern}"])] == names
        else:
            with pytest.raises(UsageError, match="no pictures at this address"):
                resolve([f"memory://b/{pattern}"])


def test_what_is_wrong_with_an_archive_inside_another_address_is_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a.png", png())
    whole = (tmp_path / "p.zip").read_bytes()

    def refusal(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        stored = addresses.at(f"{name[-3:]}://a.png::file://{tmp_path}/{name}", private="named")
        with pytest.raises(MediaError) as caught:
            stored.read()
        return caught.value.message

    place = whole.index(b"PK\1\2")

    def changed(offset: int, new: bytes) -> bytes:
        return whole[: place + offset] + new + whole[place + offset + len(new) :]

    assert refusal("encrypted.zip", changed(8, b"\1")) == "is encrypted; download the archive, and unpack it"
    assert refusal("other.zip", changed(10, b"\x63")).startswith("is compressed in a way that coda does not read; ")
    assert refusal("none.zip", b"nothing") == "the ZIP archive around it is none, or is broken or cut off"
    assert refusal("none.tar", b"nothing" * 1000) == "the tar archive around it is none, or is broken or cut off"


@pytest.mark.parametrize("by_folder", [False, True])
def test_folders_of_an_archive_are_places_below_its_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_folder: bool
) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for name in ("a.png", "sub/b.png", "sub/deep/c.png"):
            archive.writestr(name, png())
    monkeypatch.chdir(tmp_path)

    def places(url: str) -> list[str]:
        return sorted(str(item.subfolder) for item in find([url], recursive=True, by_folder=by_folder))

    assert places(f"zip://::{tmp_path}/p.zip") == [".", "sub", "sub/deep"]
    assert places(f"zip:///::{tmp_path}/p.zip") == [".", "sub", "sub/deep"]
    assert places(f"zip://sub/::{tmp_path}/p.zip") == [".", "deep"]


def test_two_colons_in_a_host_are_no_address_inside_another() -> None:
    url = "http://[2001:db8::1]:80/d/a.png"
    assert addresses.links_of(url) == [url]
    assert addresses.links_of("zip://[ab].png::s3://b/[cd].zip") == ["zip://[ab].png", "s3://b/[cd].zip"]
    assert addresses.at(url, private="named", chains=False).name == url
    (item,) = resolve([url])
    assert item.path.name == "a.png"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/a.png", "ftp:// is not read; coda reads http, https, s3, "),
        ("file:///a.png", "file:// is not read; "),
        ("zip://a.png::http://host/b.zip", "an address inside another is read from the command line, not over http"),
        ("https://host/p.zip?sig=1", "https://host/p.zip: an archive at an address is not read; download it, and"),
        ("s3://bucket/p.tar", "an archive at an address is not read; download it, and name the file"),
        ("s3://bucket/p.parquet", "an archive at an address is not read; download it, and name the file"),
    ],
)
def test_addresses_that_are_not_read(coda: Coda, url: str, says: str) -> None:
    assert says in coda("explain", url, status=2).error
    assert says in looked_at(coda, "-", input=f"{url}\n", status=1).error


def test_how_to_name_what_is_in_an_archive_of_a_store_is_said(coda: Coda) -> None:
    assert coda("explain", "s3://bucket/p.tar", status=2).error.endswith(
        " the file, or name what is in it: 'tar://**::s3://bucket/p.tar'"
    )
    for url in ("https://host/p.tar", "s3://bucket/p.parquet"):
        assert coda("explain", url, status=2).error.endswith("download it, and name the file")
    assert looked_at(coda, "-", input="s3://bucket/p.tar\n", status=1).error.endswith(" and name the file")


def test_a_list_holds_no_addresses_inside_others(coda: Coda, tmp_path: Path) -> None:
    result = looked_at(coda, "-", input=f"zip://a.png::{tmp_path}/p.zip\n", status=1)
    assert "an address inside another is read from the command line" in result.error


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("abfs", "azure"), ("hf", "hf")])
def test_a_missing_driver_is_a_line(monkeypatch: pytest.MonkeyPatch, scheme: str, extra: str) -> None:
    def missing(_: str) -> object:
        raise ImportError("Install it, whatever it is")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(UsageError) as caught:
        resolve([f"{scheme}://bucket/a.png"])
    assert str(caught.value) == f"{scheme}://bucket/a.png: needs a driver: pip install 'coda-cli[{extra}]'"


def test_errors_of_drivers_are_lines_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    class StrangeError(Exception):
        pass

    class NoCredentialsError(Exception):  # as botocore's
        pass

    for error, says in (
        (PermissionError("SECRET"), "is forbidden; the driver has no credentials for it, or they do not allow it"),
        (NoCredentialsError("SECRET"), "is forbidden; the driver has no credentials for it, or they do not allow it"),
        (StrangeError("https://host/?sig=SECRET"), "cannot be read (StrangeError)"),
        (OSError("SECRET"), "cannot be read (OSError) (tried 3 times)"),
    ):

        def failing(_: str, error: Exception = error) -> object:
            raise error

        monkeypatch.setattr(http, "PAUSE", 0.001)
        monkeypatch.setattr(addresses, "system_of", failing)
        with pytest.raises(MediaError) as caught:
            addresses.InStore("NAME", "s3://KEY:SECRET@bucket/a.png").read()
        assert str(caught.value) == f"NAME: {says}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:SECRET@host:81/a/b.png?x=SECRET#SECRET", "https://host:81/a/b.png"),
        ("s3://KEY:SECRET@bucket/a.png?versionId=SECRET", "s3://bucket/a.png"),
        ("s3://bucket/a?b.png", "s3://bucket/a?b.png"),
        ("abfs://container@account.host/a.png", "abfs://container@account.host/a.png"),
        ("zip://a.png::s3://KEY:SECRET@bucket/b.zip", "zip://a.png::s3://bucket/b.zip"),
        ("https://[SECRET", "https://[SECRET"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert addresses.shown(url) == shown


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("summary s3://b/out", "records"),
        ("diff s3://b/out s3://b/out", "records"),
        ("verify s3://b/out", "records"),
        ("rerun s3://b/out", "records"),
        ("merge s3://b/out", "records"),
        ("explain a.png --mask s3://b/out", "masks and annotations"),
        ("explain a.png --regions s3://b/out", "masks and annotations"),
        ("video s3://b/out", "clips"),
    ],
)
def test_what_is_read_from_a_disk_alone_says_so_of_an_address(
    coda: Coda, tmp_path: Path, command: str, what: str
) -> None:
    photo(tmp_path / "a.png")
    result = coda(*command.split(), status=2)
    assert result.error == f"s3://b/out: is an address, and {what} are read from a disk; download it first"
    assert not (tmp_path / "coda-out").exists()
