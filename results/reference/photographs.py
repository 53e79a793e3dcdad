"""The runs on real photographs whose figures results/reference keeps, as tasks of doit.

    doit -f results/reference/photographs.py cub=DIR ilsvrc=DIR tiny=DIR weights=FILE
    doit -f results/reference/photographs.py device=cuda cub=DIR …          # what a GPU can add
    doit list -f results/reference/photographs.py --all --status            # what there is, what it costs, what is done

A data set without a folder is left out. A step that was cut off goes on where it was: no network is trained twice, and
a search that is finished is not made again. `weights` is SqueezeNet 1.1 trained on ImageNet, a safetensors file. The
minutes are those of two cores of an AMD EPYC, up to three steps side by side: two hours for all. Nothing of device=cuda
was run.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from doit import get_var
from doit.action import CmdAction
from doit.tools import run_once

os.chdir(Path(__file__).resolve().parents[2])
DEVICE = get_var("device", "cpu")
GPU = DEVICE != "cpu"
RESULTS = get_var("results", "results/gpu" if GPU else "results")  # networks of a CPU are not to count as the card's
SEEDS, TINY_SEEDS = ("0,1,2,3,4", "0,1,2,3,4") if GPU else ("0,1,2", "0")
FOLDERS = {"cub": get_var("cub", ""), "ilsvrc": get_var("ilsvrc", ""), "tiny_imagenet": get_var("tiny", "")}
WEIGHTS = get_var("weights", "weights.safetensors")
DOIT_CONFIG = {"dep_file": f"{RESULTS}/.photographs.json", "backend": "record", "verbosity": 2}
PRETRAINED = f"{RESULTS}/scratch/paper/tiny_imagenet/seed0/tiny_imagenet_gap_from_scratch.safetensors"


class Search(NamedTuple):
    """Rates that are tried: of the head, for each pooling, with each multiple of the network's own."""

    dataset: str
    tried: str
    minutes: int
    profile: str = "light"
    weights: str = WEIGHTS

    @property
    def table(self) -> str:
        """Where what was tried is written."""
        return f"{RESULTS}/{self.profile}/{self.dataset}_validation/head_rates.csv"


class Run(NamedTuple):
    """A `make reproduce`, at the best rates of a search where one is named."""

    dataset: str
    words: str
    minutes: int
    search: str = ""
    folder: str = RESULTS
    profile: str = "light"
    weights: str = WEIGHTS


SEARCHES = {
    "cub": Search(
        "cub", "-p epochs 6 --multipliers 1,0.3,0.1 --rates gap=10,40,160 --rates wgap=25,100,400"
        " --rates wgap_sum=10,40,160", 32,
    ),
    "tiny_imagenet": Search("tiny_imagenet", "-p epochs 1 --rates gap=2.5,10,40,160 --rates wgap=2.5,10,40,160", 20),
}  # fmt: skip
# GAP and WGAP at one rate of the network, that which the search gave to either, each with the head's rate that was best
# there: a search may give them different ones, and a slowly tuned network localises differently.
EQUAL = f"POOLINGS=gap,wgap SEEDS={SEEDS}"
SLOW = f"{EQUAL} LR_MULTIPLIER=gap=0.3,wgap=0.3 HEAD_MULTIPLIER=gap=160,wgap=100"
FAST = f"{EQUAL} LR_MULTIPLIER=gap=1,wgap=1 HEAD_MULTIPLIER=gap=40,wgap=100"
RUNS = {  # by the names that results/reference keeps their tables under
    "cub": Run("cub", f"POOLINGS=gap,wgap,wgap_sum SEEDS={SEEDS}", 33, "cub"),
    "ilsvrc": Run("ilsvrc", "", 4),
    "ilsvrc_lite0": Run("ilsvrc", "BACKBONE=efficientnet_lite0", 4, folder=f"{RESULTS}/lite0", weights="imagenet"),
    "tiny_imagenet": Run("tiny_imagenet", f"SEEDS={TINY_SEEDS}", 37, "tiny_imagenet"),
    "cub_slow": Run("cub", SLOW, 23, folder=f"{RESULTS}/slow"),
    "cub_fast": Run("cub", FAST, 20, folder=f"{RESULTS}/fast"),
}
if GPU:  # the paper's own backbone, with the pre-training that Tiny-ImageNet allows, at usual rates, not searched ones
    RUNS["tiny_imagenet_vgg16"] = Run(
        "tiny_imagenet", "POOLINGS=gap IMAGE_SIZE=128 RESIZE_SIZE=144 EPOCHS=40 LR=3e-4 HEAD_MULTIPLIER=gap=1"
        " OPTIMIZER=adamw SCHEDULE=onecycle WEIGHT_DECAY=0.05", 0, "", f"{RESULTS}/scratch", "paper", "scratch",
    )  # fmt: skip
    SEARCHES["cub_vgg16"] = Search(
        "cub", "-p epochs 25 --multipliers 10,30,100 --rates gap=1,10,100 --rates wgap=10,100,1000"
        " --rates wgap_sum=0.03,0.1,1", 0, "paper", PRETRAINED,
    )  # fmt: skip
    VGG = f"POOLINGS=gap,wgap,wgap_sum SEEDS={SEEDS}"
    RUNS["cub_vgg16"] = Run("cub", VGG, 0, "cub_vgg16", profile="paper", weights=PRETRAINED)


def best(path: str) -> list[str]:
    """Return the best rates of a search, by accuracy, then by loss, as words for `make reproduce`."""
    tried = pd.read_csv(path).sort_values(["top1_cls", "loss"], ascending=[False, True], kind="stable")
    found = tried.drop_duplicates("pooling").sort_index().to_dict("records")
    names = ("lr_multiplier", "head_multiplier")
    return [f"{name.upper()}=" + ",".join(f"{row['pooling']}={row[name]:g}" for row in found) for name in names]


def cost(minutes: int) -> str:
    """Return the duration of a step for `doit list`."""
    return "not measured" if GPU else f"{minutes} minutes"


def of_wsol_utils(dataset: str, *words: str) -> list[str]:
    """Return a command of wsol_utils in this environment, or none where the data set has no folder."""
    return [shlex.join([sys.executable, "-m", "wsol_utils", *words])] if FOLDERS[dataset] else []


def make(run: Run) -> str:
    """Return what to type for a run; a dollar is doubled for make."""
    given = {"DATASET": run.dataset, "PROFILE": run.profile, "DATA_ROOT": FOLDERS[run.dataset], "WEIGHTS": run.weights}
    given |= {"RESULTS": run.folder, "DEVICE": DEVICE}
    values = [f"{name}={value.replace('$', '$$')}" for name, value in given.items()]
    rates = best(SEARCHES[run.search].table) if run.search else []
    return shlex.join(["make", "reproduce", *values, *run.words.split(), *rates])


def task_search():
    """Rates of the network and its head, tried on a validation part of the train split."""
    for name, search in SEARCHES.items():
        given = ["--profile", search.profile, "--data-root", FOLDERS[search.dataset], "--weights", search.weights]
        given += ["--results", RESULTS, "-p", "device", DEVICE]
        words = ["tune-heads", search.dataset, *given, *search.tried.split()]
        yield {
            "name": name, "doc": cost(search.minutes), "actions": of_wsol_utils(search.dataset, *words),
            "targets": [search.table], "uptodate": [run_once],
            "task_dep": ["reproduce:tiny_imagenet_vgg16"] if search.weights == PRETRAINED else [],
        }  # fmt: skip


def task_reproduce():
    """`make reproduce`, at the best rates where there is a search."""
    for name, run in RUNS.items():
        yield {
            "name": name, "doc": cost(run.minutes), "task_dep": [f"search:{run.search}"] if run.search else [],
            "actions": [CmdAction(lambda run=run: make(run))] if FOLDERS[run.dataset] else [],
        }  # fmt: skip


def task_keep():
    """The tables of a finished run go to results/reference."""
    for name, run in RUNS.items():
        words = ["keep-reference", f"{run.folder}/{run.profile}/{run.dataset}"]
        words += ["--name", f"{'gpu' if GPU else 'light'}/{name}"]
        yield {
            "name": name, "doc": "seconds", "task_dep": [f"reproduce:{name}"],
            "actions": of_wsol_utils(run.dataset, *words),
        }  # fmt: skip
