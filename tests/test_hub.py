"""Networks of the Hugging Face hub: pulled, remembered, pushed; against a server on this machine that answers as it."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Coda
from program import photo, woollen

from coda_cli.checkpoints import fetch, hub
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import find
from coda_cli.cli import catalogue
from coda_cli.errors import CheckpointError, DownloadError, UsageError

huggingface_hub = pytest.importorskip("huggingface_hub")
TOKEN = "hf_neverprintedanywhere"
MAIN, OLD = "a" * 40, "b" * 40


class FakeHub(HTTPServer):
    """Repositories as ``files[repository][commit][name]``; branches lead to commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches = {"main": MAIN, "v1": OLD}
        self.private: set[str] = set()
        self.status = 0  # an error to answer with
        self.said: bytes | None = None  # what it says of every repository, whatever that is
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.close_connection = True
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content)), "Connection": "close"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        hub_, path = self.server, self.path.split("?")[0]
        hub_.asked.append(path)
        hub_.tokens.add(self.headers.get("Authorization"))
        if hub_.status:
            return self._answer(hub_.status)
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in hub_.files or (name in hub_.private and TOKEN not in (self.headers.get("Authorization") or "")):
            return self._answer(401, X_Error_Code="RepoNotFound", X_Error_Message=f"/secret/path {TOKEN}")
        revision = (parts[5] if len(parts) > 5 else "main") if parts[0] == "api" else parts[3]
        commit = hub_.branches.get(revision, revision)
        if commit not in hub_.files[name]:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        files = hub_.files[name][commit]
        if parts[0] == "api":
            if hub_.said is not None:
                return self._answer(200, hub_.said, Content_Type="application/json")
            siblings = [{"rfilename": file, "size": len(content)} for file, content in files.items()]
            return self._json({"id": name, "sha": commit, "siblings": siblings})
        content = files["/".join(parts[4:])]
        etag = hashlib.sha256(content).hexdigest()
        return self._answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=commit)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        hub_, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        hub_.tokens.add(self.headers.get("Authorization"))
        if TOKEN not in (self.headers.get("Authorization") or ""):
            return self._answer(401)
        parts = self.path.split("?")[0].strip("/").split("/")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub_.files.setdefault(name, {MAIN: {}})
            if asked.get("private") or asked.get("visibility") == "private":
                hub_.private.add(name)
            return self._json({"url": f"{hub_.url}/{name}", "name": name})
        name = "/".join(parts[2:4])
        if len(parts) < 5:
            return self._json({"warnings": [], "errors": []})  # of the card's fields
        if parts[4] == "preupload":
            asked = json.loads(body)["files"]
            return self._json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
            )
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                hub_.files[name][MAIN][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self._json({"commitUrl": f"{hub_.url}/{name}/commit/{MAIN}", "commitOid": MAIN, "success": True})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with FakeHub() as fake:
        thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("CODA_CACHE_DIR", str(tmp_path / ".cache"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        try:
            yield fake
        finally:
            fake.shutdown()
            thread.join()


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return woollen(tmp_path / "woollen.safetensors")


def test_a_network_is_pulled_explained_and_named_in_the_record(
    server: FakeHub, network: Path, coda: Coda, tmp_path: Path
) -> None:
    server.files["o/n"] = {MAIN: {"woollen.safetensors": network.read_bytes(), "README.md": b"# card"}}
    photo(tmp_path / "a.png")
    first = coda("explain", "a.png", "-m", "hf:o/n", status=3)
    assert first.error == "'hf:o/n' is not on this machine; get it with: coda models pull hf:o/n"
    assert not server.asked, "explaining asks nobody"
    result = coda("models", "pull", "hf:o/n")
    sha256 = hashlib.sha256(network.read_bytes()).hexdigest()
    assert result.err.splitlines()[-1] == f"coda: hf:o/n: woollen.safetensors of commit {MAIN}, sha256 {sha256}"
    assert Path(result.lines[0]).read_bytes() == network.read_bytes()
    asked = len(server.asked)
    record = coda("explain", "a.png", "-m", "hf:o/n", "--json").record
    assert len(server.asked) == asked
    assert record["network"]["sha256"] == sha256
    assert f"from hf:o/n, commit {MAIN[:12]}" in record["network"]["assumed"]
    assert json.loads(coda("models", "show", "hf:o/n", "--json").out)["class_count"] == 2


def test_a_revision_is_kept_apart_and_a_commit_is_asked_for_once(server: FakeHub, network: Path) -> None:
    server.files["o/n"] = {OLD: {"w.safetensors": network.read_bytes()}, MAIN: {}}
    assert hub.pull("hf:o/n@v1").commit == OLD
    with pytest.raises(DownloadError, match=r"hf:o/n: the repository has no \.safetensors file"):
        hub.pull("hf:o/n")
    found = hub.pull(f"hf:o/n@{OLD}")
    asked = len(server.asked)
    assert hub.pull(f"hf:o/n@{OLD}") == found
    assert hub.pull("hf:o/n@v1", offline=True).commit == OLD
    assert len(server.asked) == asked
    assert load(f"hf:o/n@{OLD}").sha256 == found.sha256


def test_what_changes_under_a_commit_or_on_the_disk_is_refused(server: FakeHub, network: Path, tmp_path: Path) -> None:
    server.files["o/n"] = {MAIN: {"w.safetensors": network.read_bytes()}}
    found = hub.pull("hf:o/n")
    other = find("cifar10").path.read_bytes()
    server.files["o/n"][MAIN]["w.safetensors"] = other
    shutil.rmtree(tmp_path / "hub-cache")
    with pytest.raises(CheckpointError, match="gave another file than before"):
        hub.pull("hf:o/n")
    Path(found.path).parent.mkdir(parents=True, exist_ok=True)
    Path(found.path).write_bytes(other)
    with pytest.raises(CheckpointError, match="coda models pull hf:o/n --force"):
        load("hf:o/n")


def test_what_was_pulled_from_another_address_is_not_taken_for_it(server: FakeHub, network: Path) -> None:
    """The file that remembers a pull has the same name for both."""
    server.branches |= {"x--y": MAIN}
    server.files["o/n"] = {MAIN: {"w.safetensors": network.read_bytes()}}
    hub.pull("hf:o/n@x--y")
    with pytest.raises(CheckpointError, match="'hf:o/n@x/y' is not on this machine"):
        hub.pulled("hf:o/n@x/y")


@pytest.mark.parametrize(
    "said",
    ["[]", "null", "{}", '"x"', "<html>", '{"id": "o/n", "sha": "%s", "siblings": [{}]}',
     '{"id": "o/n", "sha": "%s", "siblings": 3}',
     '{"id": "o/n", "sha": "%s", "siblings": [{"rfilename": "w.safetensors", "size": "x"}]}',
     '{"id": "o/n", "siblings": [{"rfilename": "w.safetensors", "size": 3}]}',
     '{"id": "o/n", "sha": "../../x", "siblings": [{"rfilename": "w.safetensors", "size": 3}]}'],
)  # fmt: skip
def test_what_no_hub_answers_is_one_line(server: FakeHub, coda: Coda, tmp_path: Path, network: Path, said: str) -> None:
    server.files["o/n"] = {MAIN: {"w.safetensors": network.read_bytes()}}
    server.said = said.replace("%s", MAIN).encode()
    refused = coda("models", "pull", "hf:o/n", status=5).error
    assert refused == "hf:o/n: the answer is none of the hub; is HF_ENDPOINT set to another server?"
    assert not [
        path for path in (tmp_path / "hub-cache").rglob("*") if path.suffix == ".safetensors" or path.name == "x"
    ]


def test_a_file_that_is_larger_than_was_said_is_ended(
    server: FakeHub, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LARGEST", 1000)
    server.files["o/n"] = {MAIN: {"w.safetensors": network.read_bytes()}}
    with pytest.raises(DownloadError, match="the limit is 1000"):
        hub.pull("hf:o/n")
    server.said = b'{"id": "o/n", "sha": "%s", "siblings": [{"rfilename": "w.safetensors", "size": 3}]}' % MAIN.encode()
    with pytest.raises(DownloadError, match="the hub sends more than 1000 bytes"):
        hub.pull("hf:o/n")
    assert not list((tmp_path / "hub-cache").rglob("*.safetensors"))


def test_settings_of_the_hub_that_are_not_valid_are_one_line(coda_process: Coda) -> None:
    refused = coda_process("models", "pull", "hf:o/n", env={"HF_ENDPOINT": "http://[bad"}, status=2).error
    assert refused == "HF_ENDPOINT, or another setting HF_... of the hub, is not valid; correct or unset it"


def test_a_token_that_is_none_is_not_printed(server: FakeHub, coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files["o/n"] = {MAIN: {}}
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}é")
    result = coda("models", "pull", "hf:o/n", status=5)
    assert result.error == "hf:o/n: the token has letters that no token has; log in with: hf auth login"
    assert TOKEN not in result.err


def test_only_safetensors_with_a_description_are_taken(server: FakeHub, network: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    bare = save({"w": np.zeros(3, np.float32)})
    server.files["o/n"] = {MAIN: {"w.safetensors": bare, "pytorch_model.bin": b"code"}}
    with pytest.raises(CheckpointError, match=r"w\.safetensors has no description of coda's"):
        hub.pull("hf:o/n")
    server.files["o/n"][MAIN]["v.safetensors"] = network.read_bytes()
    with pytest.raises(UsageError, match=r"has 2 networks; say which: hf:o/n/w\.safetensors"):
        hub.pull("hf:o/n")
    assert hub.pull("hf:o/n/v.safetensors").file == "v.safetensors"
    with pytest.raises(DownloadError, match="no such file in the repository"):
        hub.pull("hf:o/n/u.safetensors")


@pytest.mark.parametrize(
    ("status", "place", "message"),
    [
        (0, "hf:o/none", "no such repository, or it is private; log in with: hf auth login"),
        (0, "hf:o/n@v9", "has no revision 'v9'"),
        (500, "hf:o/n", "the hub answers with HTTP 500; try again later"),
        (403, "hf:o/n", "you may not do that with this token; log in with: hf auth login"),
    ],
)
def test_every_refusal_is_one_line_without_secrets(
    server: FakeHub, coda: Coda, tmp_path: Path, status: int, place: str, message: str
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    server.files["o/n"] = {MAIN: {}}
    server.status = status
    result = coda("models", "pull", place, status=5)
    assert result.error == f"{place}: {message}"
    assert TOKEN not in result.err + result.out


@pytest.mark.usefixtures("server")
def test_a_server_that_is_not_there_is_one_line(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert (
        coda("models", "pull", "hf:o/n", status=5).error == "hf:o/n: the hub cannot be reached, or broke off; try again"
    )
    assert "without a connection" in coda("models", "pull", "hf:o/n", "--offline", status=5).error


@pytest.mark.parametrize(
    "place", ["hf:n", "hf:o/n/../../x.safetensors", "hf:o/n/model.bin", "hf:o/n@", "hf:o/n/x y@z z"]
)
def test_what_is_no_address_is_said(coda: Coda, place: str) -> None:
    assert "expected hf:OWNER/NAME" in coda("models", "pull", place, status=2).error


def test_a_network_is_pushed_with_its_card_and_nothing_is_replaced_unasked(
    server: FakeHub, network: Path, coda: Coda, tmp_path: Path
) -> None:
    assert "log in with: hf auth login" in coda("models", "push", network, "hf:me/wool", status=5).error
    (tmp_path / "token").write_text(TOKEN)
    result = coda("models", "push", network, "hf:me/wool", "--private")
    assert result.lines == [f"hf:me/wool/woollen.safetensors@{MAIN}"]
    there = server.files["me/wool"][MAIN]
    assert there["woollen.safetensors"] == network.read_bytes()
    card = there["README.md"].decode()
    assert card.startswith("---\nlibrary_name: coda-cli\n")
    assert "| classes | 2 |" in card
    assert "Classes: Cardigan, cardigan" in card
    assert "\ncoda explain photo.jpg -m hf:me/wool\n" in card
    assert str(tmp_path) not in card
    assert "me/wool" in server.private
    there["README.md"] = b"# mine"
    assert "is there already; --force replaces it" in coda("models", "push", network, "hf:me/wool", status=1).error
    assert coda("models", "pull", "hf:me/wool").lines
    assert TOKEN not in result.out + result.err
    other = tmp_path / "other.safetensors"
    other.write_bytes(network.read_bytes())
    coda("models", "push", other, "hf:me/wool")
    assert there["README.md"] == b"# mine"
    coda("models", "push", other, "hf:me/wool", "--force")
    assert there["README.md"] != b"# mine"


def test_names_of_classes_are_text_on_a_card(tmp_path: Path) -> None:
    """Whoever trains a network names its classes, by folders that may be somebody else's."""
    path = woollen(tmp_path / "a_b.safetensors", ("<script>x</script>", "[free](javascript:x) | `*_"))
    card = catalogue.card(catalogue.entry_of(str(path)), "hf:me/x")
    assert card.endswith(r"Classes: \<script\>x\</script\>, \[free\](javascript:x) \| \`\*\_" + "\n")
    assert r"coda\_net" in card


def test_a_bundled_network_goes_with_its_own_card(server: FakeHub, coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    coda("models", "push", "cifar10", "hf:me/ten")
    assert "# cifar10" in server.files["me/ten"][MAIN]["README.md"].decode()
    bare = tmp_path / "w.pth"
    bare.write_bytes(b"no")
    assert "holds no description" in coda("models", "push", bare, "hf:me/ten", status=2).error


def test_without_the_package_it_says_how_to_get_it(coda: Coda, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert coda("models", "pull", "hf:o/n", status=2).error == "networks of the hub need: pip install 'coda-cli[hub]'"
