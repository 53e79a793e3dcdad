"""The runs on photographs: every step is a command that this release has, rates are the best of their search."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise

import pandas as pd
import pytest
from click.testing import CliRunner

from wsol_utils import __main__ as commands
from wsol_utils import evidence, experiments

FILLED = {"cub": "c", "ilsvrc": "i", "tiny": "t", "weights": "w.safetensors", "results": "elsewhere"}
STEPS = [*evidence.CPU, *evidence.GPU]


@pytest.fixture
def searched(tmp_path):
    """A search: by accuracy, then by loss; a training that diverged is no choice."""
    tried = pd.DataFrame(
        [
            ("wgap", 1, 100, 0.9, 60.0),
            ("wgap", 0.3, 400, 0.8, 60.0),
            ("gap", 1, 10, None, None),
            ("gap", 0.1, 40, 2, 5),
        ],
        columns=["pooling", "lr_multiplier", "head_multiplier", "loss", "top1_cls"],
    )
    tried.to_csv(tmp_path / "head_rates.csv", index=False)
    return tmp_path / "head_rates.csv"


def test_best_rates(searched):
    assert evidence.rates(searched) == ["LR_MULTIPLIER=wgap=0.3,gap=0.1", "HEAD_MULTIPLIER=wgap=400,gap=40"]
    assert evidence.rates(searched.with_name("none.csv")) == ["LR_MULTIPLIER=…", "HEAD_MULTIPLIER=…"]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.words[:60])
def test_every_step_is_a_command_of_this_release(step, searched, monkeypatch):
    """Its options exist, and its values make a configuration."""
    monkeypatch.setattr(evidence, "rates", lambda path: ["LR_MULTIPLIER=wgap=0.3", "HEAD_MULTIPLIER=wgap=400"])
    name, *rest = step.filled(**FILLED)
    assert re.fullmatch(r"\d+ min|seconds", step.cost)
    if name == "reproduce":
        values = {key.lower(): value for key, _, value in (word.partition("=") for word in rest)}
        config = experiments.configure(**values)
        assert config.recipe("gap").epochs > 0 and config.results.startswith("elsewhere")
        return
    command = commands.main.commands[name]
    command.make_context(name, [sys.prefix if word.startswith("elsewhere") else word for word in rest])
    for option, value in pairwise(rest):
        assert option != "--rates" or value.partition("=")[0] in ("gap", "wgap", "wgap_sum")


@pytest.mark.parametrize("steps", [evidence.CPU, evidence.GPU])
def test_a_step_follows_what_it_needs(steps):
    """A search is for the very data set and profile, and what it found is used."""
    searches, runs = [], []
    for step in steps:
        words = step.words.split()
        if words[0] == "tune-heads":
            searches.append(f"{{results}}/{words[words.index('--profile') + 1]}/{words[1]}_validation/head_rates.csv")
        if words[0] == "reproduce":
            values = dict(word.split("=", 1) for word in words[1:])
            runs.append(f"{values['RESULTS']}/{values['PROFILE']}/{values['DATASET']}/")
        assert not step.searched or step.searched in searches
        assert not step.after or any(step.after.startswith(run) for run in runs)
    assert sorted(searches) == sorted(step.searched for step in steps if step.searched)
    assert sorted(run.rstrip("/") for run in runs) == sorted(s.words.split()[1] for s in steps if "keep-ref" in s.words)


def test_what_is_shown_can_be_typed(searched):
    places = [word for name, place in FILLED.items() for word in (f"--{name}", place)]
    shown = CliRunner().invoke(commands.main, ["reference-photographs", "--show", *places]).output.splitlines()
    assert [line for line in shown if not line.startswith("# ")] == [step.typed(**FILLED) for step in evidence.CPU]
    assert evidence.CPU[2].typed(**FILLED) == "python -m wsol_utils keep-reference elsewhere/light/cub"
    start = "make reproduce DATASET=ilsvrc DATA_ROOT=i PROFILE=light WEIGHTS=w.safetensors"
    assert evidence.CPU[3].typed(**FILLED).startswith(start)
    odd = FILLED | {"ilsvrc": "my $photographs"}
    assert shlex.split(evidence.CPU[3].typed(**odd))[3] == "DATA_ROOT=my $$photographs"  # as make wants it


def test_steps_run_in_turn(monkeypatch):
    seen = []
    monkeypatch.setattr(subprocess, "run", lambda command, **values: seen.append(command[2:]))
    arguments = ["reference-photographs", "--ilsvrc", "i", "--weights", "w", "--results", "elsewhere"]
    result = CliRunner().invoke(commands.main, arguments)
    assert result.exit_code == 0 and result.output.count("left out, for want of --cub:") == 4
    assert "for want of elsewhere/light/tiny_imagenet/manifest.json: python -m wsol_utils keep-ref" in result.output
    [command] = seen
    assert command[0] == "doit" and "DATASET=ilsvrc" in command and "DATA_ROOT=i" in command


def test_what_is_finished_is_not_searched_again(monkeypatch, tmp_path, searched):
    seen = []
    monkeypatch.setattr(subprocess, "run", lambda command, **values: seen.append(command[2:]))
    kept = tmp_path / "light" / "cub_validation" / "head_rates.csv"
    kept.parent.mkdir(parents=True)
    arguments = ["reference-photographs", "--cub", "c", "--weights", "w", "--results", str(tmp_path)]
    first = CliRunner().invoke(commands.main, arguments).output
    assert [command[0] for command in seen] == ["wsol_utils", "doit", "doit"]  # slow and fast ask for no search
    assert seen[0][1] == "tune-heads" and f"for want of {kept}: make reproduce" in first
    seen.clear()
    searched.rename(kept)
    second = CliRunner().invoke(commands.main, arguments).output
    assert "finished before: python -m wsol_utils tune-heads" in second
    assert [command[0] for command in seen] == ["doit"] * 3 and "HEAD_MULTIPLIER=wgap=400,gap=40" in seen[0]


def test_a_gpu_has_results_of_its_own(monkeypatch):
    shown = [
        CliRunner().invoke(commands.main, ["reference-photographs", "--show", *more]).output for more in ([], ["--gpu"])
    ]
    for text, folder, device in zip(shown, ("results", "results/gpu"), ("cpu", "cuda"), strict=True):
        runs = [line for line in text.splitlines() if line.startswith("make reproduce")]
        assert runs and all(f"DEVICE={device}" in line and f"RESULTS={folder}" in line for line in runs)


def test_a_step_that_fails_ends_it(monkeypatch):
    def fail(command, **values):
        raise subprocess.CalledProcessError(3, command)

    monkeypatch.setattr(subprocess, "run", fail)
    result = CliRunner().invoke(commands.main, ["reference-photographs", "--ilsvrc", "i", "--weights", "w"])
    assert result.exit_code == 1 and "that step failed (3)" in result.output
