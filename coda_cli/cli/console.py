"""All that the program prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

LONGEST_LINE = 1900  # characters on stderr; the longest of coda's own messages, a list of all networks, has 1,750
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PLAIN_EVERY = 10.0  # seconds between progress lines where stderr is no terminal
Advance = Callable[[float, int], None]  # how much is done (parts of one item count), and of how much; 0: unknown


@dataclass
class Console:
    """Prints everything that the program has to say.

    Attributes:
        verbosity: -2 prints errors only, -1 also warnings, 0 also summaries, 1 and more also details.
    """

    verbosity: int = 0

    def result(self, text: str) -> None:
        """Print one line of results on stdout. No other function of the program prints there.

        Args:
            text: the line, without its end.
        """
        if stdout_is_terminal():  # in a pipe or a file, names keep their bytes
            text = printable(text)
        # In one piece: an interruption between a line and its end would join it to the next one.
        print(f"{text}\n", end="", flush=True)

    def error(self, text: str) -> None:
        """Print that something failed; never hidden.

        Args:
            text: what failed, on which item, and what to do.
        """
        self._line("error: ", "bold red", text)

    def warn(self, text: str) -> None:
        """Print what the user should know even with -q; hidden by -qq.

        Args:
            text: the warning.
        """
        if self.verbosity >= -1:
            self._line("warning: ", "yellow", text)

    def say(self, text: str) -> None:
        """Print what happened; hidden by -q.

        Args:
            text: a sentence.
        """
        if self.verbosity >= 0:
            self._line("", "", text)

    def detail(self, text: str) -> None:
        """Print a detail, only with -v.

        Args:
            text: the detail.
        """
        if self.verbosity >= 1:
            self._line("", "dim", text)

    def _line(self, label: str, style: str, text: str) -> None:
        """Print one line on stderr, even where a file name or a message of a library has line ends in it."""
        text = shortened(printable(" ".join(text.splitlines())))
        self._stderr().print(f"coda: {label}", end="", style=style or None, markup=False, highlight=False)
        self._stderr().print(text, markup=False, highlight=False, soft_wrap=True)

    def interrupted(self, text: str = "interrupted") -> None:
        """Print that the user stopped the program; only the first call prints.

        Args:
            text: what to say.
        """
        if not self._said_interrupted:
            self._said_interrupted = True
            self.say(text)

    _said_interrupted = False
    _rich: RichConsole | None = None

    def _stderr(self) -> RichConsole:
        """The console on stderr, made at its first use."""
        if self._rich is None:
            from rich.console import Console as RichConsole

            no_color = bool(os.environ.get("CODA_NO_COLOR")) or None
            self._rich = RichConsole(stderr=True, no_color=no_color, emoji=False)  # ":cat:" in a name is a name
        return self._rich

    @contextmanager
    def progress(self, what: str, unit: str = "") -> Iterator[Advance]:
        """Show progress while the block runs: a bar on a terminal, elsewhere a plain line every ten seconds.

        Nothing is shown with -q.

        Args:
            what: what is being done.
            unit: of the numbers in plain lines, such as " pictures".

        Yields:
            A function that takes how much is done, and of how much; 0 where that is not known.
        """
        if self.verbosity < 0:
            yield _silent
        elif self._stderr().is_terminal and not os.environ.get("CI"):
            yield from self._bar(what)
        else:
            yield self._plain(what, unit)

    def _bar(self, what: str) -> Iterator[Advance]:
        """Show a bar on a terminal."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        name = TextColumn("{task.description}", markup=False)  # "[x].mp4" is a name
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # On a terminal, results must be printed above the bar; results that go to a pipe or a file do not disturb it.
        with Progress(*columns, console=self._stderr(), transient=True, redirect_stdout=stdout_is_terminal()) as bar:
            task = bar.add_task(printable(what), total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)

    def _plain(self, what: str, unit: str) -> Advance:
        """Make a function that prints plain lines."""
        last = time.monotonic()
        first: tuple[float, float] | None = None  # how much was done at the first call, and when that was

        def advance(done: float, total: int) -> None:
            """Print how much is done, at most every ten seconds; how fast, from what came after the first call."""
            nonlocal last, first
            now = time.monotonic()
            if first is None:  # it may have waited for a network to be loaded
                first = done, now
            if now - last < PLAIN_EVERY or done < first[0]:
                return
            last = now
            line = f"{what}: {int(done)}" + (f"/{total}{unit}" if total else unit)
            if done > first[0]:
                rate = (done - first[0]) / (now - first[1])
                line += f", {rate:.1f}/s" if rate >= 0.1 else f", {1 / rate:.0f} s each"
                line += f", {(total - done) / rate:.0f} s left" if total else ""
            self.say(line)

        return advance


class Later:
    """Progress of what may begin while something else is shown: it is shown from its first step on.

    It is a context manager, which ends it, and what ``Console.progress`` yields at once.

    Args:
        what: what is being done.
        unit: of the numbers in plain lines.
    """

    def __init__(self, what: str, unit: str = "") -> None:
        self._what, self._unit, self._open = what, unit, ExitStack()
        self._advance: Advance | None = None

    def __enter__(self) -> Later:
        return self

    def __call__(self, done: float, total: int) -> None:
        """Show how much is done.

        Args:
            done: how much.
            total: of how much; 0 where that is not known.
        """
        if self._advance is None:
            self._advance = self._open.enter_context(console.progress(self._what, self._unit))
        self._advance(done, total)

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _silent(done: float, total: int) -> None:
    """Show nothing."""
    del done, total


console = Console()


def printable(text: str) -> str:
    r"""Write out what a terminal would take for a command: escape sequences in names of files, classes or tensors.

    Args:
        text: one line.

    Returns:
        The text with C0 and C1 control characters and DEL written as in \x1b.
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def shortened(text: str) -> str:
    """Cut the middle out of a line that is too long to be read, as the name of a file can be.

    Args:
        text: one line.

    Returns:
        At most LONGEST_LINE characters.
    """
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[: LONGEST_LINE * 2 // 3]} [...] {text[-(LONGEST_LINE // 3 - 7) :]}"


def counted(count: int, noun: str, ending: str = "s") -> str:
    """Write a number of things, as "1 picture" or "2 pictures".

    Args:
        count: how many.
        noun: one of them.
        ending: what makes more of them.

    Returns:
        The number and the noun.
    """
    return f"{count} {noun}{'' if count == 1 else ending}"


def stdout_is_terminal() -> bool:
    """Tell whether results are shown on a terminal.

    Returns:
        Whether stdout is one.
    """
    return sys.stdout is not None and sys.stdout.isatty()
