"""Hostile inputs against the program: seeded, each in a child that is watched; a table, and what failed is kept.

    python tests/campaign                              300 inputs of all kinds
    python tests/campaign --count 1000 --seed 1        more, and others
    python tests/campaign --only checkpoints           one kind; see --help
    python tests/campaign --only clips --number 17     one input again, and what it printed

A run is held to what is promised: its exit code says what happened; nothing but coda's own lines is on stderr, without
control characters; no traceback, no signal, not over 60 s nor 3 GB; nothing half-written or left behind; no input
changed; no program started and no connection made. What was kept of a fault has the inputs, ``command.txt`` and
``faults.txt``. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from campaign import checkpoints, clips, machine, own_files, pictures, server
from campaign.case import Case, Make, Run
from campaign.runner import Runner
from campaign.verdict import faults, snapshot

KINDS: dict[str, tuple[Make, int]] = {
    "pictures": (pictures.make, 30),
    "clips": (clips.make, 15),
    "checkpoints": (checkpoints.make, 30),
    "own": (own_files.make, 8),
    "machine": (machine.scarce, 8),
    "signals": (machine.stopped, 5),
    "server": (server.make, 4),
}
KEPT_SIZE = 5_000_000  # bytes of a kept file, at most


@dataclass(frozen=True)
class Outcome:
    """One input: its kind and number, what was hostile about it, how the run ended, and its faults."""

    kind: str
    number: int
    what: str
    run: Run
    faults: list[str]


def main() -> None:
    """Run the campaign; the exit code is 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="how many inputs, of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=KINDS, metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--number", type=int, help="only the input with this number, of the kind --only")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--keep", type=Path, default=Path("build/campaign"), help="folder for what failed")
    parser.add_argument("--time", type=float, default=60.0, help="seconds that a run may take")
    arguments = parser.parse_args()
    kinds = arguments.only or list(KINDS)
    if arguments.number is not None:
        if len(kinds) != 1:
            parser.error("--number needs one --only KIND")
        chosen = [(kinds[0], arguments.number)]
    else:
        chosen = numbered(arguments.count, kinds)
    start = time.monotonic()
    found = campaign(chosen, arguments.seed, arguments.workers, arguments.keep, arguments.time)
    print_table(found, arguments.seed, time.monotonic() - start)
    if arguments.number is not None:
        print(found[0].run.out.decode(errors="backslashreplace"), found[0].run.err.decode(errors="backslashreplace"))
    sys.exit(any(outcome.faults for outcome in found))


def numbered(count: int, kinds: list[str]) -> list[tuple[str, int]]:
    """Kinds and numbers of so many inputs, each kind by its weight, mixed."""
    weights = [KINDS[kind][1] for kind in kinds]
    drawn = random.Random(0).choices(kinds, weights, k=count)
    numbers: dict[str, itertools.count[int]] = defaultdict(itertools.count)
    return [(kind, next(numbers[kind])) for kind in drawn]


def campaign(chosen: list[tuple[str, int]], seed: int, workers: int, keep: Path, limit: float) -> list[Outcome]:
    """Run inputs, several at a time, each of its own seed."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as name:
        runners: SimpleQueue[Runner] = SimpleQueue()
        started = []
        for n in range(workers):
            (scratch := Path(name, f"nursery-{n}")).mkdir()
            started.append(Runner(scratch))
            runners.put(started[-1])

        def one(at: tuple[str, int]) -> Outcome:
            runner = runners.get()
            try:
                outcome = attempt(runner, *at, seed, Path(name, f"{at[0]}-{at[1]}"), keep, limit)
            except Exception as error:  # not a fault of the program: the campaign cannot make this input
                raise RuntimeError(f"{at[0]} {at[1]} of seed {seed} cannot be made or run") from error
            finally:
                runners.put(runner)
            for fault in outcome.faults:
                print(f"{outcome.kind} {outcome.number} ({outcome.what}): {fault}", flush=True)
            return outcome

        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(one, chosen))
        for runner in started:
            runner.close()
    return found


def attempt(runner: Runner, kind: str, number: int, seed: int, folder: Path, keep: Path, limit: float) -> Outcome:
    """Make one input, run it, and keep it where it failed."""
    folder.mkdir()
    case = KINDS[kind][0](folder, random.Random(f"{seed}/{kind}/{number}"))
    with case.held:
        before = snapshot(folder)
        run = runner.run(case, folder, limit)
    wrong = faults(case, run, folder, before)
    if wrong:
        keep_input(case, run, wrong, folder, set(before), keep / f"{kind}-{seed}-{number}")
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(kind, number, case.what, run, wrong)


def keep_input(case: Case, run: Run, wrong: list[str], folder: Path, inputs: set[str], to: Path) -> None:
    """Copy the inputs of a case, its command, its streams and its faults."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for name in inputs:
        path = folder / name
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= KEPT_SIZE:
            (to / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to / "in" / name)
    limits = {key: value for key, value in vars(case).items() if key not in ("what", "args", "held", "stdin") and value}
    command = shlex.join(["coda", *case.args])
    (to / "command.txt").write_text(f"{command}\n{limits}\n", encoding="utf-8", errors="backslashreplace")
    (to / "faults.txt").write_text("\n".join(wrong) + "\n", encoding="utf-8", errors="backslashreplace")
    (to / "stderr").write_bytes(run.err[-100_000:])
    (to / "stdout").write_bytes(run.out[-100_000:])
    if case.stdin:
        (to / "stdin").write_bytes(case.stdin)


def print_table(found: list[Outcome], seed: int, seconds: float) -> None:
    """A row for each kind, then the faults by what they are."""
    print(f"\nseed {seed}: {len(found)} inputs in {seconds:.0f} s")
    print(f"{'kind':<14}{'inputs':>7}{'failed':>8}{'longest, s':>12}{'most memory, GB':>17}   exit codes")
    for kind in KINDS:
        if rows := [outcome for outcome in found if outcome.kind == kind]:
            codes = Counter(outcome.run.code for outcome in rows)
            said = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
            longest, peak = max(o.run.seconds for o in rows), max(o.run.peak for o in rows) / 1e9
            failed = sum(bool(o.faults) for o in rows)
            print(f"{kind:<14}{len(rows):>7}{failed:>8}{longest:>12.1f}{peak:>17.2f}   {said}")
    by_fault: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in found:
        for fault in outcome.faults:
            by_fault[outcome.kind, fault.split(":")[0]].append(outcome)
    for (kind, fault), rows in sorted(by_fault.items(), key=lambda row: -len(row[1])):
        numbers = ", ".join(str(o.number) for o in rows[:8])
        print(f"  {len(rows):>4}  {kind}: {fault} (numbers {numbers}{', …' if len(rows) > 8 else ''})")


if __name__ == "__main__":
    main()
