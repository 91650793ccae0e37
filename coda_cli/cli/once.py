"""What is refused of every option: a second one where one counts, and an address where a file on a disk is meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption

from coda_cli.cli.configured import SETTINGS
from coda_cli.errors import UsageError

_ADDRESS = re.compile(r"=?[A-Za-z][A-Za-z0-9+.-]+://")


class Once(TyperCommand):
    """A command that refuses an option that is given twice and has one value; click takes the last in silence.

    It also refuses an address where a path belongs: it would be taken for a folder with the name "s3:".
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look for options that are given twice, then parse.

        Args:
            ctx: the call of the command.
            args: its arguments.

        Returns:
            What click returns.

        Raises:
            UsageError: an option is given twice, or an address for a path.
        """
        taking = {
            name: param
            for param in self.params
            if isinstance(param, TyperOption) and not param.is_flag and not param.count
            for name in param.opts
        }
        files = any(isinstance(p, TyperArgument) and p.type_descriptor.annotation is Path for p in self.params)
        seen, left = set[str](), iter(args)
        for word in left:
            if word == "--":
                break
            if files and _ADDRESS.match(word):
                raise UsageError(f"{word.partition('://')[0]}://...: is an address, and a path is needed here")
            name, has_value, rest = word.partition("=")
            if not word.startswith("--"):
                name, has_value, rest = word[:2], word[2:], ""
            if (param := taking.get(name)) is None:
                continue
            value = has_value + rest if has_value else next(left, "")  # or the next word is its value
            if param.name in seen and not param.multiple:
                raise UsageError(f"{name}: is given twice, and only one counts; run the command once for each")
            if param.type_descriptor.annotation is Path and _ADDRESS.match(value):
                raise UsageError(f"{name} {value.partition('://')[0]}://...: is an address, and a path is needed here")
            seen.add(str(param.name))
        SETTINGS.call = ctx  # a message about an option then says where its value is from
        others = super().parse_args(ctx, args)
        SETTINGS.say_folder(ctx)
        return others
