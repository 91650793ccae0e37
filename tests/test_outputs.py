"""Where results go: refused before any work if they cannot, never over an input, whole for others who write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
from conftest import Coda
from program import check_whole, photo, photos, tree

from coda_cli.checkpoints import loading
from coda_cli.explanation import picture as pictures
from coda_cli.explanation import writer
from coda_cli.explanation.naming import Naming
from coda_cli.explanation.record import Drawing
from coda_cli.media.sources import resolve

# ---- outputs that cannot be written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["file", "file/out"])
def test_an_output_folder_that_cannot_be_is_refused_before_any_work(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", lambda *_: pytest.fail("something was computed"))
    result = coda("explain", "a.png", "-o", output, "--scale", "run", status=2)
    assert result.error.startswith(f"{output}: cannot write into this folder (")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_sub_folder_that_cannot_be_fails_its_pictures_only(coda: Coda, tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "sub/b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").write_text("mine")
    result = coda("explain", "in", "-r", "-o", "out", "--json", status=1)
    assert [r["status"] for r in result.records] == ["ok", "error"]
    assert "out/sub" in result.error


@pytest.mark.parametrize("option", ["--force", "--if-exists=match", "--if-exists=skip", "--if-exists=rename"])
@pytest.mark.parametrize("name", ["a.overlay.png", "a.coda.json"])
def test_an_input_is_never_overwritten(coda: Coda, tmp_path: Path, option: str, name: str) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", seed=5).rename(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    args = ("--name", "{stem}.{kind}.{ext}", "-o", ".", option)
    status = 0 if option in ("--if-exists=skip", "--if-exists=rename") else 1
    result = coda("explain", "a.png", name, *args, status=status)
    assert (tmp_path / name).read_bytes() == before
    if status:
        assert f"{name}: " in result.error
        assert (tmp_path / f"{Path(name).stem}.overlay.png").exists()  # the other is done


def test_two_inputs_with_one_output_are_refused_before_any_work(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path, "x/a.png", "y/a.png", "a.jpg")
    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", lambda *_: pytest.fail("something was computed"))
    for pair in (("x/a.png", "y/a.png"), ("x/a.png", "a.jpg")):
        result = coda("explain", *pair, status=2)
        assert result.error.startswith(f"{pair[0]} and {pair[1]} would both be written as coda-out/a.coda.json; ")
        assert not (tmp_path / "coda-out").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    coda("explain", "x/a.png", "a.jpg", "--name", "{name}.{class_slug}.{kind}.{ext}")  # as the message says


def test_an_output_folder_that_disappears_is_made_again(tmp_path: Path) -> None:
    photos(tmp_path / "in", "a.png", "b.png")
    net, output = loading.load("cifar10"), writer.Output(Naming(tmp_path / "out", "cifar10"), Drawing())
    written = writer.Writer(net, items := resolve([str(tmp_path / "in")]), pictures.Request(), output)
    for item in items:
        explanation = pictures.explain(item.path, net)
        assert explanation.input
        written.write(explanation.input, explanation)
        assert len(tree(tmp_path / "out")) == 2
        shutil.rmtree(tmp_path / "out")


# ---- others who write there ------------------------------------------------------------------------------------------


def test_a_record_that_another_run_wrote_meanwhile_is_kept_and_the_picture_s_is_beside_it(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    coda("explain", "a.png", "-c", "cat")
    record = tmp_path / "coda-out" / "a.coda.json"
    text = record.read_bytes()
    (tmp_path / "coda-out" / "a.cat.overlay.png").unlink()
    record.unlink()

    def explain_batch(*args: Any, **more: Any) -> Any:
        record.write_bytes(text)
        return pictures.explain_batch(*args, **more)

    monkeypatch.setattr("coda_cli.explanation.run.explain_batch", explain_batch)
    coda("explain", "a.png", "-c", "dog")
    assert record.read_bytes() == text
    assert len(tree(tmp_path / "coda-out")) == 3


def test_two_runs_into_one_folder_at_the_same_time_both_end_well(tmp_path: Path) -> None:
    photos(tmp_path / "in", *(f"{i}.png" for i in range(6)))
    args = ("explain", "in", "--class", "0", "--write", "overlay,npz,json")
    with program.started(*args, cwd=tmp_path) as one, program.started(*args, cwd=tmp_path) as two:
        for child in (one, two):
            program.finish(child, 0)
    out = tmp_path / "coda-out"
    assert len(tree(out)) == 18
    check_whole(out)
    for path in out.glob("*.npz"):
        np.load(path)["contributions"]


def test_files_get_the_rights_of_any_new_file_and_the_umask_is_left_alone(
    coda: Coda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    before = os.umask(0o027)
    try:
        # Who asks for the umask sets it, and several threads write at once.
        with monkeypatch.context() as patch:
            patch.setattr(os, "umask", lambda _: pytest.fail("the umask was changed"))
            coda("explain", "a.png", "--class", "0", "--write", "overlay,json,npz")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "coda-out").iterdir()} == {0o640}
