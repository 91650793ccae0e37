"""What every option refuses: a second value where one counts; an address or an empty word where a path belongs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption

from coda_cli.cli.configured import SETTINGS, takes_path
from coda_cli.errors import UsageError

_ADDRESS = re.compile(r"=?[A-Za-z][A-Za-z0-9+.-]+://")


class Once(TyperCommand):
    """A command that refuses an option that is given twice and has one value; click takes the last in silence.

    It also refuses an address where a path belongs: it would be taken for a folder with the name "s3:". And an empty
    word, which a shell makes of a variable that is not set: it would be taken for the folder in which coda runs.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look for options that are given twice, then parse.

        Args:
            ctx: the call of the command.
            args: its arguments.

        Returns:
            What click returns.

        Raises:
            UsageError: an option is given twice, or an address or an empty word for a path.
        """
        taking = {
            name: param
            for param in self.params
            if isinstance(param, TyperOption) and not param.is_flag and not param.count
            for name in param.opts
        }
        files = any(isinstance(p, TyperArgument) and p.type_descriptor.annotation is Path for p in self.params)
        seen, left, options = set[str](), iter(args), True
        for word in left:
            if options and word == "--":
                options = False  # what follows are arguments
                continue
            if files and _ADDRESS.match(word):
                raise UsageError(f"{word.partition('://')[0]}://...: is an address, and a path is needed here")
            if not word:
                raise UsageError("an empty name is given; a variable of the shell may not be set")
            name, has_value, rest = word.partition("=")
            if not word.startswith("--"):
                name, has_value, rest = word[:2], word[2:], word[2:]
            if not options or (param := taking.get(name)) is None:
                continue
            value = rest if has_value else next(left, None)  # or the next word is its value
            if param.name in seen and not param.multiple:
                raise UsageError(f"{name}: is given twice, and only one counts; run the command once for each")
            if value and param.type_descriptor.annotation is Path and _ADDRESS.match(value):
                raise UsageError(f"{name} {value.partition('://')[0]}://...: is an address, and a path is needed here")
            if value == "" and takes_path(param):
                raise UsageError(f"{name}: is empty, and a path is needed here; a variable of the shell may not be set")
            seen.add(str(param.name))
        SETTINGS.call = ctx  # a message about an option then says where its value is from
        others = super().parse_args(ctx, args)
        SETTINGS.say_folder(ctx)
        return others
