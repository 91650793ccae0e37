"""The errors coda raises on purpose, and the exit codes the shell sees. Codes are part of the interface."""

from __future__ import annotations

import signal
from enum import IntEnum
from os import PathLike, fspath
from typing import Self


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0  # every item done
    FAILED = 1  # the run went through, some or all items failed; also a bug
    USAGE = 2  # wrong usage or configuration; nothing was started
    CHECKPOINT = 3  # a checkpoint cannot be loaded or does not match its checksum
    INEXACT = 4  # a residual is above its tolerance
    DOWNLOAD = 5  # a download failed
    INTERRUPTED = 130  # SIGINT
    TERMINATED = 143  # SIGTERM, or SIGHUP: its terminal was closed


# The signals that end a run; on the way out temporary files are removed. Windows has no SIGHUP.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class CodaError(Exception):
    """Base of all errors with a message for the user: one line that says what, which item, and what to do.

    Args:
        message: what is wrong and what to do, without the name of the item.
        item: what the error is about, as the user knows it: a file, a class, a grid. The text of the error begins
            with it.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, item: str | PathLike[str] | None = None) -> None:
        super().__init__(message)
        self.item = None if item is None else fspath(item)

    @property
    def message(self) -> str:
        """What is wrong and what to do, without the name of the item."""
        return super().__str__()

    def __str__(self) -> str:
        return self.message if self.item is None else f"{self.item}: {self.message}"

    def about(self, item: str | PathLike[str]) -> Self:
        """The same error, about ``item`` if it is not yet known what it is about.

        Args:
            item: what was worked on when the error was raised.

        Returns:
            This error itself, for ``raise error.about(path)``.
        """
        if self.item is None:
            self.item = fspath(item)
        return self


class UsageError(CodaError):
    """The request itself cannot be carried out: a wrong option, class or source."""

    exit_code = ExitCode.USAGE


class MediaError(CodaError):
    """One input cannot be read or one output cannot be written."""


class CheckpointError(CodaError):
    """A checkpoint cannot be loaded, or is not what it claims to be."""

    exit_code = ExitCode.CHECKPOINT


class ExactnessError(CodaError):
    """A residual is above its tolerance: the contributions do not add up to the logit."""

    exit_code = ExitCode.INEXACT


class DownloadError(CodaError):
    """A download failed or is not allowed."""

    exit_code = ExitCode.DOWNLOAD


class TrainingError(CodaError):
    """A training run cannot start or diverged."""
