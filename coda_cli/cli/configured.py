"""Defaults that a user chose: from ``coda.toml`` and from variables of the environment, for every option.

A value on the command line wins over a variable, a variable over ``coda.toml`` in the working folder, and that over the
file in the user's configuration folder. The parser gets all of them as its map of defaults, so commands do not know
where a value is from.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from coda_cli.cli.console import console
from coda_cli.errors import CodaError, UsageError
from coda_cli.media.files import read_whole

NAME = "coda.toml"
MOST_BYTES = 1 << 20  # of such a file
GENERAL = ("model", "device", "offline", "quiet", "verbose")  # mean the same for all commands, and can be set for all
# A record says which network it is of: one that is set for all commands must not take its place.
NOT_GENERAL = {("verify", "model"), ("rerun", "model")}
# An option that is harmless in other commands: here it would open the page to everyone.
HARMFUL = {("demo", "share")}
# What a coda.toml in the working folder may set, since that can be a folder of somebody else's: nothing that names a
# file, an address, a network or code, that replaces files, or that hides what is printed or not proven.
HARMLESS = frozenset({
    "all", "alpha", "as", "audio", "baseline", "batch", "batch-size", "box", "centroid", "class", "class-policy",
    "cut", "device", "dilated", "direction", "distil", "ema", "end", "epochs", "every", "fail-fast", "first", "fit",
    "format", "fps", "full-colour", "grid", "grids", "half", "height", "json", "layer", "layout", "learning-rate",
    "lr", "matrix-l1", "max-frames", "mean", "mean-map", "method", "neuron", "neurons", "no-compile", "no-labels",
    "null", "parquet", "percentile", "points", "precision", "protocol", "recipe", "recursive", "region", "rescale",
    "rows", "scale", "seconds", "seed", "share", "size", "smooth", "span", "start", "std", "strip", "style",
    "temperature", "threshold", "time-budget", "top", "verbose", "versus", "warmup", "write",
})  # fmt: skip

Commands = dict[str, TyperCommand]  # by their words: "explain", "evaluate depth"


@dataclass(frozen=True)
class Setting:
    """A default that a user chose.

    Attributes:
        value: as the parser takes it.
        where: the file or the variable that it is from.
        variable: whether that is a variable.
    """

    value: Any
    where: str
    variable: bool = False


@dataclass
class Settings:
    """All that a user chose.

    Attributes:
        found: by the words of the command and the name of the parameter.
        call: the call of the command that runs, once its options are parsed.
    """

    found: dict[tuple[str, str], Setting] = field(default_factory=dict)
    call: typer.Context | None = None

    def default_map(self) -> dict[str, Any]:
        """Give the parser its defaults: those of a command below its words."""
        whole: dict[str, Any] = {}
        for (command, parameter), setting in self.found.items():
            place = whole
            for word in command.split():
                place = place.setdefault(word, {})
            place[parameter] = setting.value
        return whole

    def of(self, context: typer.Context, option: TyperOption) -> Setting | None:
        """What an option of a call got from here; None where the command line has it, or nobody set it."""
        given = context.get_parameter_source(option.name)
        if given is None or given.name != "DEFAULT_MAP":
            return None
        return self.found.get((words_of(context), option.name))

    def say_folder(self, context: typer.Context) -> None:
        """Say that a file in the working folder decides something: it may have come with somebody's pictures."""
        options = (option for option in context.command.params if isinstance(option, TyperOption))
        names = [f"--{key_of(o)}" for o in options if (s := self.of(context, o)) and s.where == NAME]
        if names:
            console.say(f"{NAME} in this folder sets {', '.join(names)}")

    def with_origin(self, message: str) -> str:
        """Add to a message about an option or its value where that is from, unless the command line has it."""
        option = re.match(r"--[\w-]+", message)
        if self.call is None:
            return message
        for param in self.call.command.params:
            if not isinstance(param, TyperOption) or not (setting := self.of(self.call, param)):
                continue
            if option and option[0] in param.opts:
                return f"{message} (set in {setting.where})"
            values = map(str, setting.value if isinstance(setting.value, list) else [setting.value])
            # Errors name a value first, as "run.safetensors: no such file", or in quotes, as "no class 'foo'"; what is
            # wrong with a class has the network in quotes, too.
            quoted = key_of(param) != "model"
            if not option and any(message.startswith(f"{v}: ") or (quoted and repr(v) in message) for v in values if v):
                return f"{message} (--{key_of(param)} is set in {setting.where})"
        return message


SETTINGS = Settings()  # of this process; the first callback fills it


def words_of(context: typer.Context) -> str:
    """The words of the command that is called, without the program's name."""
    return context.command_path.partition(" ")[2]


def key_of(option: TyperOption) -> str:
    """What an option is called in files: its first long name."""
    return next(name for name in option.opts if name.startswith("--"))[2:]


def options_of(command: TyperCommand) -> dict[str, TyperOption]:
    """The options of a command by all their long names; --help is none."""
    options = [p for p in command.params if isinstance(p, TyperOption) and p.name != "help"]
    return {name[2:]: option for option in options for name in option.opts if name.startswith("--")}


def commands_of(group: TyperGroup, words: str = "") -> Commands:
    """Every command below a group, by its words."""
    found: Commands = {}
    for name, command in group.commands.items():
        path = f"{words} {name}".strip()
        if isinstance(command, TyperGroup):
            found |= commands_of(command, path)
        elif isinstance(command, TyperCommand):
            found[path] = command
    return found


def user_file() -> Path:
    """The file in the user's configuration folder."""
    return Path(platformdirs.user_config_dir("coda", appauthor=False)) / NAME


def files(named: Path | None) -> list[Path]:
    """The files that count where they are there, the strongest last; ``named`` alone where a user names one."""
    if named is not None:
        return [named]
    own, folder = user_file(), Path(NAME)
    # os.path.exists is False, and no error, where a home folder cannot be read.
    both = os.path.exists(own) and os.path.exists(folder)
    return [own] if both and own.samefile(folder) else [own, folder]


def read(group: TyperGroup, named: Path | None) -> None:
    """Read files and variables into SETTINGS. Raises UsageError."""
    SETTINGS.found.clear()
    SETTINGS.call = None
    commands = commands_of(group)
    for file in files(named):
        if named is None and not os.path.lexists(file):
            continue
        if str(file) != os.devnull:  # the way to name none
            SETTINGS.found |= _of_file(file, commands, restricted=named is None and file == Path(NAME))
    SETTINGS.found |= _of_environment(commands)


def variables_of(command: str, option: TyperOption) -> list[str]:
    """The variables that set an option, the strongest first: CODA_EXPLAIN_STYLE, and of some CODA_MODEL."""
    key = key_of(option)
    general = [_variable(key)] if key in GENERAL and (command, key) not in NOT_GENERAL else []
    return [_variable(f"{command} {key}"), *general]


def _variable(words: str) -> str:
    return "CODA_" + re.sub(r"[ -]", "_", words).upper()


def unread(commands: Commands, others: frozenset[str]) -> list[str]:
    """The variables CODA_* that nothing reads, as after a slip; ``others`` are those that belong to no option."""
    known = {
        name for words, command in commands.items() for o in options_of(command).values()
        for name in variables_of(words, o)
    }  # fmt: skip
    return sorted(name for name in os.environ if name.startswith("CODA_") and name not in known | others)


# ---- files -----------------------------------------------------------------------------------------------------------


def _of_file(path: Path, commands: Commands, *, restricted: bool) -> dict[tuple[str, str], Setting]:
    """What a file sets. Raises UsageError."""
    try:
        content = tomllib.loads(read_whole(path, MOST_BYTES).decode("utf-8-sig"))  # editors of Windows begin so
    except CodaError as error:
        raise UsageError(error.message, item=path) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"is not valid TOML: {error}", item=path) from error
    found = dict[tuple[str, str], Setting]()
    tables = dict(_tables(content, commands, path))
    for key, value in content.items():
        if not isinstance(value, dict):
            found |= _general(key, value, path, commands)
    for command, table in tables.items():
        of_command = dict[tuple[str, str], Setting]()
        for key, value in table.items():
            place = f"{command.replace(' ', '.')}.{key}"
            option = _option(key, place, options_of(commands[command]), path)
            if (command, option.name) in of_command:
                raise UsageError(f"{place}: is another name of --{key_of(option)}, which is set, too", item=path)
            of_command[command, option.name] = Setting(_value(value, option, place, path), str(path))
        found |= of_command
    if restricted:
        _refuse_harmful(content, tables, path)
    return found


def _tables(content: Mapping[str, Any], commands: Commands, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables of a file by the words of their commands. Raises UsageError."""
    groups = {words.split()[0] for words in commands if " " in words}
    for word, table in content.items():
        if not isinstance(table, dict):
            continue
        named = {f"{word} {name}": below for name, below in table.items()} if word in groups else {word: table}
        for command, options in named.items():
            if command not in commands or not isinstance(options, dict):
                places = [words.replace(" ", ".") for words in commands]
                raise UsageError(_unknown(command.replace(" ", "."), places, "command"), item=path)
            yield command, options


def _general(key: str, value: Any, path: Path, commands: Commands) -> dict[tuple[str, str], Setting]:
    """What a key above all tables sets: the option of every command that has it. Raises UsageError."""
    if table := next((words.replace(" ", ".") for words in commands if words.split()[0] == key), None):
        raise UsageError(f"{key}: is a command, and its options stand below [{table}]", item=path)
    if key not in GENERAL:
        tables = [words.replace(" ", ".") for words, command in commands.items() if key in options_of(command)]
        if tables:
            known = f"it is an option of a command, so it stands below [{'] or ['.join(tables)}]"
            raise UsageError(f"{key}: {known}", item=path)
        raise UsageError(_unknown(key, GENERAL, "key"), item=path)
    return {
        (words, options[key].name): Setting(_value(value, options[key], key, path), str(path))
        for words, command in commands.items()
        if key in (options := options_of(command)) and (words, key) not in NOT_GENERAL
    }


def _option(key: str, place: str, options: Mapping[str, TyperOption], path: Path) -> TyperOption:
    """The option that a key names. Raises UsageError."""
    if key not in options:
        raise UsageError(_unknown(place, [f"{place.rpartition('.')[0]}.{name}" for name in options], "key"), item=path)
    return options[key]


def _unknown(word: str, known: list[str] | tuple[str, ...], what: str) -> str:
    """The message about a key or a table that there is not, with those that are most like it."""
    close = difflib.get_close_matches(word.replace("_", "-"), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    return f"{word}: no such {what}; {hint}"


def _refuse_harmful(content: Mapping[str, Any], tables: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Refuse what a file of the working folder may not set. Raises UsageError."""
    keys = [(key, key) for key, value in content.items() if not isinstance(value, dict)]
    keys += [
        (f"{command.replace(' ', '.')}.{key}", "" if (command, key) in HARMFUL else key)
        for command, table in tables.items()
        for key in table
    ]
    for place, key in keys:
        if key not in HARMLESS:
            raise UsageError(
                f"{place}: a file that only lies in the working folder may not set this: it could read, replace or "
                f"hide something unasked; put it into {user_file()}, or name the file: coda --config {path}",
                item=path,
            )


# ---- values ----------------------------------------------------------------------------------------------------------


def _value(value: Any, option: TyperOption, place: str, path: Path) -> Any:
    """A value of a file as the parser takes it. Raises UsageError."""
    if option.multiple:
        several = value if isinstance(value, list) else [value]
        texts: Any = [_text(one, place, path) for one in several]
    elif option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{place}: expected true or false, not {_shown(value)}", item=path)
        texts = value
    else:
        texts = _text(value, place, path)
    if takes_path(option) and "" in (texts if option.multiple else [texts]):
        raise UsageError(f"{place}: is empty, and a path is needed here", item=path)
    return _coerced(texts, option, place, path)


def takes_path(option: TyperOption) -> bool:
    """Whether the value of an option is a path. An output is one also where it can be an address and so is a text."""
    return option.type_descriptor.annotation is Path or option.name == "output"


def _text(value: Any, place: str, item: Path | str) -> str:
    """A text or a number as it would stand on the command line, where a shell has put the home folder for ~."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{place}: expected a text or a number, not {_shown(value)}", item=item)
    text = str(value)
    return os.path.expanduser(text) if text.startswith("~/") else text


def _shown(value: Any) -> str:
    """A value of a file in a message."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parsed(value: Any, option: TyperOption) -> Any:
    """What a command gets for a value. Raises TyperException."""
    return option.get_runtime_param().coerce(value, param=option, ctx=typer.Context(TyperCommand("coda")))


def _coerced(texts: Any, option: TyperOption, place: str, item: Path | str) -> Any:
    """Check that the parser takes a value. Raises UsageError."""
    if option.count:  # the parser of the command line counts, and never reads a number
        texts = int(texts) if str(texts).isdecimal() and len(str(texts)) < 3 else texts
        if not isinstance(texts, int):
            raise UsageError(f"{place}: expected a whole number from 0 on, not {_shown(texts)}", item=item)
    try:
        parsed(texts, option)
    except TyperException as error:
        raise UsageError(f"{place}: {in_words(error.message)}", item=item) from error
    return texts


def in_words(text: str) -> str:
    """Write what the parser says of a value as coda writes errors: in one line, from a small letter on.

    Args:
        text: what the parser says.

    Returns:
        The same without pydantic's words before it, and without a full stop.
    """
    said = " ".join(text.split()).rstrip(".").removeprefix("Value error, ")
    return said[:1].lower() + said[1:]


# ---- the environment -------------------------------------------------------------------------------------------------


def _of_environment(commands: Commands) -> dict[tuple[str, str], Setting]:
    """What variables set; an empty one sets nothing. Raises UsageError."""
    found = dict[tuple[str, str], Setting]()
    for words, command in commands.items():
        for option in dict.fromkeys(options_of(command).values()):
            for name in variables_of(words, option):
                if text := os.environ.get(name):
                    found[words, option.name] = Setting(_of_variable(text, option, name), name, variable=True)
                    break
    return found


def _of_variable(text: str, option: TyperOption, name: str) -> Any:
    """The value of a variable as the parser takes it. Raises UsageError."""
    if option.is_flag:
        if text.lower() not in _WORDS:
            raise UsageError(f"expected {' or '.join(_WORDS)}, not {_shown(text)}", item=name)
        return _WORDS[text.lower()]
    value: Any = text
    if option.multiple:
        value = [text]
        if text.startswith("["):  # as in a file
            try:
                ((_, listed),) = tomllib.loads(f"list = {text}").items()  # one key: nothing stands behind the list
            except (ValueError, RecursionError) as error:
                said = f'expected one value, or several as in ["a", "b"], not {_shown(text)}'
                raise UsageError(said, item=name) from error
            value = [_text(one, f"--{key_of(option)}", name) for one in listed]
    return _coerced(value, option, f"--{key_of(option)}", name)


_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
