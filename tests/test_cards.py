"""The cards of the bundled networks: every number in them was measured, and the measurement is kept here.

data/NAME.logits.npz   logits and labels of all held-out pictures: coda models verify NAME --accuracy DATA --logits FILE
data/NAME.GRID.json    grid localisation: coda evaluate localisation DATA -m NAME --grid GRID --json
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import program
import pytest
import torch
from PIL import Image

from coda_cli.checkpoints.loading import load
from coda_cli.checkpoints.manifest import Checkpoint, KnownCheckpoint, known
from coda_cli.core.networks import classify
from coda_cli.media.view import fit
from coda_cli.study.accuracy import performance

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).parent / "data"
PHOTOGRAPHS = Path(os.environ.get("CODA_TEST_DATA", ROOT.parent / "shared" / "data"))
ARCHIVES = {
    "imagenette": "imagenette160-val.tar",
    "cifar10": "cifar10-test.tar.gz",
    "cifar10-bcos": "cifar10-test.tar.gz",
    "imagenet": "imagenet-one-each-160.tar",
}
BUNDLED = [entry for entry in known().values() if entry.bundled]
bundled = pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.checkpoint.name)


def kept(name: str) -> tuple[Any, Any]:
    with np.load(KEPT / f"{name}.logits.npz") as arrays:
        return arrays["logits"], arrays["labels"]


def card(name: str) -> str:
    return (ROOT / "weights" / f"{name}.md").read_text()


@bundled
def test_the_stated_accuracy_is_that_of_the_kept_logits(entry: KnownCheckpoint) -> None:
    stated = entry.checkpoint.accuracy
    assert stated is not None
    found = performance(*kept(entry.checkpoint.name))
    assert found.pictures == stated.pictures
    # The network's file was measured where it was trained; one picture of a thousand may lie on the edge elsewhere.
    assert found.value == pytest.approx(stated.value, abs=1.5e-3)


@bundled
def test_the_card_states_what_was_measured(entry: KnownCheckpoint) -> None:
    text, found = card(entry.checkpoint.name), performance(*kept(entry.checkpoint.name))
    assert f"{found.value:.2%}".replace("%", " %") in text
    assert f"{found.calibration_error:.1%}".replace("%", " %") in text
    assert f"{found.mean_probability:.1%}".replace("%", " %") in text
    assert str(entry.sha256) in text
    if len(entry.checkpoint.classes) > 100:
        return  # see below
    row = " | ".join(f"{100 * share:.1f}" for share in found.by_class)
    assert row in text, row
    assert " | ".join(entry.checkpoint.classes) in text


def test_the_card_of_many_classes_states_the_accuracy_of_groups() -> None:
    by_class, text = performance(*kept("imagenet")).by_class, card("imagenet")
    groups = program.example("imagenet").groups(list(load("imagenet").checkpoint.classes))
    assert sorted(c for members in groups.values() for c in members) == list(range(1000))
    for name, members in groups.items():
        assert f"| {name} | {len(members)} | {np.mean([by_class[c] for c in members]):.1%} |" in text, name


@bundled
def test_the_card_states_the_localisation_that_was_measured(entry: KnownCheckpoint) -> None:
    files = sorted(KEPT.glob(f"{entry.checkpoint.name}.?x?.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text())
        assert found["network"]["name"] == entry.checkpoint.name
        assert found["network"]["sha256"] == entry.sha256
        scores = np.array(found["scores"])
        assert scores.shape == (found["grids"], int(found["grid"][0]) ** 2)
        assert found["mean"] == pytest.approx(scores.mean())
        assert f"{found['mean']:.3f}" in card(entry.checkpoint.name)


def test_what_the_card_of_the_default_says_of_pictures_it_has_no_class_for(tmp_path: Path) -> None:
    for row in table_of("unknown", tmp_path):  # p may round differently elsewhere
        _, picture, predicted, *_ = row.split("|")
        assert f"|{picture}|{predicted}|" in card("imagenet"), row


def test_the_default_network_knows_a_lorikeet(tmp_path: Path) -> None:
    if not (PHOTOGRAPHS / "birds525-val-144.tar").exists():
        pytest.skip("needs birds525-val-144.tar; CODA_TEST_DATA names its folder")
    rows = [[cell.strip() for cell in row.split("|")] for row in table_of("lorikeets", tmp_path)]
    assert [row[2] for row in rows] == 5 * ["lorikeet"]
    assert all(float(row[3]) >= 0.5 for row in rows)


def table_of(name: str, folder: Path) -> list[str]:
    """The rows of a table that examples/imagenet.py prints."""
    lines = program.example_run("imagenet.py", PHOTOGRAPHS, folder, name)[0].splitlines()
    return [line for line in lines if line.startswith("|")][2:]


def class_of(member: str, checkpoint: Checkpoint) -> str:
    """The class of a photograph: its folder, or the WordNet id that its name begins with."""
    if Path(member).parent.name in checkpoint.classes:
        return Path(member).parent.name
    assert checkpoint.wnids is not None
    return checkpoint.classes[checkpoint.wnids.index(Path(member).name.split("_")[0])]


@bundled
def test_the_kept_logits_are_those_of_the_network(entry: KnownCheckpoint) -> None:
    """For forty photographs of the held-out split, where the archive is at hand."""
    name, checkpoint = entry.checkpoint.name, entry.checkpoint
    archive = PHOTOGRAPHS / ARCHIVES[name]
    if not archive.exists():
        pytest.skip(f"needs {archive.name}; CODA_TEST_DATA names its folder")
    logits, labels = kept(name)
    with tarfile.open(archive) as tar:
        members = [m for m in tar.getmembers() if m.isfile()]
        # The order of coda's listing: by class name, then by path.
        members.sort(key=lambda m: (Path(m.name).parent.name, Path(m.name).parts))
        assert len(members) == len(labels)
        chosen = range(0, len(members), len(members) // 40)
        pictures = []
        for i in chosen:
            assert checkpoint.classes[labels[i]] == class_of(members[i].name, checkpoint)
            stream = tar.extractfile(members[i])
            assert stream is not None
            rgb = np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB"))
            p = checkpoint.preprocessing
            pictures.append(fit(rgb, p.resize, p.crop).rgb)
    found = classify(load(name).model, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(found, logits[list(chosen)], rtol=1e-3, atol=1e-3 * float(np.abs(logits).max()))
