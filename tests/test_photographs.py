"""The runs on photographs: every task is a command that this release has, and rates are the best of their search."""

import runpy
import shlex
import sys

import pandas as pd
import pytest
from doit import doit_cmd
from layouts_on_disk import ROOT

from wsol_utils import __main__ as commands
from wsol_utils import experiments


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A function: the tasks of the file by their names, with these variables and the data sets' folders."""
    monkeypatch.chdir(ROOT)

    def load(**variables):
        usual = {"cub": "c", "ilsvrc": "my $photographs", "tiny": "t", "weights": "w", "results": str(tmp_path)}
        doit_cmd.reset_vars()
        for name, value in (usual | variables).items():
            doit_cmd.set_var(name, value)
        file = runpy.run_path(str(ROOT / "results" / "reference" / "photographs.py"))
        doit_cmd.reset_vars()
        for search in file["SEARCHES"].values():  # by accuracy, then by loss; a training that diverged is no choice
            tried = [("wgap", 1, 100, 0.9, 60), ("wgap", 0.3, 400, 0.8, 60)]
            tried += [("gap", 1, 10, None, None), ("gap", 0.1, 40, 2, 5)]
            columns = ["pooling", "lr_multiplier", "head_multiplier", "loss", "top1_cls"]
            (path := tmp_path / search.table).parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(tried, columns=columns).to_csv(path, index=False)
        return {
            f"{kind}:{task['name']}": task
            for kind in ("search", "reproduce", "keep")
            for task in file[f"task_{kind}"]()
        }

    return load


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_task_is_a_command_of_this_release(tasks, device, tmp_path):
    """Its options exist, its values make a configuration, and what it needs comes before it."""
    there = tasks(device=device)
    folders = {}
    for name, task in there.items():
        [action] = task["actions"]
        program, *words = shlex.split(action if isinstance(action, str) else action.action)
        assert set(task.get("task_dep", [])) <= set(there)
        if name.startswith("reproduce"):
            assert (program, words[0]) == ("make", "reproduce")
            values = {
                key.lower(): value.replace("$$", "$") for key, value in (word.split("=", 1) for word in words[1:])
            }
            config = experiments.configure(**values)
            assert config.device == device and config.data_root in ("c", "my $photographs", "t")
            folders[name] = str(config.folder)
            searched = {"wgap": 400.0, "gap": 40.0} if task["task_dep"] else {}
            assert searched.items() <= config.head_multiplier.items()
            continue
        assert (program, words[:2]) == (sys.executable, ["-m", "wsol_utils"])
        options = [
            sys.prefix if word.startswith(str(tmp_path)) and words[2] == "keep-reference" else word for word in words
        ]
        commands.main.commands[words[2]].make_context(words[2], options[3:])
        if name.startswith("keep"):
            assert words[3] == folders[task["task_dep"][0]]
    assert len(folders) == {"cpu": 6, "cuda": 8}[device]


def test_a_data_set_without_a_folder_is_left_out(tasks):
    there = tasks(cub="", tiny="")
    assert {name for name, task in there.items() if task["actions"]} == {
        f"{kind}:{name}" for kind in ("reproduce", "keep") for name in ("ilsvrc", "ilsvrc_lite0")
    }
