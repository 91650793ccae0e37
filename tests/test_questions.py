"""The stories of docs/questions.md: every command is run, and answers what its heading asks."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import program
from conftest import Coda

DOCUMENT = Path(program.EXAMPLES).parent / "docs" / "questions.md"


def test_every_question_is_answered(coda: Coda, tmp_path: Path) -> None:
    for folder in ("pictures", "masks", "cifar10"):
        shutil.copytree(program.EXAMPLES / folder, tmp_path / "examples" / folder)
    said = {}
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL):
        for line in block.splitlines():
            said[line] = coda(*shlex.split(line)[1:])
    overall = json.loads((tmp_path / "q1/report/summary.json").read_text("utf-8"))["overall"]
    assert overall["mean_inside"] > overall["mean_inside_area"]
    rows = (tmp_path / "q1/report/summary.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + len(list((tmp_path / "examples/pictures").iterdir()))
    (asked,) = [result for line, result in said.items() if "--top 3" in line]
    assert len(asked.record["outliers"]["outside"]) == 3
    (box,) = [result for line, result in said.items() if "steeple" in line]
    assert "steeple" in box.err
    one, two = (
        json.loads(path.read_text("utf-8"))["explained"][0]["logit"]
        for path in (next((tmp_path / "q4/one").glob("*.json")), next((tmp_path / "q4/two").glob("*.json")))
    )
    assert np.isfinite([one, two]).all()
    assert list((tmp_path / "q4/changes").glob("*.png"))
    (sheet,) = (tmp_path / "q4/sheet").glob("*.json")
    (change,) = json.loads(sheet.read_text("utf-8"))["others"][0]["difference"]["targets"]
    assert change["map"]["exact"]
    assert [region["name"] for region in change["regions"]] == ["hull", "rest"]
    assert len(list((tmp_path / "q5").glob("*.overlay.png"))) == 3  # the logit's, and those of two channels
    assert (tmp_path / "q6.html").read_text("utf-8").startswith("<!doctype html>")
    proofs = [result for line, result in said.items() if line.startswith(("coda verify", "coda rerun"))]
    assert all("NOT" not in result.err for result in proofs)
    assert len(proofs) == 2
