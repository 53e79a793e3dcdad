"""The runs on real photographs whose figures results/reference keeps: a list of commands for each kind of machine.

A step that was cut off goes on where it was; a search that is finished is not made again, nor a network trained twice.
Data sets and weights are not ours to publish: what is kept are tables.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd

from wsol_utils.common.files import ROOT

PROGRAM = {"reproduce": "make reproduce"}  # all other commands are of `python -m wsol_utils`


@dataclass(frozen=True)
class Step:
    """A command: `make reproduce`, or one of `python -m wsol_utils`.

    Attributes:
        words: its name and arguments; the PLACES among them are filled in.
        cost: what it takes.
        searched: the table of `tune-heads` whose best rates it is given, too.
        after: a file of an earlier step that it needs.
        once: the file that it writes at its very end: where that is, it is left out.
    """

    words: str
    cost: str = "seconds"
    searched: str = ""
    after: str = ""
    once: str = ""

    def missing(self, **places: str) -> list[str]:
        """What it cannot be done without: options that were not given, the file of an earlier step."""
        options = [f"--{name}" for name, place in places.items() if place == f"{{{name}}}" and place in self.words]
        earlier = [path.format(**places) for path in (self.searched, self.after) if path]
        return options or [path for path in earlier if not (ROOT / path).is_file()]

    def is_finished(self, **places: str) -> bool:
        """Whether it is one of those that are not done again, and done."""
        return bool(self.once) and (ROOT / self.once.format(**places)).is_file()

    def filled(self, **places: str) -> list[str]:
        """The words one by one; rates that are still to be searched stand as "…"."""
        words = [word.format(**places) for word in self.words.split()]
        return words + rates(ROOT / self.searched.format(**places)) if self.searched else words

    def typed(self, **places: str) -> str:
        """What to type for it."""
        name, *rest = self.filled(**places)
        if name in PROGRAM:  # a dollar is make's own
            return f"{PROGRAM[name]} {shlex.join(rest).replace('$', '$$')}"
        return f"python -m wsol_utils {name} {shlex.join(rest)}"

    def run(self, **places: str) -> None:
        """Do it, in this environment.

        Raises:
            subprocess.CalledProcessError: if it fails; it has said why.
        """
        name, *rest = self.filled(**places)
        program = ["doit", "--file", str(ROOT / "dodo.py"), "run"] if name in PROGRAM else ["wsol_utils", name]
        subprocess.run([sys.executable, "-m", *program, *rest], check=True, cwd=ROOT)


def keep(run: str, name: str = "") -> Step:
    """The step that keeps a run's tables."""
    return Step(f"keep-reference {run}" + (f" --name {name}" if name else ""), after=f"{run}/manifest.json")


def best(tried: pd.DataFrame) -> pd.DataFrame:
    """The row of each pooling that `stages.head_rates` found best: by accuracy, then by loss; in order of the table."""
    ordered = tried.sort_values(["top1_cls", "loss"], ascending=[False, True], kind="stable")
    return ordered.drop_duplicates("pooling").sort_index()


def rates(path: Path) -> list[str]:
    """The best rates of a search, as words for `make reproduce`."""
    names = ("lr_multiplier", "head_multiplier")
    if not path.is_file():
        return [f"{name.upper()}=…" for name in names]
    found = best(pd.read_csv(path)).to_dict("records")
    return [f"{name.upper()}=" + ",".join(f"{row['pooling']}={row[name]:g}" for row in found) for name in names]


# SqueezeNet from ImageNet weights, for a machine without a GPU.
PLACES = {
    "cub": "CUB-200-2011, all of it or some classes", "ilsvrc": "ILSVRC, the validation photographs or some of them",
    "tiny": "Tiny-ImageNet-200, all of it or a part", "weights": "SqueezeNet 1.1 trained on ImageNet, safetensors",
    "results": "folder to write to",
}  # fmt: skip
LIGHT = "PROFILE=light WEIGHTS={weights}"
CUB = f"reproduce DATASET=cub DATA_ROOT={{cub}} {LIGHT} RESULTS={{results}} POOLINGS=gap,wgap,wgap_sum"
ILSVRC = f"reproduce DATASET=ilsvrc DATA_ROOT={{ilsvrc}} {LIGHT} RESULTS={{results}}"
TINY = f"reproduce DATASET=tiny_imagenet DATA_ROOT={{tiny}} {LIGHT} RESULTS={{results}}"
# GAP and WGAP at one rate of the network, that which the search gave to either, each with the head's rate that was best
# there: a search may give them different ones, and a slowly tuned network localises differently.
EQUAL = f"reproduce DATASET=cub DATA_ROOT={{cub}} {LIGHT} POOLINGS=gap,wgap"
FAST = f"{EQUAL} RESULTS={{results}}/fast LR_MULTIPLIER=gap=1,wgap=1 HEAD_MULTIPLIER=gap=40,wgap=100"
SLOW = f"{EQUAL} RESULTS={{results}}/slow LR_MULTIPLIER=gap=0.3,wgap=0.3 HEAD_MULTIPLIER=gap=160,wgap=100"
OF_CUB = "{results}/light/cub_validation/head_rates.csv"
OF_TINY = "{results}/light/tiny_imagenet_validation/head_rates.csv"
TUNE_LIGHT = "--profile light --weights {weights} --results {results}"
TUNE_CUB = (
    f"tune-heads cub --data-root {{cub}} {TUNE_LIGHT} --epochs 6 --multipliers 1,0.3,0.1"
    " --rates gap=10,40,160 --rates wgap=25,100,400 --rates wgap_sum=10,40,160"
)
TUNE_TINY = (
    f"tune-heads tiny_imagenet --data-root {{tiny}} {TUNE_LIGHT} --epochs 1"
    " --rates gap=2.5,10,40,160 --rates wgap=2.5,10,40,160"
)
CPU = (  # minutes on two cores of an AMD EPYC, up to three steps and the tests side by side: two hours for all of them
    Step(f"{TUNE_CUB} --device cpu", "32 min", once=OF_CUB),
    Step(f"{CUB} SEEDS=0,1,2 DEVICE=cpu", "33 min", OF_CUB),
    keep("{results}/light/cub"),
    Step(f"{ILSVRC} DEVICE=cpu", "4 min"),
    keep("{results}/light/ilsvrc"),
    Step(f"{TUNE_TINY} --device cpu", "20 min", once=OF_TINY),
    Step(f"{TINY} DEVICE=cpu", "37 min", OF_TINY),
    keep("{results}/light/tiny_imagenet"),
    Step(f"{SLOW} SEEDS=0,1,2 DEVICE=cpu", "23 min"),
    keep("{results}/slow/light/cub", "light/cub_slow"),
    Step(f"{FAST} SEEDS=0,1,2 DEVICE=cpu", "20 min"),
    keep("{results}/fast/light/cub", "light/cub_fast"),
)

# The same on a GPU with more seeds, and the paper's own backbone with the pre-training that Tiny-ImageNet allows: its
# rates from scratch are usual ones, not searched. None of this was run. Costs are arithmetic: images × 3 × VGG-16's
# forward pass (31 GFLOP at 224 px, 10 at 128 px) at a tenth of an H100's bfloat16 peak of 990 TFLOP/s, and notebooks
# 03 to 06 on the CPU as long as they took for the list above.
SCRATCH = (
    "reproduce DATASET=tiny_imagenet PROFILE=paper DATA_ROOT={tiny} RESULTS={results}/scratch WEIGHTS=scratch"
    " POOLINGS=gap IMAGE_SIZE=128 RESIZE_SIZE=144 EPOCHS=40 LR=3e-4 HEAD_MULTIPLIER=gap=1 OPTIMIZER=adamw"
    " SCHEDULE=onecycle WEIGHT_DECAY=0.05 DEVICE=cuda"
)
PRETRAINED = "{results}/scratch/paper/tiny_imagenet/seed0/tiny_imagenet_gap_from_scratch.safetensors"
OF_VGG = "{results}/paper/cub_validation/head_rates.csv"
TUNE_VGG = (
    f"tune-heads cub --data-root {{cub}} --profile paper --weights {PRETRAINED} --results {{results}} --epochs 25"
    " --multipliers 10,30,100 --rates gap=1,10,100 --rates wgap=10,100,1000 --rates wgap_sum=0.03,0.1,1 --device cuda"
)
VGG = (
    f"reproduce DATASET=cub PROFILE=paper DATA_ROOT={{cub}} WEIGHTS={PRETRAINED} RESULTS={{results}}"
    " POOLINGS=gap,wgap,wgap_sum SEEDS=0,1,2,3,4 DEVICE=cuda"
)
GPU = (  # its results are another folder's: networks that a CPU trained are not to count as the card's
    Step("benchmarks --gpu", "5 min"),
    Step(f"{TUNE_CUB} --device cuda", "5 min", once=OF_CUB),
    Step(f"{CUB} SEEDS=0,1,2,3,4 DEVICE=cuda", "15 min", OF_CUB),
    keep("{results}/light/cub", "gpu/cub"),
    Step(f"{ILSVRC} DEVICE=cuda", "4 min"),
    keep("{results}/light/ilsvrc", "gpu/ilsvrc"),
    Step(f"{TUNE_TINY} --device cuda", "5 min", once=OF_TINY),
    Step(f"{TINY} SEEDS=0,1,2,3,4 DEVICE=cuda", "65 min", OF_TINY),
    keep("{results}/light/tiny_imagenet", "gpu/tiny_imagenet"),
    Step(f"{SLOW} SEEDS=0,1,2,3,4 DEVICE=cuda", "10 min"),
    keep("{results}/slow/light/cub", "gpu/cub_slow"),
    Step(f"{FAST} SEEDS=0,1,2,3,4 DEVICE=cuda", "10 min"),
    keep("{results}/fast/light/cub", "gpu/cub_fast"),
    Step(SCRATCH, "10 min"),
    keep("{results}/scratch/paper/tiny_imagenet", "gpu/tiny_imagenet_vgg16"),
    Step(TUNE_VGG, "10 min", after=PRETRAINED, once=OF_VGG),
    Step(VGG, "25 min", OF_VGG, PRETRAINED),
    keep("{results}/paper/cub", "gpu/cub_vgg16"),
)


def need_gpu() -> None:
    """Stop where there is none: its figures are to be a GPU's.

    Raises:
        click.ClickException: saying so.
    """
    import torch

    if not torch.cuda.is_available():
        raise click.ClickException("--gpu is for a machine with a CUDA GPU, and torch finds none here")


@click.command("reference-photographs")
@click.option("--cub", default="{cub}", help=PLACES["cub"])
@click.option("--ilsvrc", default="{ilsvrc}", help=PLACES["ilsvrc"])
@click.option("--tiny", default="{tiny}", help=PLACES["tiny"])
@click.option("--weights", default="{weights}", help=PLACES["weights"])
@click.option("--results", default="results", show_default=True, help=PLACES["results"])
@click.option("--gpu", is_flag=True, help="the list for a machine with a GPU")
@click.option("--show", is_flag=True, help="print the commands and what each costs, and run none")
def reference_photographs(gpu: bool, show: bool, **places: str) -> None:
    """Measure again what results/reference holds of photographs: step by step, each going on where it was cut off.

    A step whose data set was not named, or whose earlier step was left out, is left out.
    """
    if gpu:
        places["results"] += "/gpu"
        if not show:
            need_gpu()
    for step in GPU if gpu else CPU:
        if show:
            click.echo(f"# {step.cost}\n{step.typed(**places)}")
            continue
        if step.is_finished(**places):
            click.echo(f"finished before: {step.typed(**places)}")
            continue
        if missing := step.missing(**places):
            click.echo(f"left out, for want of {' and '.join(missing)}: {step.typed(**places)}")
            continue
        click.echo(step.typed(**places))
        try:
            step.run(**places)
        except subprocess.CalledProcessError as error:
            raise click.ClickException(f"that step failed ({error.returncode}): mend it and run this again") from error
