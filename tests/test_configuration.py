"""Defaults from files and variables: what wins, what is refused, and what ``coda config`` says of it."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import program
import pytest
import typer.main
from program import photo

from coda_cli.cli import configured
from coda_cli.cli.app import app

Coda = Callable[..., program.Result]
COMMANDS = configured.commands_of(typer.main.get_command(app))  # type: ignore[arg-type]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own coda.toml, which is not there yet."""
    if sys.platform != "linux":
        pytest.skip("elsewhere no variable says where the configuration folder is")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "coda").mkdir(parents=True)
    return tmp_path / "home" / "coda" / "coda.toml"


def value(coda: Coda, option: str, command: str = "explain", **more: object) -> tuple[object, str, str | None]:
    """The value of an option, and where it is from."""
    for one in coda("config", "show", *command.split(), "--json", **more).records:
        if one["option"] == option:
            return one["value"], one["from"], one["where"]
    raise AssertionError(option)


def test_the_command_line_wins_over_a_variable_over_the_folder_over_the_user(
    coda: Coda, tmp_path: Path, own: Path
) -> None:
    photo(tmp_path / "a.png")
    look = ("explain", "a.png", "--json", "--class", "0")

    def alpha(*args: str, env: dict[str, str] | None = None) -> float:
        """The opacity that the overlay really has, by its hash of settings."""
        return named[coda(*look, *args, "--write", "none", env=env).record["settings"]]

    named = {
        coda(*look, "--alpha", a, "--write", "none").record["settings"]: float(a) for a in ("0.1", "0.2", "0.3", "0.4")
    }
    own.write_text("[explain]\nalpha = 0.1\n")
    assert alpha() == 0.1
    assert value(coda, "alpha") == (0.1, "file", str(own))
    (tmp_path / "coda.toml").write_text("[explain]\nalpha = 0.2\n")
    assert alpha() == 0.2
    assert value(coda, "alpha") == (0.2, "file", "coda.toml")
    variable = {"CODA_EXPLAIN_ALPHA": "0.3"}
    assert alpha(env=variable) == 0.3
    assert value(coda, "alpha", env=variable) == (0.3, "variable", "CODA_EXPLAIN_ALPHA")
    assert alpha("--alpha", "0.4", env=variable) == 0.4


def test_a_file_in_the_working_folder_is_named_where_it_decides(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "coda.toml").write_text('[explain]\nalpha = 0.5\nclass = "cat"\n')
    said = coda("explain", "a.png", "--class", "dog")
    assert "coda: coda.toml in this folder sets --alpha\n" in said.err
    assert [Path(line).name for line in said.lines] == ["a.dog.overlay.png", "a.coda.json"]


@pytest.mark.parametrize(
    "line",
    ['arch = "os:system"', 'model = "net.pth"', 'output = "/"', "force = true", 'if-exists = "overwrite"', "check = 1",
     'html = "x"', "allow-private = true", 'text = "x"', 'classes = "x"', "quiet = 2", 'mask = "x"', 'regions = "x"'],
)  # fmt: skip
def test_a_folder_of_strangers_is_no_trap(coda: Coda, tmp_path: Path, line: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "coda.toml").write_text(f"[explain]\n{line}\n")
    refused = coda("explain", "a.png", "--json", status=2).error
    assert refused.startswith(f"coda.toml: explain.{line.split()[0]}: a file that only lies in the working folder")
    assert not (tmp_path / "coda-out").exists()
    named = coda("--config", "coda.toml", "config", "show", "explain", env={"CODA_MODEL": ""}).lines
    assert any(shown.startswith(line.split()[0] + " =") and shown.endswith("# coda.toml") for shown in named)


def test_nothing_harmless_names_a_file_or_code() -> None:
    options = {name: o for command in COMMANDS.values() for name, o in configured.options_of(command).items()}
    assert sorted(configured.HARMLESS - set(options)) == []
    harmless = [o for c in COMMANDS.values() for o in configured.options_of(c).values()]
    paths = {
        configured.key_of(o)
        for o in harmless
        if any(word in str(o.metavar) for word in ("FILE", "DIR", "FOLDER", "DATA"))
        or "Path" in repr(o.type_descriptor)
    }
    assert paths & configured.HARMLESS == set()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[explain]\nstile = 1", "explain.stile: no such key; did you mean explain.style"),
        ("[explian]\nstyle = 1", "explian: no such command; did you mean explain?"),
        ("[evaluate]\ngrid = 1", "evaluate.grid: no such command; did you mean"),
        ("[evaluate.deep]\ngrid = 1", "evaluate.deep: no such command; did you mean evaluate.depth"),
        ("style = 'colour'", "style: it is an option of a command, so it stands below [explain] or [video]"),
        ("mod = 'a'", "mod: no such key; did you mean model?"),
        ("explain = 3", "explain: is a command, and its options stand below [explain]"),
        ("evaluate = 3", "evaluate: is a command, and its options stand below [evaluate.localisation]"),
        ("[explain]\nstyle = 'bright'", "explain.style: 'bright' is not one of 'signed', 'colour'"),
        ("[explain]\nalpha = 'much'", "explain.alpha: input should be a valid number"),
        ("[explain]\nalpha = 7", "explain.alpha: input should be less than or equal to 1"),
        ("[explain]\noutput = ''", "explain.output: is empty, and a path is needed here"),
        ("[summary]\nlog = ''", "summary.log: is empty, and a path is needed here"),
        ("[explain]\nalpha = true", "explain.alpha: expected a text or a number, not true"),
        ("[explain]\njson = 'yes'", "explain.json: expected true or false, not yes"),
        ("[explain]\nverbose = true", "explain.verbose: expected a text or a number, not true"),
        ("[explain]\nverbose = -1", "explain.verbose: expected a whole number from 0 on, not -1"),
        ("[explain]\nclass = [['a']]", "explain.class: expected a text or a number"),
        ("[explain]\nfit = 2020-01-01", "explain.fit: expected a text or a number, not 2020-01-01"),
        ("[explain]\nbox = '0,0,1,1'\nregion = '0,0,1,1'", "explain.region: is another name of --box, which"),
        ("[explain]\nstyle =", "is not valid TOML: "),
        ("a" * 2_000_000, "has 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_one_line(coda: Coda, tmp_path: Path, text: str, said: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "coda.toml").write_text(text)
    for command in (("explain", "a.png"), ("config", "show")):
        assert coda(*command, status=2).error.startswith(f"coda.toml: {said}")
    coda("config", "path")  # says where the file is that has to be mended
    coda("--help")


def test_bytes_that_are_no_text_and_a_pipe_are_refused(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "coda.toml").write_bytes(b"\xff\xfe")
    assert "is not valid TOML" in coda("config", "show", status=2).error
    if hasattr(os, "mkfifo"):
        (tmp_path / "coda.toml").unlink()
        os.mkfifo(tmp_path / "coda.toml")
        assert "is a pipe" in coda("config", "show", status=2).error


def test_files_of_editors_on_windows_are_read(coda: Coda, tmp_path: Path) -> None:
    (tmp_path / "coda.toml").write_bytes(b"\xef\xbb\xbf[explain]\r\nalpha = 0.2\r\n")
    assert value(coda, "alpha") == (0.2, "file", "coda.toml")


def test_a_named_file_is_read_alone(coda: Coda, tmp_path: Path, own: Path) -> None:
    own.write_text('model = "own"')
    (tmp_path / "coda.toml").write_text("[explain]\nalpha = 0.2")
    (tmp_path / "other.toml").write_text("[explain]\nsmooth = 3")
    for by in ({"env": {"CODA_CONFIG": "other.toml", "CODA_MODEL": ""}}, {"env": {"CODA_MODEL": ""}}):
        args = () if "CODA_CONFIG" in by["env"] else ("--config", "other.toml")
        found = {one["option"]: one["from"] for one in coda(*args, "config", "show", "explain", "--json", **by).records}
        assert [name for name, where in found.items() if where != "default"] == ["smooth"]
        assert coda(*args, "config", "path", **by).lines == ["other.toml"]
    coda("--config", os.devnull, "config", "show", env={"CODA_MODEL": ""})
    assert coda("--config", "none.toml", "config", "show", status=2).error.startswith("none.toml: cannot be read")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read everything")
def test_a_home_that_cannot_be_read_has_no_file(coda: Coda, own: Path) -> None:
    own.parent.parent.chmod(0)
    try:
        coda("config", "show", "explain")
        assert "is not there" in coda("config", "path").err
    finally:
        own.parent.parent.chmod(0o700)


def test_the_users_own_folder_is_no_strangers(coda: Coda, own: Path) -> None:
    own.write_text('[explain]\noutput = "elsewhere"')
    assert coda("config", "path", cwd=own.parent).lines == [str(own)]
    assert value(coda, "output", cwd=own.parent) == ("elsewhere", "file", str(own))


def test_a_variable_of_one_command_wins_over_that_of_all(coda: Coda) -> None:
    both = {"CODA_MODEL": "a b", "CODA_EXPLAIN_MODEL": "c"}
    assert value(coda, "model", env=both) == ("c", "variable", "CODA_EXPLAIN_MODEL")
    assert value(coda, "model", "video", env=both) == ("a b", "variable", "CODA_MODEL")
    assert value(coda, "model", "compare", env=both) == (["a b"], "variable", "CODA_MODEL")
    assert value(coda, "model", "verify", env=both) == (None, "default", None)  # a record names its own network


def test_variables_have_lists_and_words_as_files_do(coda: Coda) -> None:
    def found(option: str, text: str) -> object:
        return value(coda, option, env={f"CODA_EXPLAIN_{option.upper()}": text})[0]

    assert found("class", "golf ball") == ["golf ball"]
    assert found("class", '["golf ball", "tench"]') == ["golf ball", "tench"]
    assert found("json", "1") is True
    assert found("json", "no") is False
    assert found("verbose", "2") == 2
    assert found("style", "") == "signed"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("CODA_EXPLAIN_STYLE", "bright", "CODA_EXPLAIN_STYLE: --style: "),
        ("CODA_EXPLAIN_JSON", "perhaps", "CODA_EXPLAIN_JSON: expected 1 or true"),
        ("CODA_EXPLAIN_CLASS", "[a", "CODA_EXPLAIN_CLASS: expected one value, or several as in"),
        ("CODA_EXPLAIN_CLASS", '["a"]\nb = 1', "CODA_EXPLAIN_CLASS: expected one value, or several as in"),
        ("CODA_EXPLAIN_CLASS", '["a", true]', "CODA_EXPLAIN_CLASS: --class: expected a text or a number, not true"),
        ("CODA_EXPLAIN_CLASS", "[" * 2000, "CODA_EXPLAIN_CLASS: expected one value, or several as in"),
        ("CODA_QUIET", "much", "CODA_QUIET: --quiet: expected a whole number"),
        ("CODA_EXPLAIN_SMOOTH", "4", "--smooth 4: expected an odd number of pixels (set in CODA_EXPLAIN_SMOOTH)"),
    ],
)
def test_a_wrong_variable_is_named(coda: Coda, tmp_path: Path, name: str, text: str, said: str) -> None:
    photo(tmp_path / "a.png")
    assert coda("explain", "a.png", env={name: text}, status=2).error.startswith(said)


def test_a_message_about_a_value_says_where_that_is_from(coda: Coda, tmp_path: Path, own: Path) -> None:
    photo(tmp_path / "a.png")
    own.write_text('[explain]\nclass = ["cat", "cow"]')
    assert coda("explain", "a.png", status=2).error.endswith(f"(--class is set in {own})")
    absent = coda("explain", "a.png", env={"CODA_MODEL": "none.pth"}, status=3).error
    assert absent.startswith("none.pth: no such file")
    assert absent.endswith("(--model is set in CODA_MODEL)")
    assert "is set in" not in coda("explain", "a.png", "--class", "cow", status=2).error


def test_a_message_about_the_command_line_names_no_file(coda: Coda, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    variable = {"CODA_EXPLAIN_SMOOTH": "3"}
    assert coda("explain", "a.png", "--smooth", "4", env=variable, status=2).error.endswith("odd number of pixels")


def test_a_variable_that_nothing_reads_is_said(coda: Coda) -> None:
    said = coda("config", "show", "explain", env={"CODA_EXPLAIN_STILE": "x", "CODA_NO_COLOR": "1"}).err
    assert said == "coda: warning: CODA_EXPLAIN_STILE: nothing reads this variable; --json shows the names of options\n"


def test_what_is_shown_can_be_a_file(coda: Coda, tmp_path: Path) -> None:
    """Every option's default can be set: the file that show prints has them all, and gives the same again."""
    shown = coda("config", "show", env={"CODA_CACHE_DIR": ""}).out
    (tmp_path / "all.toml").write_text(shown)
    again = coda("--config", "all.toml", "config", "show", "--json").records
    values = tomllib.loads(shown)
    assert values["explain"]["model"] == program.MODEL
    for one in again:
        assert one["from"] == ("default" if one["value"] is None else "file") or one["where"] == "CODA_MODEL", one
    wanted = {(words, configured.key_of(o)) for words, c in COMMANDS.items() for o in configured.options_of(c).values()}
    assert {(one["command"], one["option"]) for one in again} == wanted


def test_odd_names_do_not_break_what_is_shown(coda: Coda, tmp_path: Path) -> None:
    name = os.fsdecode(b"a\n\xff.toml")
    try:
        (tmp_path / name).write_text("[explain]\nalpha = 0.2\n")
    except OSError:
        pytest.skip("this disk has no such names")
    assert tomllib.loads(coda("--config", name, "config", "show", "explain").out)["explain"]["alpha"] == 0.2
    shown = coda(
        "--config", name, "config", "show", "--json", env={"CODA_EXPLAIN_OUTPUT": os.fsdecode(b"\xff")}
    ).records
    found = {one["option"]: one for one in shown if one["command"] == "explain"}
    assert found["alpha"]["where"] == r"a\x0a\xff.toml"
    assert found["output"]["value"] == r"\xff"


def test_an_unknown_command_is_refused(coda: Coda) -> None:
    assert coda("config", "show", "explian", status=2).error.startswith("no command is called 'explian'; there are ")
    assert {one["command"] for one in coda("config", "show", "evaluate", "--json").records} == {
        "evaluate localisation", "evaluate removal", "evaluate depth",
    }  # fmt: skip


def test_a_home_folder_is_put_in_for_a_file(coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "own.toml").write_text('model = "~/net.safetensors"')
    env = {"CODA_MODEL": "", "CODA_CONFIG": "own.toml"}
    assert value(coda, "model", env=env)[0] == f"{tmp_path}/me/net.safetensors"


def test_it_imports_no_torch(coda_process: Coda) -> None:
    run = coda_process("config", "show", "explain", "--json", python=("-X", "importtime"))
    assert "torch" not in {line.split("|")[-1].strip() for line in run.err.splitlines()}
    assert json.loads(run.lines[0])["option"] == "model"


def test_the_file_of_the_documents_is_valid(coda: Coda, tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "configuration.md").read_text("utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "own.toml").write_text(block)
    env = {"CODA_CONFIG": "own.toml", "CODA_MODEL": ""}
    assert value(coda, "class", env=env) == (["church", "golf ball"], "file", "own.toml")
    assert value(coda, "model", "evaluate depth", env=env)[0] == "imagenette"
    for name in re.findall(r"`(CODA_[A-Z_]+)`", text):  # every variable that is named is read
        assert (
            "nothing reads"
            not in coda("config", "show", "schema", env={name: "1"} if name != "CODA_CONFIG" else env).err
        )


def test_what_a_folder_may_not_set_is_what_the_document_says() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "configuration.md").read_text("utf-8")
    refused = text.split("It may not set")[1].split("Where it does")[0]
    assert set(re.findall(r"`--([a-z-]+)`", refused)) & configured.HARMLESS == set()
