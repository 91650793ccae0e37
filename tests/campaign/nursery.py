"""A process that has imported the program once and forks for every run: a run costs no imports.

Started by ``runner.py``. It reads one request a line on stdin, runs it in a child, watches its time and memory, and
answers with one line. It has one thread: a child of a process with several could wait for ever for a lock.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_EVERY = 0.01  # seconds between two looks at a child
# The program itself; matplotlib, which starts a program to list fonts; what needs Ray, which starts many.
NOT_IMPORTED = ("__main__", "plots", "explanation.cluster", "coda_cli.ray", "demo.page", "demo.server")


def prepare() -> None:
    """Import everything that a run would import."""
    import coda_cli

    for module in pkgutil.walk_packages(coda_cli.__path__, "coda_cli."):
        if not module.name.endswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    for name in ("cv2", "av", "torchvision", "requests", "filelock", "rich.console", "PIL.Image", "imageio"):
        importlib.import_module(name)
    import PIL.Image

    PIL.Image.init()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise SystemExit(f"{threads} threads run after the imports; a fork would not be safe")


def child(request: dict[str, Any], writing: dict[str, int]) -> NoReturn:
    """Become the run that a request describes."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    watch = os.open(request["seen"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    streams(request, writing)
    if watch != 3:
        os.dup2(watch, 3, inheritable=False)
        watch = 3
    os.closerange(4, 1000)  # what the nursery holds does not count against a limit on open files
    if request["folder_gone"]:
        os.rmdir(request["cwd"])
    limits(request)
    for number in ENDING:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if request["fresh"]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        os.execv(sys.executable, [sys.executable, "-m", "coda_cli", *request["args"]])
    sys.argv = ["coda", *request["args"]]
    if not request["unwatched"]:
        sys.addaudithook(hook(watch, set(request["forbidden"])))
    from coda_cli.__main__ import run

    try:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # as while it is imported, until it takes over
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except BaseException:  # what Python prints of an error that nobody caught
        with contextlib.suppress(Exception):
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
    os._exit(1)


def hook(watch: int, forbidden: set[str]) -> Any:
    """Write down what a run may not do; it is not hindered."""

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in forbidden:
            os.write(watch, f"{event} {arguments!r}"[:300].replace("\n", " ").encode(errors="replace") + b"\n")

    return note


def streams(request: dict[str, Any], writing: dict[str, int]) -> None:
    """Give the child its three streams, as Python sets them up."""
    opened = os.open(request["stdin"], os.O_RDONLY)
    os.dup2(opened, 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        kind = request[name]
        if kind == "closed":
            os.close(number)
            continue
        if kind == "broken":
            reading, opened = os.pipe()
            os.close(reading)
        else:
            opened = os.open("/dev/full", os.O_WRONLY) if kind == "full" else writing[name]
        os.dup2(opened, number)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (
        None if request[name] == "closed" else open(n, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        for n, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace"))
    )  # type: ignore[assignment]
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]


def limits(request: dict[str, Any]) -> None:
    """Make memory, files and open files scarce."""
    if request["memory_more"] is not None:
        # A new process starts small; this one has its imports.
        now = 0 if request["fresh"] else int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + request["memory_more"],) * 2)
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    if request["files_open"] is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["files_open"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def watched(pid: int, request: dict[str, Any], readers: dict[str, int]) -> dict[str, Any]:
    """Wait for a child, read its streams, send it its signals, and end it when it takes too much."""
    start, killed, signals = time.monotonic(), "", list(request["signals"])
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - start
        if ended:
            killed = killed or ("time" if seconds > request["time"] else "")  # before it was looked at again
            break
        while signals and seconds >= signals[0][0]:
            os.kill(pid, signals.pop(0)[1])
        if not killed and (killed := too_much(pid, seconds, request)):
            kill(pid)
        for name, reading in readers.items():
            drain(reading, request[f"{name}_file"])
        time.sleep(LOOK_EVERY)
    kill(pid)  # what it left running
    for name, reading in readers.items():
        drain(reading, request[f"{name}_file"])
        os.close(reading)
    return {
        "code": os.waitstatus_to_exitcode(status), "killed": killed, "seconds": seconds, "peak": usage.ru_maxrss * 1024,
    }  # fmt: skip


def drain(reading: int, to: str) -> None:
    """Append what has arrived in a pipe to a file."""
    with contextlib.suppress(BlockingIOError), open(to, "ab") as stream:
        while data := os.read(reading, 1 << 16):
            stream.write(data)


def kill(pid: int) -> None:
    """End a child and its children; they are a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def too_much(pid: int, seconds: float, request: dict[str, Any]) -> str:
    """Which limit a child has passed, if any."""
    if seconds > request["time"]:
        return "time"
    with contextlib.suppress(OSError, IndexError, ValueError):
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        return "memory" if resident > request["memory"] else ""
    return ""


def main() -> None:
    """Answer requests until stdin ends."""
    prepare()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # Pipes, not files: a limit on the size of files would meet the streams, too.
        pipes = {name: os.pipe() for name in ("stdout", "stderr")}
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # what comes before the child has begun, comes when it has
        pid = os.fork()
        if not pid:
            child(request, {name: writing for name, (_, writing) in pipes.items()})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        for reading, writing in pipes.values():
            os.close(writing)
            os.set_blocking(reading, False)
        answer = watched(pid, request, {name: reading for name, (reading, _) in pipes.items()})
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
