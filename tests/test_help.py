"""help(coda_cli) and the Tab key show the whole library and import no torch; whoever uses a name gets the real one."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import coda_cli
from coda_cli import _help

HELP = "import inspect, pydoc, sys, coda_cli\ntext = pydoc.plain(pydoc.render_doc(coda_cli))\n"
HEAVY = "print(sorted({'torch', 'numpy', 'PIL', 'av', 'cv2', 'pydantic'} & set(sys.modules)))\n"
TAB = """import rlcompleter, sys, coda_cli
completer = rlcompleter.Completer({"coda_cli": coda_cli})
print([completer.complete("coda_cli.", n) for n in range(len(coda_cli.__all__) + 1)])
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_help_is_that_of_the_real_names_and_imports_nothing_heavy() -> None:
    heavy, shown = python(HELP + HEAVY + "print(text)").split("\n", 1)
    assert heavy == "[]"
    heavy, expected = python("import torch\n" + HELP + HEAVY + "print(text)").split("\n", 1)
    assert "torch" in heavy
    assert shown == expected
    for name in coda_cli.__all__:
        assert f"\n    {name}(" in shown or f"\n    class {name}(" in shown, name


def test_pydoc_as_a_program_imports_no_torch() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pydoc", "coda_cli"], capture_output=True, text=True, check=True
    )
    imported = {line.split("|")[-1].strip() for line in run.stderr.splitlines()}
    assert "coda_cli._help" in imported  # since 3.12 no time of the package itself, which pydoc imports by a call
    assert not {"torch", "numpy"} & imported
    assert "Explain one picture" in run.stdout


def test_the_tab_key_completes_the_real_names_and_imports_nothing_heavy() -> None:
    shown, heavy = python(TAB + HEAVY).splitlines()
    assert heavy == "[]"
    assert shown == repr([f"coda_cli.{name}(" for name in sorted(coda_cli.__all__)] + [None])


@pytest.mark.parametrize(
    "used",
    [
        "coda_cli.Explanation",
        "pydoc.locate('coda_cli.Explanation')",
        "dict(inspect.getmembers(coda_cli))['Explanation']",
    ],
)
def test_whoever_uses_a_name_after_the_help_gets_the_real_one(used: str) -> None:
    real = "from coda_cli.explanation.picture import Explanation\n"
    assert python(f"{HELP}found = {used}\n{real}print(found is Explanation)") == "True\n"


def test_a_default_that_is_computed_is_shown_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_help, "_FOLDER", tmp_path)
    (tmp_path / "a.py").write_text("import no_such\n@no_such.x\ndef f(a, b=no_such.B, *, c=-1, d=max(1, 2)): work()")
    _help.stand_in.cache_clear()
    shown = pydoc.plain(pydoc.render_doc(_help.stand_in("f", "a")))
    assert "f(a, b=no_such.B, *, c=-1, d=max(1, 2))" in shown


def test_without_source_files_the_real_names_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_help, "_FOLDER", tmp_path)
    _help.stand_in.cache_clear()
    assert _help.stand_in("explain", "explanation.picture") is None
    _help.stand_in.cache_clear()
