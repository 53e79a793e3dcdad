"""The README: its tables are those of results/reference, its links resolve, and each of its commands is run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from layouts_on_disk import ROOT

from wsol_utils import __main__ as commands
from wsol_utils import reference

README = (ROOT / "README.md").read_text(encoding="utf-8")
TESTS = ROOT / "tests"

TWO_MACHINES = "test_processes.py::test_two_machines_train_and_predict_by_the_command_line"
# How each command of the README is run by the tests: a pattern -> where. What takes long is cut down there.
RUN = {
    r"make reproduce( .*)?": "test_dodo.py::test_whole_run",
    r"make test": "",  # this very command
    r"make verify.*": "test_dodo.py::test_make_finds_the_run_finished_and_verifies_it",
    r"papermill notebooks/04_threshold_selection.ipynb .*": "test_notebook_errors.py::test_papermill_by_hand",
    r"python -m wsol_utils evaluate .*": "test_score_maps.py::test_the_command_prints_a_table",
    r"python -m wsol_utils localize .*": "test_command_line.py::test_files_are_written",
    r".venv/bin/doit -f .*photographs.py .*": "test_photographs.py::test_every_task_is_a_command_of_this_release",
    r"python -m wsol_utils download .*": "test_download.py::test_the_command_fetches_and_unpacks_once",
    r"export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1": TWO_MACHINES,
    r"torchrun .*-m wsol_utils (train|predict) .*": TWO_MACHINES,
}


def given_commands():
    """The lines of indented blocks that begin with a program, comments and continuations taken care of."""
    text = re.sub(r"\\\n\s+", "", README)
    lines = [line[4:].split("  #")[0].strip() for line in text.splitlines() if line.startswith("    ")]
    return [
        line for line in lines if re.match(r"(make|python|\.venv/bin/doit|papermill|torchrun|export|conda|pip) ", line)
    ]


@pytest.mark.parametrize("command", given_commands())
def test_every_command_is_run_by_a_test(command):
    [(_, where)] = [(pattern, where) for pattern, where in RUN.items() if re.fullmatch(pattern, command)]
    if where:
        file, _, name = where.partition("::")
        assert re.search(rf"^def {name}\b", (TESTS / file).read_text(encoding="utf-8"), flags=re.MULTILINE), where


def test_there_are_commands_and_none_is_forgotten():
    found = given_commands()
    assert len(found) >= 8
    assert [pattern for pattern in RUN if not any(re.fullmatch(pattern, command) for command in found)] == [
        r"make verify.*", r"python -m wsol_utils download .*",  # in a sentence, in a table
    ]  # fmt: skip


@pytest.mark.parametrize("words", sorted(set(re.findall(r"python -m wsol_utils ([\w-]+)", README))))
def test_every_subcommand_exists(words):
    result = CliRunner().invoke(commands.main, [words, "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", [c for c in given_commands() if "wsol_utils" in c])
def test_every_option_exists(command):
    words = shlex.split(re.sub(r"[\[\]|…]", " ", command))
    words = words[words.index("wsol_utils") + 1 :]
    said = CliRunner().invoke(commands.main, [words[0], "--help"]).output
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", said), option


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z]+)", README))))
def test_every_target_of_make_exists(target):
    finished = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_every_word_of_a_run_is_known():
    words = set(re.findall(r"`([A-Z_]{4,})(?:=[^`]*)?`", README)) - {"DATA_ROOT"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert words and not {word for word in words if not re.search(rf"\b{word}\b", makefile)}


@pytest.mark.parametrize("name", ["results", "steps", "rates", "speed"])
def test_a_table_is_that_of_the_reference(name):
    of = {"results": reference.overview, "steps": reference.steps, "rates": reference.equal_rates}
    table = of.get(name, reference.speed)()
    assert README.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0] == table


def test_links_resolve():
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", README) if "://" not in link]
    assert links and not [link for link in links if not (ROOT / link).exists()]


def test_links_within_the_page_resolve():
    headings = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert {link for link in re.findall(r"\]\(#([^)]+)\)", README)} <= headings


def test_every_folder_of_the_package_is_named():
    part = README.split("## What is where")[1].split("\n## ")[0]
    named = re.findall(r"^ {6}(\w+) ", part.split("    wsol_utils/")[1].split("\n    data/")[0], flags=re.MULTILINE)
    assert sorted(named) == sorted(path.parent.name for path in Path(ROOT, "wsol_utils").glob("*/__init__.py"))


def test_the_python_that_it_asks_for():
    [needed] = re.findall(r"Python ≥ (\d+\.\d+)", README)
    assert f'requires-python = ">={needed}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert sys.version_info >= tuple(map(int, needed.split(".")))
