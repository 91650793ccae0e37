"""Runs cases in children of a nursery, and holds what they did against what is promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from campaign import nursery
from campaign.case import MEMORY, TIME, Case, Run

TESTS = Path(__file__).resolve().parent.parent
NETWORK = "cifar10"  # small, bundled, fast


class Runner:
    """A nursery and a folder for the streams of its children."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.nursery = self._start()

    def _start(self) -> subprocess.Popen[str]:
        started = subprocess.Popen(
            [sys.executable, nursery.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment(self.scratch),
        )  # fmt: skip
        assert started.stdout
        if not started.stdout.readline():
            raise SystemExit("the nursery did not start")
        return started

    def close(self) -> None:
        """End the nursery."""
        assert self.nursery.stdin
        assert self.nursery.stdout
        self.nursery.stdin.close()
        self.nursery.wait()
        self.nursery.stdout.close()

    def run(self, case: Case, folder: Path, time: float = TIME) -> Run:
        """Run a case in its folder."""
        out, err, data, seen = (self.scratch / name for name in ("out", "err", "in", "seen"))
        for path in (out, err, seen):
            path.write_bytes(b"")
        data.write_bytes(case.stdin)
        forbidden = [*(() if case.may_connect else nursery.CONNECTS), *(() if case.may_start else nursery.STARTS)]
        request = {
            "args": case.args, "cwd": str(folder), "env": environment(self.scratch) | case.env, "stdin": str(data),
            "seen": str(seen), "memory_more": case.memory_more, "largest_file": case.largest_file,
            "files_open": case.files_open, "signals": case.signals, "folder_gone": case.folder_gone,
            "fresh": case.fresh, "forbidden": forbidden, "unwatched": case.fresh, "time": time, "memory": MEMORY,
            "stdout": case.stdout, "stderr": case.stderr, "stdout_file": str(out), "stderr_file": str(err),
        }  # fmt: skip
        assert self.nursery.stdin
        assert self.nursery.stdout
        self.nursery.stdin.write(json.dumps(request) + "\n")
        self.nursery.stdin.flush()
        answer = self.nursery.stdout.readline()
        if not answer:
            self.nursery = self._start()
            raise RuntimeError(f"the nursery ended during {case.args}")
        found = seen.read_text(errors="replace").splitlines()
        return Run(**json.loads(answer), out=out.read_bytes(), err=err.read_bytes(), seen=tuple(dict.fromkeys(found)))


def environment(scratch: Path) -> dict[str, str]:
    """The variables of every run: nothing of the person's who runs the campaign."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    root = TESTS.parent
    return kept | {
        "HOME": str(scratch), "CODA_CACHE_DIR": str(scratch / "cache"), "CODA_MODEL": NETWORK, "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(root), str(TESTS))), "COLUMNS": "80",
        "TMPDIR": tempfile.gettempdir(), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
