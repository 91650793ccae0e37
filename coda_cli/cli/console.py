"""What the program says, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

PLAIN_EVERY = 10.0  # seconds between progress lines where stderr is no terminal
Advance = Callable[[float, int], None]  # done, which may be in the midst of one, and total


@dataclass
class Console:
    """The program's voice. ``verbosity``: -2 errors only, -1 also warnings, 0 the summary too, 1 and more details."""

    verbosity: int = 0

    def result(self, text: str) -> None:
        """One line of results, on stdout. The only function of the program that writes there."""
        # In one piece: an interruption between a line and its end would join it to the next one.
        print(f"{text}\n", end="", flush=True)

    def error(self, text: str) -> None:
        """Something failed."""
        self._line("error: ", "bold red", text)

    def warn(self, text: str) -> None:
        """Something the user should know, whatever they asked for; hidden by -qq."""
        if self.verbosity >= -1:
            self._line("warning: ", "yellow", text)

    def say(self, text: str) -> None:
        """What happened, in a sentence; hidden by -q."""
        if self.verbosity >= 0:
            self._line("", "", text)

    def detail(self, text: str) -> None:
        """What only -v shows."""
        if self.verbosity >= 1:
            self._line("", "dim", text)

    def _line(self, label: str, style: str, text: str) -> None:
        # One line each, whatever a file name or a library's message holds.
        text = " ".join(text.splitlines())
        self._stderr().print(f"coda: {label}", end="", style=style or None, markup=False, highlight=False)
        self._stderr().print(text, markup=False, highlight=False, soft_wrap=True)

    def interrupted(self, text: str = "interrupted") -> None:
        """What Ctrl-C leaves behind; said once."""
        if not self._told:
            self._told = True
            self.say(text)

    _told = False
    _rich: RichConsole | None = None

    def _stderr(self) -> RichConsole:
        if self._rich is None:
            from rich.console import Console as RichConsole

            no_color = bool(os.environ.get("CODA_NO_COLOR")) or None
            self._rich = RichConsole(stderr=True, no_color=no_color, emoji=False)  # ":cat:" in a name is a name
        return self._rich

    @contextmanager
    def progress(self, what: str, unit: str = "") -> Iterator[Advance]:
        """A progress bar on a terminal, a plain line every ten seconds elsewhere, nothing with -q."""
        if self.verbosity < 0:
            yield _silent
        elif self._stderr().is_terminal and not os.environ.get("CI"):
            yield from self._bar(what)
        else:
            yield self._plain(what, unit)

    def _bar(self, what: str) -> Iterator[Advance]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        name = TextColumn("{task.description}", markup=False)  # "[x].mp4" is a name
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # On one screen results go above the bar. In a pipe or a file they are none of its business.
        with Progress(*columns, console=self._stderr(), transient=True, redirect_stdout=stdout_is_terminal()) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    def _plain(self, what: str, unit: str) -> Advance:
        start = last = time.monotonic()
        before: float | None = None  # was done when this run began: the first call is about one more

        def advance(done: float, total: int) -> None:
            """Say how far it is, if nothing was said for a while."""
            nonlocal last, before
            now = time.monotonic()
            if before is None:
                before = max(0, done - 1)
            if now - last < PLAIN_EVERY or done <= before:
                return
            last = now
            rate = (done - before) / (now - start)
            said = f"{rate:.1f}/s" if rate >= 0.1 else f"{1 / rate:.0f} s each"
            self.say(f"{what}: {int(done)}/{total}{unit}, {said}, {(total - done) / rate:.0f} s left")

        return advance


def _silent(done: float, total: int) -> None:
    del done, total


console = Console()


def stdout_is_terminal() -> bool:
    """Whether results go to a person's screen."""
    return sys.stdout is not None and sys.stdout.isatty()
