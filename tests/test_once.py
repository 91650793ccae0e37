"""What every option refuses: a second value where it has one, and an empty word where a path belongs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from conftest import Coda
from typer.core import TyperOption

from coda_cli.cli.app import app
from coda_cli.cli.configured import takes_path


def _options() -> Iterator[tuple[tuple[str, ...], str, TyperOption]]:
    """Every option with a value of every command: the command, a name of the option, and the option."""

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, TyperOption]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, (*path, name))
        if not hasattr(command, "commands"):
            for param in command.params:
                if isinstance(param, TyperOption) and not param.is_flag and not param.count:
                    yield from ((path, name, param) for name in param.opts)

    yield from below(typer.main.get_command(app), ())


@pytest.mark.parametrize(("command", "name", "option"), list(_options()), ids=str)
def test_every_option_with_one_value_is_refused_twice(
    coda: Coda, command: tuple[str, ...], name: str, option: TyperOption
) -> None:
    one = [name, "1"]
    glued = [f"{name}=1"] if name.startswith("--") else [f"{name}1"]
    for twice in ([*one, *one], [*one, *glued], [*glued, *glued]):
        said = coda(*command, *twice, "missing", status=2).error
        assert (
            said == f"{name}: is given twice, and only one counts; run the command once for each"
        ) != option.multiple


def test_two_names_of_an_option_are_one(coda: Coda) -> None:
    assert coda("explain", "a", "-m", "cifar10", "--model", "imagenette", status=2).error.startswith(
        "--model: is given"
    )
    assert coda("explain", "a", "-o", "x", "-oy", status=2).error.startswith("-o: is given twice")


def test_what_only_looks_like_an_option_is_none(coda: Coda) -> None:
    assert "given twice" not in coda("explain", "a", "--name", "-m", "-m", "cifar10", status=2).err
    assert "given twice" not in coda("explain", "-m", "cifar10", "--", "-m", "-m", status=2).err
    assert "given twice" not in coda("explain", "a", "-qq", "-q", "--json", "--json", status=2).err


def test_which_options_take_a_path() -> None:
    taking = {(*command, name) for command, name, option in _options() if takes_path(option)}
    assert {("explain", "-o"), ("video", "--log"), ("train", "--output"), ("models", "convert", "-o")} <= taking
    assert not taking & {("explain", "--class"), ("explain", "--model"), ("train", "--epochs")}


@pytest.mark.parametrize(
    ("command", "name"),
    [(c, n) for c, n, o in _options() if takes_path(o)],
    ids=str,
)
def test_an_empty_path_is_not_this_folder(coda: Coda, command: tuple[str, ...], name: str) -> None:
    for empty in ([name, ""], *([[f"{name}="]] if name.startswith("--") else [])):
        error = coda(*command, *empty, "missing", status=2).error
        assert error == f"{name}: is empty, and a path is needed here; a variable of the shell may not be set"


@pytest.mark.parametrize(
    "command", ["explain", "video", "compare", "summary", "verify", "train", "models convert", "models verify"]
)
def test_an_empty_argument_is_not_this_folder(coda: Coda, command: str) -> None:
    for words in ([""], ["a", ""], ["--", ""]):
        assert "an empty name is given" in coda(*command.split(), *words, status=2).error


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_is_not_converted(coda: Coda, name: str) -> None:
    assert coda("models", "convert", name, status=2).error == f"{name}: no such file"
