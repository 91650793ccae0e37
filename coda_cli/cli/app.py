"""The command line: its commands, and the one boundary where errors become a line on stderr and an exit code."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from coda_cli.cli import (
    compare,
    config,
    configured,
    demo,
    diff,
    evaluate,
    explain,
    models,
    schema,
    summary,
    train,
    verify,
    video,
)
from coda_cli.cli.console import console, stdout_is_terminal
from coda_cli.cli.once import Once
from coda_cli.cli.options import set_verbose
from coda_cli.errors import STOPPING, CodaError, ExitCode, UsageError

EPILOG = """
\b
Exit codes
  0    every item done
  1    some or all items failed
  2    wrong usage; nothing was started
  3    a checkpoint cannot be loaded or does not match its checksum
  4    a residual is above its tolerance: the contributions do not add up
  5    a download failed
  130  interrupted (Ctrl-C); 143 terminated
\b
Defaults
  coda.toml in the working folder or in the user's configuration folder, and CODA_EXPLAIN_STYLE=colour for --style of
  coda explain; CODA_MODEL and CODA_DEVICE count for all commands; coda config show says what is in force
"""

app = typer.Typer(
    name="coda",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if stdout_is_terminal() else None,  # piped help is plain text without boxes
    epilog=EPILOG,
)
app.command("explain", epilog=explain.EPILOG)(explain.explain)
app.command("video", epilog=video.EPILOG)(video.video)
app.command("compare")(compare.compare)
app.command("summary")(summary.summary)
app.command("merge")(summary.merge)
app.command("diff")(diff.diff)
app.command("verify")(verify.verify)
app.command("rerun")(verify.rerun)
app.command("train", epilog=train.EPILOG)(train.train)
app.command("demo")(demo.demo)
app.command("schema")(schema.schema)
app.add_typer(models.app, name="models")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(config.app, name="config")


for _commands in (app, models.app, evaluate.app, config.app):
    for _command in _commands.registered_commands:
        _command.cls = Once


def _version(value: bool) -> None:
    """Print the version and exit; with -v also what computes, and with which network."""
    if not value:
        return
    from importlib.metadata import version  # reads installed metadata: torch itself is not imported

    console.result(f"coda {version('coda-cli')} (torch {version('torch')}, Python {sys.version.split()[0]})")
    if console.verbosity > 0:
        from coda_cli.checkpoints.loading import file_sha256
        from coda_cli.checkpoints.manifest import DEFAULT, find
        from coda_cli.machine.devices import described, pick

        path = find(DEFAULT).path
        console.result(f"device: {described(pick('auto', 'float32'))}")
        console.result(f"default network: {DEFAULT}, sha256 {file_sha256(path)}")
        console.result(f"its file: {path}")
    raise typer.Exit


@app.callback()
def coda(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            help="Show the version and exit; with -v also the device and the hash of the default network.",
        ),
    ] = False,
    verbose: Annotated[  # eager: parsed before --version, in whatever order they stand
        int,
        typer.Option("-v", count=True, callback=set_verbose, is_eager=True, show_default=False, help="More details."),
    ] = 0,
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar="CODA_DEBUG", help="Show the Python traceback of an error.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar="CODA_CONFIG",
            help="Read settings from this file alone; see coda config --help.",
        ),
    ] = None,
) -> None:
    """Explain image classifiers exactly: split every logit into the contributions of the pixels, and prove it.

    \b
    coda explain photo.jpg                  explain the predicted class
    coda explain photos/ -o out/ --json     a folder, with records for scripts
    coda video clip.mp4                     a clip, frame by frame
    coda summary out/                       what the evidence of a whole folder says
    coda compare photo.jpg                  compare with Grad-CAM, occlusion, LIME and others
    coda models list                        all networks that coda knows
    """
    global _show_traceback
    _show_traceback = traceback
    try:
        os.getcwd()
    except OSError:  # torch's library MKL would end the process with a line of its own
        raise UsageError("the working folder no longer exists; change to another one (cd) and try again") from None
    group = context.command
    assert isinstance(group, TyperGroup)
    if context.invoked_subcommand != "config":  # it reads them itself, and its path must not need valid files
        configured.read(group, config)
        context.default_map = configured.SETTINGS.default_map()


_show_traceback = False


class _Terminated(BaseException):
    """SIGTERM or SIGHUP as an exception, so that temporary files are removed before the program ends."""


LONGEST_WAY_OUT = 20.0  # seconds from a signal to the end of the program


class _Stop:
    """The first signal that asked the program to end.

    Attributes:
        by: the exception that it was raised as; None as long as none came.
        since: when it came, ``time.monotonic`` seconds.
    """

    by: type[BaseException] | None = None
    since: float = 0.0


def _terminate(*_: object) -> NoReturn:
    """Raise ``_Terminated``; the handler of SIGTERM and SIGHUP."""
    _stop(_Terminated)


def _interrupt(*_: object) -> NoReturn:
    """Raise KeyboardInterrupt; the handler of SIGINT."""
    _stop(KeyboardInterrupt)


def _stop(by: type[BaseException]) -> NoReturn:
    """Remember that a signal came, and raise it."""
    _Stop.by, _Stop.since = by, time.monotonic()
    _ignore_further_signals()
    raise by


def _ignore_further_signals() -> None:
    """Let nothing disturb the way out, on which temporary files are removed and results are closed."""
    for number in STOPPING:
        # Not SIG_IGN: Python would print that a signal that came just before was lost.
        signal.signal(number, _further)


def _further(*_: object) -> None:
    """Ignore one more signal on the way out; raise it again where the first seems to be lost.

    Libraries written in C or Rust can swallow an exception that is raised while they call Python.
    """
    if _Stop.by and time.monotonic() - _Stop.since > LONGEST_WAY_OUT:
        _stop(_Stop.by)


class _WarningsToConsole(logging.Handler):
    """Prints the library's warnings like the program's own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning on stderr.

        Args:
            record: the warning.
        """
        console.warn(record.getMessage())


def _prepare_stdout() -> None:
    """Make sure that every file name can be printed."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if sys.stdout.isatty():  # a terminal that cannot show a letter shows its number
            sys.stdout.reconfigure(errors="backslashreplace")
        else:  # in a pipe or a file, names keep their bytes
            sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")


def main() -> NoReturn:
    """Run the program and exit with its exit code."""
    for number in STOPPING:
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup starts programs that ignore SIGHUP
            signal.signal(number, _terminate)
    logging.getLogger("coda_cli").handlers = [_WarningsToConsole()]
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of folders for its settings, and of fonts
    _prepare_stdout()
    _Stop.by = None
    try:
        ended = app(prog_name="coda", standalone_mode=False)  # else typer prints its errors itself, in four lines
        if ended == ExitCode.INTERRUPTED:
            console.interrupted()
        sys.exit(ended or ExitCode.OK)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its class is private, as are all errors of the option parser
            error.show()  # type: ignore[attr-defined]
        else:
            console.error(_one_line(error))
        sys.exit(ExitCode.USAGE)
    except (CodaError, RuntimeError, MemoryError, OSError, ImportError, SystemError) as error:
        if _Stop.by:  # a library made this error of it
            _end_stopped()
        if _show_traceback or (message := _message_of(error)) is None:
            raise
        console.error(configured.SETTINGS.with_origin(message))
        sys.exit(error.exit_code if isinstance(error, CodaError) else ExitCode.FAILED)
    except _Terminated:
        _end_stopped()


def _end_stopped() -> NoReturn:
    """Say that a signal stopped the program, and exit as such programs do."""
    if _Stop.by is _Terminated:
        console.say("terminated")
        sys.exit(ExitCode.TERMINATED)
    console.interrupted()
    sys.exit(ExitCode.INTERRUPTED)


def _message_of(error: Exception) -> str | None:
    """The message of an error that is no fault of the program; None for one that is."""
    if isinstance(error, CodaError):
        return str(error)
    if "can't start new thread" in str(error):
        return "the system allows no more threads; end other programs, or see ulimit -u"
    if _out_of_memory(error):
        return "memory ran out; use smaller pictures, compute fewer together, or use a machine with more memory"
    if isinstance(error, OSError):  # such as a full disk, where results or help are written
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return None


def _out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, also while torch was being imported (ulimit -v)."""
    if isinstance(error, MemoryError) or any(said in str(error) for said in _NOTHING_LEFT):
        return True
    if not isinstance(error, RuntimeError):
        return False
    from coda_cli.machine.memory import out_of_memory

    return out_of_memory(error)


# What the system says where it gives no more memory to a process, and Python where it has none for the error itself.
_NOTHING_LEFT = (
    "failed to map segment", "annot allocate memory", "can't allocate", "error return without exception set",
    "without setting an exception",
)  # fmt: skip


def _one_line(error: TyperException) -> str:
    """The message of an error of the option parser, in one line as coda writes errors."""
    text = error.format_message().rstrip(".").replace("(Possible options", "(possible options")
    option = re.match(r"Invalid value for '([^']+)': ", text)
    said = configured.in_words(text[option.end() :] if option else text)
    text = f"{option[1]}: {said}" if option else said
    context = getattr(error, "ctx", None)
    return f"{text}; see {context.command_path} --help" if context else text


def process() -> NoReturn:
    """Run ``main`` as a process of its own, which ends at once instead of first freeing everything in memory.

    With torch, freeing takes half a second, a quarter of the time of one picture.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell starts background jobs without it
        signal.signal(signal.SIGINT, _interrupt)
    gc.set_threshold(50_000)  # garbage collection, again and again while torch is imported, takes a quarter of a second
    try:
        try:
            main()
        except SystemExit as end:
            code = end.code
            _ignore_further_signals()
    except (KeyboardInterrupt, _Terminated) as stopped:  # while main was printing an error, or had just ended
        code = ExitCode.INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else ExitCode.TERMINATED
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the shell closed it
        with contextlib.suppress(OSError, ValueError):  # main has reported what could not be written
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code if isinstance(code, int) else ExitCode.FAILED)
