"""Options that count once: a second one is refused, instead of silently taking the place of the first."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperOption

from coda_cli.cli.configured import SETTINGS
from coda_cli.errors import UsageError


class Once(TyperCommand):
    """A command that refuses an option that is given twice and has one value; click takes the last in silence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Look for options that are given twice, then parse.

        Args:
            ctx: the call of the command.
            args: its arguments.

        Returns:
            What click returns.

        Raises:
            UsageError: an option is given twice.
        """
        taking = {
            name: param
            for param in self.params
            if isinstance(param, TyperOption) and not param.is_flag and not param.count
            for name in param.opts
        }
        seen, left = set[str](), iter(args)
        for word in left:
            if word == "--":
                break
            name, has_value, _ = word.partition("=")
            if not word.startswith("--"):
                name, has_value = word[:2], word[2:]
            if (param := taking.get(name)) is None:
                continue
            if not has_value:
                next(left, None)  # the next word is its value
            if param.name in seen and not param.multiple:
                raise UsageError(f"{name}: is given twice, and only one counts; run the command once for each")
            seen.add(str(param.name))
        SETTINGS.call = ctx  # a message about an option then says where its value is from
        rest = super().parse_args(ctx, args)
        SETTINGS.say_folder(ctx)
        return rest
