"""``coda models``, run as a program: what stands on stdout, what on stderr, and the exit code."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import program
import pytest
import torch
from foreign import RANK_4, authors_state, flat_file, rank_4_state
from local_server import FileServer
from program import Result

from coda_cli.checkpoints import manifest
from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import known
from coda_cli.checkpoints.published import PUBLISHED
from coda_cli.cli import catalogue
from coda_cli.core.networks import build

NAME = "9L-S-CoDA-SQ-10"
ADDRESS = f"/{NAME}/model_epoch_200.pkl"
BUNDLED = [name for name, entry in known().items() if entry.bundled]


class Models:
    """``coda models`` in a folder of its own, with an empty cache: in this process, or apart from it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.env = {"CODA_CACHE_DIR": str(self.cache), "NO_PROXY": "*", "PYTHONWARNINGS": "error"}

    def __call__(self, *args: str | Path, status: int = 0) -> Result:
        """Run its ``main`` here."""
        return program.run("models", *args, status=status, env=self.env, cwd=self.folder)

    def apart(self, *args: str | Path, status: int = 0) -> Result:
        """Run it as a process of its own."""
        return program.run_process("models", *args, status=status, env=self.env, cwd=self.folder)

    def error(self, *args: str | Path, status: int) -> str:
        """The one line of an error; nothing may stand on stdout."""
        ran = self(*args, status=status)
        assert ran.out == ""
        return ran.error

    def put(self, name: str, *, sha256: str | None = None) -> Path:
        """A published network with random weights in the cache, with the hash that is recorded for it."""
        path = self.cache / name / known()[name].path.name
        path.parent.mkdir(parents=True)
        torch.save(authors_state(PUBLISHED[name]), path)
        recorded = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.recorded_hash_file(path).write_text(recorded + "\n", encoding="ascii")
        return path


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


@pytest.fixture
def server(models: Models) -> Iterator[FileServer]:
    with FileServer() as server:
        server.files[ADDRESS] = flat_file(NAME)
        models.env["CODA_MIRROR"] = server.url
        yield server


# ---- list and show ---------------------------------------------------------------------------------------------------


def test_list_shows_every_network_and_where_it_is(models: Models) -> None:
    models.put(NAME)
    ran = models.apart("list")
    heading, *rows = ran.lines
    assert heading.split() == ["NAME", "FAMILY", "PARAMETERS", "CLASSES", "INPUT", "ACCURACY", "WHERE"]
    assert [row.split()[0] for row in rows] == list(known())
    where = {row.split()[0]: row.split("  ")[-1].strip() for row in rows}
    assert where[NAME] == "here"
    assert where["9L-L-CoDA-SQ-100000"] == "not here"
    assert all(where[name] == "bundled" for name in BUNDLED)
    assert [row.split()[0] for row in rows if "(default)" in row] == [n for n in BUNDLED if n == manifest.DEFAULT]
    (large,) = [row for row in rows if row.startswith("9L-L-CoDA-SQ-100000")]
    assert re.search(r"CoDA +47\.5 M +100  240 x 240", large)
    assert ran.err == ""


def test_a_listing_for_a_pipe_is_not_cut_to_the_width_of_a_screen(models: Models) -> None:
    whole = models("list")
    models.env["COLUMNS"] = "40"
    assert models("list").out == whole.out


@pytest.mark.parametrize("width", [50, 60, 70, 80, 100, 120])
def test_a_listing_for_a_narrow_screen_has_fewer_columns_and_whole_names(width: int) -> None:
    heading, *rows = catalogue.table(known().values(), width)
    assert max(map(len, [heading, *rows])) <= width
    assert [row.split()[0] for row in rows] == list(known())
    assert {"NAME", "WHERE"} <= {*heading.split()}
    whole = catalogue.table(known().values())
    assert len(whole[0].split()) == 7
    assert whole == catalogue.table(known().values(), max(map(len, whole)))


def test_the_example_that_lists_what_is_here_does(models: Models) -> None:
    models.put(NAME)
    here = [record["name"] for record in models("list", "--json").records if record["where"] != "not here"]
    assert here == [*BUNDLED, NAME]


def test_list_as_json_is_an_object_for_each_network(models: Models) -> None:
    records = models("list", "--json").records
    assert [o["name"] for o in records] == list(known())
    for o in records:
        assert (o["schema"], o["schema_version"]) == ("coda.model", 1)
        assert o["where"] == ("bundled" if o["name"] in BUNDLED else "not here")
    assert str(models.folder) not in str(records)  # no path of this machine unless asked for


def test_parameters_are_counted_as_torch_counts_them(models: Models) -> None:
    for o in models("list", "--json").records:
        with torch.device("meta"):
            checkpoint = known()[o["name"]].checkpoint
            network = build(checkpoint.architecture, checkpoint.arguments)
        assert o["parameters"] == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["show", NAME], ["--help"], ["verify", "--help"]])
def test_looking_does_not_import_what_takes_long(arguments: list[str]) -> None:
    code = (
        "import sys; from coda_cli.cli.app import main; sys.argv[1:] = ['models', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print(*{'torch', 'numpy', 'PIL', 'requests'} & sys.modules.keys(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    ran = subprocess.run(command, env=program.environment(), capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == ""


def test_show_tells_everything(models: Models) -> None:
    out = models("show", "9L-L-CoDA-SQ-100000").out
    for expected in (
        "not here: ",
        "coda_net",
        "47517408",
        "100000.0",
        "-2.19",
        "shorter side to 256, centre 240 x 240",
        "non-commercial",
        "https://nextcloud.mpi-klsb.mpg.de/index.php/s/pArrgmncXAAiH5R/download",
        "none published; recorded at the first pull",
        "    2  n01484850  great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias\n",
    ):
        assert expected in out
    training = next(line for line in models("show", "imagenet").lines if line.startswith("training:"))
    assert not set("{}'") & set(training.replace("'s ", "s "))  # nothing as Python writes it
    assert "None" not in training


def test_show_as_json_holds_the_same(models: Models) -> None:
    path = models.put(NAME)
    (o,) = models("show", NAME, "--json").records
    assert o["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert o["where"] == "here"
    assert o["file"] == path.as_posix()
    assert o["temperature"] == 10
    assert o["arguments"] == PUBLISHED[NAME]
    assert o["classes"][3] == {"index": 3, "name": "cat", "wnid": None, "synonyms": []}
    assert o["preprocessing"] == {"resize": 32, "crop": 32}


def test_show_reads_the_description_in_a_file_of_ours(models: Models) -> None:
    torch.save(rank_4_state(), models.folder / "weights.pkl")
    models("convert", "weights.pkl", "--arch", RANK_4)
    (o,) = models("show", "weights.safetensors", "--json").records
    assert o["name"] == RANK_4
    assert (o["where"], o["file"], o["link"]) == ("here", "weights.safetensors", None)
    assert "sha256:         none recorded" in models("show", "weights.safetensors").out
    assert "holds no description; coda models convert weights.pkl" in models.error("show", "weights.pkl", status=2)


def test_json_of_a_network_holds_no_command_for_a_terminal(models: Models) -> None:
    torch.save(rank_4_state(), models.folder / "a\x9b.pkl")
    ran = models("show", "a\x9b.pkl", "--arch", RANK_4, "--json")
    assert "\x9b" not in ran.out
    assert ran.record["file"] == "a\x9b.pkl"


def test_show_suggests_for_a_slip(models: Models) -> None:
    assert "did you mean '9L-S-CoDA-SQ-10" in models.error("show", "9L-S-CoDA-SQ-1O", status=2)


# ---- pull ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("server")
def test_pull_prints_the_file_and_says_licence_and_hash(models: Models) -> None:
    ran = models.apart("pull", NAME)
    path = models.cache / NAME / "model_epoch_200.pkl"
    assert ran.lines == [path.as_posix()]
    assert path.read_bytes() == flat_file(NAME)
    sha256 = hashlib.sha256(flat_file(NAME)).hexdigest()
    assert "non-commercial research" in ran.err
    assert f"sha256 {sha256} is recorded, later pulls must match it; none was published" in ran.err
    again = models("pull", NAME, "-q")
    assert (again.out, again.err) == (ran.out, "")


def test_pull_refuses_another_file_than_the_first_and_keeps_that(models: Models, server: FileServer) -> None:
    models("pull", NAME)
    server.files[ADDRESS] = flat_file(NAME, 0.02)
    assert "sent another file than the first pull's" in models.error("pull", NAME, "--force", status=3)
    assert (models.cache / NAME / "model_epoch_200.pkl").read_bytes() == flat_file(NAME)


def test_pull_says_what_the_network_did(models: Models, server: FileServer) -> None:
    server.files.clear()
    assert "HTTP 404" in models.error("pull", NAME, status=5)
    assert "without a connection" in models.error("pull", NAME, "--offline", status=5)
    models.env["CODA_OFFLINE"] = "1"
    assert "without a connection" in models.error("pull", NAME, status=5)


def test_pull_refuses_what_has_no_weights_to_pull(models: Models) -> None:
    assert "the authors published no weights" in models.error("pull", RANK_4, status=2)


@pytest.mark.skipif(not BUNDLED, reason="no network is bundled yet")
def test_pull_of_a_bundled_network_has_nothing_to_do(models: Models) -> None:
    ran = models("pull", BUNDLED[0])
    assert ran.lines == [known()[BUNDLED[0]].path.as_posix()]
    assert "there is nothing to download" in ran.err


def test_a_killed_pull_leaves_nothing_under_the_final_name_and_the_next_one_goes_on(
    models: Models, server: FileServer
) -> None:
    path = models.cache / NAME / "model_epoch_200.pkl"
    part = path.with_name(path.name + ".part")
    server.stall_after = 1000
    command, environment = program.command("models", "pull", NAME), program.environment(models.env)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, cwd=models.folder, stdout=quiet, stderr=quiet) as process:
        deadline = time.monotonic() + program.PATIENCE
        while not (part.exists() and part.with_name(part.name + ".from").exists()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert part.exists()
    assert not path.exists()
    server.stall_after = None
    models("pull", NAME)
    assert path.read_bytes() == flat_file(NAME)
    assert {p.name.removeprefix(path.name) for p in path.parent.iterdir()} == {"", ".sha256", ".lock"}


# ---- convert ---------------------------------------------------------------------------------------------------------


def test_convert_writes_beside_the_source_and_proves_equal_logits(models: Models) -> None:
    source = models.folder / RANK_4 / "model_epoch_200.pkl"
    source.parent.mkdir()
    torch.save(rank_4_state(), source)
    ran = models("convert", f"{RANK_4}/model_epoch_200.pkl")
    assert ran.lines == [f"{RANK_4}/model_epoch_200.safetensors"]
    assert "largest difference 0\n" in ran.err
    assert f"configuration {RANK_4} from the file's path" in ran.err  # a guess is never silent
    assert load(source.with_suffix(".safetensors")).checkpoint.name == RANK_4


def test_convert_does_not_overwrite_unless_forced(models: Models) -> None:
    torch.save(rank_4_state(), models.folder / "weights.pkl")
    target = models.folder / "net.safetensors"
    target.write_text("what was there")
    arguments = ("convert", "weights.pkl", "-o", "net.safetensors", "--arch", RANK_4)
    assert "net.safetensors: exists; --force" in models.error(*arguments, status=2)
    assert target.read_text() == "what was there"
    models(*arguments, "--force")
    assert load(target).checkpoint.name == RANK_4


def test_convert_states_a_full_colour(models: Models) -> None:
    torch.save(rank_4_state(), models.folder / "weights.pkl")
    arguments = ("convert", "weights.pkl", "--arch", RANK_4, "-o", "net.safetensors", "--full-colour")
    models(*arguments, "0.25")
    assert load(models.folder / "net.safetensors").checkpoint.full_colour == 0.25
    assert "full colour:    0.25 logit a pixel" in models("show", "net.safetensors").out
    for number in ("0", "-1", "nan", "inf"):
        assert "expected a positive number of logit units" in models.error(*arguments, number, "-f", status=2)
    assert load(models.folder / "net.safetensors").checkpoint.full_colour == 0.25


def test_convert_says_what_is_wrong_before_it_writes(models: Models) -> None:
    torch.save(rank_4_state(), models.folder / "weights.pkl")
    (models.folder / "text.pkl").write_text("hello, I am text")
    assert "no such file" in models.error("convert", "missing.pkl", status=2)
    assert "name it net.safetensors" in models.error("convert", "weights.pkl", "-o", "net.pkl", status=2)
    assert f"its shapes fit {RANK_4}; say which with --arch" in models.error("convert", "weights.pkl", status=3)
    assert "no such configuration" in models.error("convert", "weights.pkl", "--arch", "zebra", status=2)
    assert "not a torch file" in models.error("convert", "text.pkl", "--arch", RANK_4, status=3)
    out = ("-o", "missing/net.safetensors")
    assert "cannot be written" in models.error("convert", "weights.pkl", "--arch", RANK_4, *out, status=1)
    assert {path.name for path in models.folder.iterdir()} == {"weights.pkl", "text.pkl"}


# ---- verify ----------------------------------------------------------------------------------------------------------


def test_verify_proves_every_network_that_is_here(models: Models) -> None:
    models.put(NAME)
    records = models("verify", "--json").records
    assert [o["name"] for o in records] == [*BUNDLED, NAME]
    for o in records:
        assert o["exact"]
        assert o["sha256_known"]
        assert 0 <= o["residual_float64"] < 1
        assert 0 <= o["residual_float32"] < 1
        assert 0 < o["map_difference"] < 1e-4


def test_verify_in_words_is_one_line(models: Models) -> None:
    torch.save(rank_4_state(), models.folder / "weights.pkl")
    ran = models("verify", "weights.pkl", "--arch", RANK_4)
    (line,) = ran.lines
    sha256 = hashlib.sha256((models.folder / "weights.pkl").read_bytes()).hexdigest()
    assert line.startswith(f"weights.pkl: exact; sha256 {sha256} (none to compare with); residual / tolerance 0.")
    assert "in float32" in line
    assert f"configuration {RANK_4} from --arch" in ran.err


def test_verify_goes_on_after_a_wrong_hash_and_exits_with_3(models: Models) -> None:
    models.put(NAME, sha256="0" * 64)
    models.put("9L-S-CoDA-SQ-50")
    ran = models("verify", status=3)
    assert "the manifest says 000000" in ran.err
    assert f"coda models pull {NAME} --force" in ran.err
    assert [line.split(":")[0] for line in ran.lines] == [*BUNDLED, "9L-S-CoDA-SQ-50"]


def test_verify_exits_with_4_where_a_decomposition_is_not_exact(models: Models) -> None:
    state = {key: value * 1e30 for key, value in rank_4_state().items()}  # float32 overflows
    torch.save(state, models.folder / "weights.pkl")
    ran = models("verify", "weights.pkl", "--arch", RANK_4, "--json", status=4)
    assert not ran.record["exact"]
    assert ran.record["residual_float32"] is None  # valid JSON, though it is not a number
    assert ran.error == "weights.pkl: not exact, or not the same in float32 and float64; do not rely on it"
    assert "NOT EXACT" in models("verify", "weights.pkl", "--arch", RANK_4, status=4).out


def test_verify_names_what_is_not_here(models: Models) -> None:
    assert f"coda models pull {NAME}" in models.error("verify", NAME, status=3)
    assert "no such file, and no network has that name" in models.error("verify", "zebra", status=3)


@pytest.mark.parametrize("more", [("cifar10",), ("--accuracy", "data")])
def test_logits_that_would_not_be_kept_are_refused(models: Models, more: tuple[str, ...]) -> None:
    said = models("verify", *more, "--logits", "l.npz", status=2).error
    assert said == "--logits l.npz: needs --accuracy DATA and the name of one network"
