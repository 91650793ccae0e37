"""The documents: links lead somewhere, files that are named exist, code and commands run, sentences are short."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import document_files
import documents
import numpy as np
import program
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LONGEST_SENTENCE = 30  # words, in the README
PATTERNS = ("*.md", "docs/**/*.md", "weights/*.md", "examples/*.md")
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))


def prose(text: str) -> str:
    """A document's text without comments and blocks of code; code within a line is one word, a link its text."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *```.*?^ *```$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]+`", "code", text)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)


def sentences(text: str) -> list[str]:
    """The sentences of a document: they end at a stop, a paragraph, an item of a list, or a cell of a table."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-*#|] ?)|\|", prose(text))
    found = [re.split(r"(?<=[.!?])[*_)\"]*\s+", " ".join(block.split())) for block in blocks]
    return [sentence for block in found for sentence in block if sentence]


def anchors(path: Path) -> set[str]:
    """What a link may name after #: the headings, as they are turned into anchors."""
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.casefold()).strip().replace(" ", "-") for heading in headings}


def test_no_sentence_of_the_readme_is_long() -> None:
    long = [s for s in sentences((ROOT / "README.md").read_text("utf-8")) if len(s.split()) > LONGEST_SENTENCE]
    assert not long, "\n".join(long)


def test_sentences_are_found() -> None:
    text = "# Head\n\nOne `a b` [two](x.y). Three\nfour! 82.4 five\n\n- six\n- seven. Eight\n\n| a b | c |\n"
    assert [s.split() for s in sentences(text)] == [
        ["#", "Head"],
        ["One", "code", "two."],
        ["Three", "four!"],
        ["82.4", "five"],
        ["-", "six"],
        ["-", "seven."],
        ["Eight"],
        ["a", "b"],
        ["c"],
    ]
    assert sentences("```sh\nno sentence. at all\n```\n<!-- nor this. one -->") == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "", document.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{document.name}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_that_a_document_names_exist(document: Path) -> None:
    named = set(re.findall(r"`((?:coda_cli|tests|docs|examples)/[\w./-]*)`", document.read_text("utf-8")))
    if document.name == "from-the-papers-code.md":  # has files of others, too
        named = {name for name in named if name.startswith("coda_cli/")}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert not missing, f"{document.name}: {', '.join(missing)}"


def test_the_architecture_names_every_folder_and_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    words = set(re.findall(r"[\w]+", text))
    for path in sorted((ROOT / "coda_cli").rglob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            assert path.stem in words, f"docs/architecture.md does not name {path.relative_to(ROOT)}"


def test_the_readmes_commands_run_in_the_order_given(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8").split("## Six things to do")[1]
    document_files.prepare(tmp_path, text)
    # Blocks that are marked "console" need files of the reader; those of Python have a test of their own.
    blocks = re.findall(r"^```sh\n.*?^```$", text, re.DOTALL | re.MULTILINE)
    commands = [step for block in blocks for step in documents.steps(block)]
    assert len(commands) >= 6
    reader = documents.Reader(tmp_path)
    for step in commands:
        reader.take(step)
    assert (tmp_path / "coda-out" / "church.church.overlay.png").exists()
    assert (tmp_path / "coda-out" / "clip.coda.mp4").exists()


@pytest.mark.parametrize(
    ("document", "made"),
    [
        ("README.md", "church.png"),
        ("docs/python.md", "out"),
        ("docs/neurons.md", "dictionary.pt"),
        ("docs/own-network.md", "bare.pth"),
    ],
)
def test_the_python_of_the_documents_runs(document: str, made: str, tmp_path: Path) -> None:
    document_files.prepare(tmp_path, "")
    reader = documents.Reader(tmp_path)
    codes = [step for step in documents.steps((ROOT / document).read_text("utf-8")) if step.language == "python"]
    assert codes
    for code in codes:
        reader.take(code)
    assert (tmp_path / made).exists()


def test_the_tutorial_is_what_its_commands_print_and_draw(tmp_path: Path) -> None:
    tutorial = ROOT / "docs" / "tutorial.md"
    done = list(documents.report(tutorial, tmp_path))
    failed = [f"{step.text}{said}" for status, _, step, said in done if status == "FAILED"]
    assert not failed, "\n".join(failed)
    left_out = [step.text for status, _, step, _ in done if status == "left out" and step.language == "sh"]
    assert all("efficientnet-lite0" in text or "jq" in text for text in left_out), left_out
    gallery, looked_at = program.example("gallery"), 0
    for picture, pattern in gallery.shown("tutorial"):
        if pattern.startswith(("clip", "mean/")) or (left_out and pattern.startswith("own/")):
            continue  # the test's clip is shorter; what is left out draws nothing
        with Image.open(picture) as kept:
            made = gallery.small(gallery.the_one(tmp_path, pattern))
            assert made.size == kept.size, picture
            off = np.abs(np.asarray(made, float) - np.asarray(kept.convert("RGB"), float)).mean()
        assert off < 4, f"{picture.name} is another picture than {pattern}: python examples/gallery.py tutorial"
        looked_at += 1
    assert looked_at > 6


def test_a_step_that_fails_and_a_line_that_is_not_printed_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\ncoda schema nothing\necho 7 pictures, p 0.5 | cat  # said\n```\n```text\n7 pictures, p 0.503\n```\n"
        "```text\n8 pictures, p 0.5\n```\n```console\ncoda models pull x-resnet50\n```\n```python\n1 / 0\n```\n"
    )
    done = list(documents.report(page, tmp_path / "folder"))
    assert [status for status, *_ in done] == ["FAILED", "ok", "ok", "FAILED", "left out", "FAILED"]
    assert "ZeroDivisionError" in done[-1][3]


def test_a_picture_that_no_command_draws_and_one_of_two_are_seen(tmp_path: Path) -> None:
    page, pictures = tmp_path / "page.md", "".join(f"![It](it.jpg)<!-- {name}.png -->\n" for name in ("a", "*", "c"))
    page.write_text(f"```sh\ncp photo.jpg a.png\ncp photo.jpg b.png\n```\n{pictures}")
    assert [(status, said[:7]) for status, _, step, said in documents.report(page, tmp_path / "folder")
            if step.language == "picture"] == [("ok", ""), ("FAILED", "2 files"), ("FAILED", "0 files")]  # fmt: skip


def test_lines_of_a_shell_are_taken_apart() -> None:
    assert documents.pipelines("a | coda explain - -o 'x y' < z &") == [
        [["a"], ["coda", "explain", "-", "-o", "x y", "<", "z"]]
    ]
    assert documents.pipelines("coda a && coda b  # && coda c") == [[["coda", "a"]], [["coda", "b"]]]
    assert documents.pipelines("# nothing") == []


def test_the_reference_is_made_of_the_docstrings_without_a_warning(tmp_path: Path) -> None:
    for library in ("mkdocs", "material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install -e '.[docs]'")
    # Without ruff, as where the site is built: mkdocstrings would start it for each of a thousand signatures.
    code = "import sys; sys.modules['ruff'] = None; from mkdocs.__main__ import cli; cli()"
    command = [sys.executable, "-c", code, "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    import coda_cli

    for name in coda_cli.__all__:
        assert f'id="coda_cli.{name}"' in page, name
    pages = {path.parent.name: path.read_text("utf-8") for path in (tmp_path / "site" / "api").glob("*/index.html")}
    everything = "".join(pages.values()) + page
    for path in (ROOT / "coda_cli").glob("*/**/*.py"):  # modules in folders
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "coda_cli.cli" not in module and path.stem not in ("__init__", "__main__"):
            assert f'id="{module}"' in everything, f"no page of docs/api/ shows {module}"


def test_the_site_names_pages_and_not_files_and_opens_pictures_at_their_size() -> None:
    pytest.importorskip("mkdocs")
    import mkdocs_hooks

    page = SimpleNamespace(file=SimpleNamespace(src_uri="start.md"))
    files = SimpleNamespace(get_file_from_path=("limits.md", "images/a.png").__contains__)
    text = "![A](docs/images/a.png) [docs/limits.md](docs/limits.md#x), [them](docs/limits.md), [log](CHANGELOG)"
    assert mkdocs_hooks.on_page_markdown(text, page, files) == (
        "[![A](images/a.png)](images/a.png) [limits](limits.md#x), [them](limits.md), log (`CHANGELOG`)"
    )
    page.file.src_uri = "maths.md"
    assert mkdocs_hooks.on_page_markdown("[limits.md](limits.md)", page, files) == "[limits](limits.md)"


def test_what_is_cited_is_complete() -> None:
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert sorted(paper["year"] for paper in cited["references"]) == [2021, 2022, 2023, 2024]
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    for paper in cited["references"]:
        assert {"type", "title", "authors", "year", "url"} <= set(paper)
        assert paper["title"] in readme


def test_the_changelog_begins_with_this_version_or_the_next() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    first, *_ = re.findall(r"^## (\S+) \((.*)\)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first[0] == version or first[1] == "unreleased"
