"""One hostile run of the program: what is run, with what, under which limits, and which endings are right."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

TIME = 60.0  # seconds that no run may take
MEMORY = 3_000_000_000  # bytes that no run may have resident
PICTURE_FAILED = (0, 1)
USED_WRONGLY = (0, 1, 2)
CHECKPOINT_REFUSED = (0, 3)


@dataclass
class Case:
    """A command and everything that is done to it.

    Attributes:
        what: what is hostile about it, in a few words; cases with the same words are one row of the table.
        args: the command, without ``coda``.
        codes: the exit codes that are right.
        env: environment variables beyond the usual ones.
        stdin: the bytes on its standard input.
        stdout, stderr: "read", or one that is "closed", "full" or a pipe that nobody reads ("broken").
        memory_more: how many bytes of address space it may take beyond what it has when it starts (``ulimit -v``).
        largest_file: the most bytes that a file may have, as on a full disk.
        files_open: how many files may be open.
        signals: seconds after the start, and the signal that is sent then.
        folder_gone: whether its working folder is removed before it starts.
        fresh: whether it is a new process of Python's, where limits meet the imports, too.
        own_files: files that it may change although they were there before, relative to its folder.
        may_connect: whether it may ask this machine's own server.
        may_start: whether it may start other programs, as torch.compile does.
        held: what is closed when it has ended, such as a server.
    """

    what: str
    args: list[str]
    codes: tuple[int, ...]
    env: dict[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    stdout: str = "read"
    stderr: str = "read"
    memory_more: int | None = None
    largest_file: int | None = None
    files_open: int | None = None
    signals: list[tuple[float, int]] = field(default_factory=list)
    folder_gone: bool = False
    fresh: bool = False
    own_files: tuple[str, ...] = ()
    may_connect: bool = False
    may_start: bool = False
    held: ExitStack = field(default_factory=ExitStack)


# Makes the inputs of one case in an empty folder.
Make = Callable[[Path, random.Random], Case]


@dataclass(frozen=True)
class Run:
    """How a case ended.

    Attributes:
        code: its exit code, negative for a signal that ended it.
        killed: "time" or "memory" where it took too much of it, and was stopped unless it had just ended.
        seconds: how long it took.
        peak: the most bytes it had resident.
        out, err: what it wrote.
        seen: what it did that it should not: programs started, connections made, files written by a pickle.
    """

    code: int
    killed: str
    seconds: float
    peak: int
    out: bytes
    err: bytes
    seen: tuple[str, ...] = ()
