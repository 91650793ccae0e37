"""What others' machines run: workflows take no more rights than they need, the container none of its user's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# Jobs that may do more than read the source, and what they need it for.
RIGHTS = {
    ("release", "publish"): {"id-token": "write"},
    ("documentation", "publish"): {"pages": "write", "id-token": "write"},
}
PINNED = re.compile(r"^ +- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
PYTHONS = ["3.11", "3.12", "3.13"]


def faults(text: str) -> list[str]:
    """What is wrong with a workflow."""
    found = [f"not pinned by hash and version: {line}" for line in text.splitlines()
             if "uses:" in line and not PINNED.match(line)]  # fmt: skip
    workflow: dict[Any, Any] = yaml.safe_load(text)
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("may do more than read")
    if "pull_request_target" in text:
        found.append("gives strangers' code its rights")
    for name, job in workflow["jobs"].items():
        if job.get("permissions", {}) != RIGHTS.get((workflow["name"], name), {}):
            found.append(f"{name} has other rights than it needs")
        if "timeout-minutes" not in job:
            found.append(f"{name} may run for ever")
        for step in job["steps"]:
            if "${{" in step.get("run", ""):  # a name of a branch could be a command
                found.append(f"{name} pastes a value into a command: {step['run']}")
            if "actions/checkout" in step.get("uses", "") and step["with"]["persist-credentials"]:
                found.append(f"{name} leaves its token on the disk")
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_does_what_it_needs_and_no_more(path: Path) -> None:
    text = path.read_text("utf-8")
    assert faults(text) == []
    for name in re.findall(r"tests/\w+\.py", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("line", "instead", "fault"),
    [
        ("08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0", "v5", "not pinned"),
        ("  contents: read", "  contents: write", "may do more"),
        ("  pull_request:", "  pull_request_target:", "strangers"),
        ("    timeout-minutes: 120\n", "", "suite may run for ever"),
        ("    timeout-minutes: 120\n", "    timeout-minutes: 1\n    permissions: {packages: write}\n", "other rights"),
        ("- run: .ci/run", "- run: .ci/run ${{ github.head_ref }}", "pastes a value"),
        ("{persist-credentials: false}", "{persist-credentials: true}", "leaves its token"),
    ],
)
def test_a_fault_is_seen(line: str, instead: str, fault: str) -> None:
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    assert line in text
    assert any(fault in found for found in faults(text.replace(line, instead, 1)))


def test_the_workflows_try_the_same_versions_of_python() -> None:
    tried = {name: yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text("utf-8"))["jobs"][job]
             for name, job in (("tests.yml", "suite"), ("wheel.yml", "wheel"))}  # fmt: skip
    assert {name: job["strategy"]["matrix"]["python"] for name, job in tried.items()} == dict.fromkeys(tried, PYTHONS)


def test_the_container_runs_coda_as_a_user_without_rights() -> None:
    text = (ROOT / "Containerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    last = lines[max(n for n, line in enumerate(lines) if line.startswith("FROM")) :]
    assert [line for line in last if line.startswith("USER")] == ["USER 1000"]
    assert 'ENTRYPOINT ["coda"]' in last
    assert not [line for line in last if "COPY" in line and "--from=built" not in line]  # no source, no tools
    assert all(re.match(r"FROM [\w/.]+:\d+\.\d+", line) for line in lines if line.startswith("FROM"))
    if shutil.which("hadolint"):
        run = subprocess.run(["hadolint", "-"], input=text, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout
