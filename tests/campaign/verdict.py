"""What is wrong with a run, a line for each fault; the first words of a line say of which kind it is."""

from __future__ import annotations

import json
import re
import signal
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image

from campaign.case import MEMORY, Case, Run

LONGEST_LINE = 2000  # characters on stderr
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
ABANDONED = ("*.part", ".coda-*", "*.lock", "*.tmp")
Snapshot = Mapping[str, tuple[int, int, int]]


def snapshot(folder: Path) -> Snapshot:
    """Kind, size and time of every file in a folder."""
    found = {}
    for path in folder.rglob("*"):
        state = path.lstat()
        if not path.is_dir():
            found[path.relative_to(folder).as_posix()] = (state.st_mode, state.st_size, state.st_mtime_ns)
    return found


def faults(case: Case, run: Run, folder: Path, before: Snapshot) -> list[str]:
    """Everything that a run did and should not have done; empty for a good one."""
    after = snapshot(folder) if folder.is_dir() else {}
    found = [*_ending(case, run), *_words(case, run), *_results(case, run), *_left_behind(case, after)]
    found += [f"did what it may not: {event}" for event in run.seen]
    allowed = set(case.own_files)
    if not case.folder_gone:
        found += [f"input changed: {n}" for n in before if n not in allowed and after.get(n) != before[n]]
    found += _broken_files([folder / name for name in after if name not in before])
    return found


def _ending(case: Case, run: Run) -> Iterator[str]:
    """Time, memory, signals and exit codes."""
    if run.killed:
        yield f"took too much {run.killed}: {run.seconds:.0f} s, {run.peak / 1e9:.1f} GB"
    elif run.peak > MEMORY:
        yield f"took too much memory: {run.peak / 1e9:.1f} GB"
    elif run.code < 0 and -run.code not in {number for _, number in case.signals}:
        yield f"ended by {signal.Signals(-run.code).name}"
    elif run.code not in case.codes:
        yield f"exit code {run.code}, not {' or '.join(map(str, case.codes))}"


def _words(case: Case, run: Run) -> Iterator[str]:
    """Streams: only coda's own lines on stderr, of bounded length, without control characters."""
    text = run.err.decode(errors="replace")
    for name, stream in (("stderr", text), ("stdout", run.out.decode(errors="replace"))):
        if "Traceback (most recent call last)" in stream:
            last = [line for line in stream.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt|\w+):?", line)]
            yield f"traceback on {name}: {(last or stream.splitlines())[-1][:160]}"
            return
        if control := CONTROL.search(stream.replace("\r\n", "\n")):
            yield f"control character {control.group()!r} on {name}"
    lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    strange = [line for line in lines if line and not line.startswith("coda: ")]
    if strange:
        yield f"foreign line on stderr: {strange[0][:160]}"
    if (longest := max((len(line) for line in lines), default=0)) and longest > LONGEST_LINE:
        yield f"line too long: {longest} characters"
    said = "coda: error:" in text
    heard = case.stderr == "read" and case.stdout != "broken"  # a reader that left needs no explanation
    if run.code in (1, 2, 3, 4, 5) and not said and heard and not run.killed:
        yield f"no error said: exit code {run.code}"


def _results(case: Case, run: Run) -> Iterator[str]:
    """With --json, whole lines of strict JSON that say their schema."""
    if "--json" not in case.args or run.code not in case.codes or case.stdout != "read":
        return
    for line in run.out.decode(errors="surrogateescape").splitlines():
        if problem := _not_json(line):
            yield f"stdout is not JSON: {problem}"
            return


def _not_json(line: str) -> str:
    """Why a line is no strict JSON object with a schema; empty if it is."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(line, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        return str(error)[:100]
    return "" if isinstance(value, dict) and "schema" in value else "no schema"


def _left_behind(case: Case, after: Snapshot) -> Iterator[str]:
    """Files that only exist while a run lasts, and proof that code of an input ran."""
    for name in after:
        if name.endswith("canary"):
            yield f"code of an input ran: {name}"
        if any(Path(name).match(pattern) for pattern in ABANDONED) and name not in case.own_files:
            yield f"left behind: {Path(name).suffix or Path(name).name}"


def _broken_files(written: list[Path]) -> Iterator[str]:
    """Outputs that are there under their names and are not whole."""
    for path in written:
        try:
            if path.suffix in (".png", ".gif", ".webp"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    with Image.open(path) as image:
                        image.load()
            elif path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            elif path.suffix in (".mp4", ".webm"):
                import av

                with av.open(str(path)) as clip:
                    if next(clip.decode(video=0), None) is None:
                        raise ValueError("no frame")
        except Exception as error:  # whatever a library says of a half-written file
            yield f"half-written {path.suffix}: {type(error).__name__} {str(error)[:80]}"
