"""Dependencies and their page, pre-commit and the workflow."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# docs/dependencies.md.

PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    part = text("docs/dependencies.md").split(f"## {section}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\|.*\|$", part, re.M)][2:]


@pytest.mark.parametrize(
    ("section", "dependencies"),
    [("What a run needs", PROJECT["dependencies"]), ("What the tests need besides", EXTRAS)],
)
def test_every_dependency_has_a_row_and_no_row_is_stale(section, dependencies):
    expected = {canonicalize_name(Requirement(line).name) for line in dependencies}
    found = [canonicalize_name(name.strip("`")) for name, *_ in rows(section)]
    assert sorted(found) == sorted(expected), "docs/dependencies.md and pyproject.toml differ"
    assert all(len(row) == 3 and all(row) for row in rows(section))


def test_what_is_written_by_hand_names_modules_that_are_there():
    written = rows("What is written by hand, and why")
    assert len(written) > 5 and all(len(row) == 4 and all(row) for row in written)
    named = {name for row in written for name in re.findall(r"`(\w+)`", row[1])}
    assert named <= {path.stem for path in (ROOT / "wsol_utils").rglob("*.py")} | {"boxes", "sample"}


# .pre-commit-config.yaml and the workflow.

HOOKS = {repo["repo"]: repo for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]}


def test_pre_commit_is_pinned_and_has_the_environments_ruff():
    [ruff] = [repo for url, repo in HOOKS.items() if url.endswith("/ruff-pre-commit")]
    [pinned] = re.findall(r"^ruff==(\S+)$", text("constraints.txt"), flags=re.MULTILINE)
    assert ruff["rev"] == f"v{pinned}" and {hook["id"] for hook in ruff["hooks"]} == {"ruff-check", "ruff-format"}
    assert all({"python", "jupyter"} <= set(hook["types_or"]) for hook in ruff["hooks"])
    assert all(url == "local" or re.fullmatch(r"v\d+\.\d+\.\d+", repo["rev"]) for url, repo in HOOKS.items())


def test_files_end_as_pre_commit_wants_them():
    """Its checks of files, by hand: they cannot be downloaded where tests do without a network."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    hooks = {hook["id"]: hook for repo in HOOKS.values() for hook in repo["hooks"]}
    excluded = re.compile(hooks["trailing-whitespace"]["exclude"])
    [largest] = (int(word.removeprefix("--maxkb=")) for word in hooks["check-added-large-files"]["args"])
    wrong = []
    for name in (name for name in listed.split("\0") if (ROOT / name).is_file()):  # else removed, still in the index
        content = (ROOT / name).read_bytes()
        whole_lines = re.search(rb"[ \t\r]+$", content, flags=re.MULTILINE) is None
        ends_well = not content or (content.endswith(b"\n") and not content.endswith(b"\n\n"))
        prose = not (b"\0" in content or excluded.search(name))
        if len(content) > 1024 * largest or (prose and not (whole_lines and ends_well)):
            wrong.append(name)
    assert wrong == []


def test_the_workflow_calls_make_test():
    workflow = yaml.safe_load(text(".github/workflows/test.yml"))
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML takes the key "on" for true
    [job] = workflow["jobs"].values()
    assert PROJECT["requires-python"].removeprefix(">=") in job["strategy"]["matrix"]["python"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[-1].split()[:2] == ["make", "test"] and "chromium" in commands[0]
    assert "make test" in text(".ci/run")
