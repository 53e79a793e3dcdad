"""The runs on real photographs whose figures results/reference keeps: a list of commands for each kind of machine.

Every step goes on where it was cut off, and does nothing where it is finished. Data sets and weights are not ours to
publish: what is kept are tables.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = {"reproduce": "make reproduce"}  # all other commands are of `python -m wsol_utils`


@dataclass(frozen=True)
class Step:
    """A command: `make reproduce`, or one of `python -m wsol_utils`.

    Attributes:
        words: its name and arguments; the PLACES among them are filled in.
        cost: what it takes.
        searched: the table of `tune-heads` whose best rates it is given, too.
        after: a file of an earlier step that it needs.
    """

    words: str
    cost: str = "seconds"
    searched: str = ""
    after: str = ""

    def missing(self, **places: str) -> list[str]:
        """What it cannot be done without: options that were not given, the file of an earlier step."""
        options = [f"--{name}" for name, place in places.items() if place == f"{{{name}}}" and place in self.words]
        after = self.after.format(**places)
        return options or ([after] if after and not (ROOT / after).is_file() else [])

    def filled(self, **places: str) -> list[str]:
        """The words one by one; rates that are still to be searched stand as "…"."""
        words = [word.format(**places) for word in self.words.split()]
        return words + rates(ROOT / self.searched.format(**places)) if self.searched else words

    def typed(self, **places: str) -> str:
        """What to type for it."""
        name, *rest = self.filled(**places)
        return f"{PROGRAM.get(name, f'python -m wsol_utils {name}')} {shlex.join(rest)}"

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
TUNE_CUB = (
    "tune-heads cub --profile light --data-root {cub} --weights {weights} --results {results} --epochs 6"
    " --multipliers 1,0.3,0.1 --rates gap=10,40,160 --rates wgap=25,100,400 --rates wgap_sum=10,40,160"
)
TUNE_TINY = (
    "tune-heads tiny_imagenet --profile light --data-root {tiny} --weights {weights} --results {results} --epochs 1"
    " --rates gap=2.5,10,40 --rates wgap=10,40,160"
)
CUB = (
    "reproduce DATASET=cub PROFILE=light DATA_ROOT={cub} WEIGHTS={weights} RESULTS={results} POOLINGS=gap,wgap,wgap_sum"
)
ILSVRC = "reproduce DATASET=ilsvrc PROFILE=light DATA_ROOT={ilsvrc} WEIGHTS={weights} RESULTS={results}"
TINY = "reproduce DATASET=tiny_imagenet PROFILE=light DATA_ROOT={tiny} WEIGHTS={weights} RESULTS={results}"
OF_CUB = "{results}/light/cub_validation/head_rates.csv"
OF_TINY = "{results}/light/tiny_imagenet_validation/head_rates.csv"
CPU = (  # minutes on two cores of an AMD EPYC, as measured while other work ran beside
    Step(TUNE_CUB, "? min"),
    Step(f"{CUB} SEEDS=0,1,2", "? min", OF_CUB),
    keep("{results}/light/cub"),
    Step(ILSVRC, "? min"),
    keep("{results}/light/ilsvrc"),
    Step(TUNE_TINY, "? min"),
    Step(TINY, "? min", OF_TINY),
    keep("{results}/light/tiny_imagenet"),
)

# The same on a GPU with more seeds, and the paper's own backbone with the pre-training that Tiny-ImageNet allows: its
# rates from scratch are usual ones, not searched. None of this was run. Costs are arithmetic: images × 3 × VGG-16's
# forward pass (31 GFLOP at 224 px, 10 at 128 px) at a tenth of an H100's bfloat16 peak of 990 TFLOP/s, and a minute of
# notebooks 03 to 06 on the CPU for each network and 500 photographs.
SCRATCH = (
    "reproduce DATASET=tiny_imagenet PROFILE=paper DATA_ROOT={tiny} RESULTS={results}/scratch WEIGHTS=scratch"
    " POOLINGS=gap IMAGE_SIZE=128 RESIZE_SIZE=144 EPOCHS=40 LR=3e-4 HEAD_MULTIPLIER=gap=1 OPTIMIZER=adamw"
    " SCHEDULE=onecycle WEIGHT_DECAY=0.05"
)
PRETRAINED = "{results}/scratch/paper/tiny_imagenet/seed0/gap_backbone.safetensors"
TUNE_VGG = (
    f"tune-heads cub --profile paper --data-root {{cub}} --weights {PRETRAINED} --results {{results}} --epochs 25"
    " --multipliers 10,30,100 --rates gap=1,10,100 --rates wgap=10,100,1000 --rates wgap_sum=0.03,0.1,1"
)
VGG = (
    f"reproduce DATASET=cub PROFILE=paper DATA_ROOT={{cub}} WEIGHTS={PRETRAINED} RESULTS={{results}}"
    " POOLINGS=gap,wgap,wgap_sum"
)
GPU = (
    Step("benchmarks --gpu", "5 min"),
    Step(TUNE_CUB, "5 min"),
    Step(f"{CUB} SEEDS=0,1,2,3,4", "20 min", OF_CUB),
    keep("{results}/light/cub", "gpu/cub"),
    Step(ILSVRC, "3 min"),
    keep("{results}/light/ilsvrc", "gpu/ilsvrc"),
    Step(TUNE_TINY, "5 min"),
    Step(f"{TINY} SEEDS=0,1,2,3,4", "60 min", OF_TINY),
    keep("{results}/light/tiny_imagenet", "gpu/tiny_imagenet"),
    Step(SCRATCH, "15 min"),
    keep("{results}/scratch/paper/tiny_imagenet", "gpu/tiny_imagenet_vgg16"),
    Step(TUNE_VGG, "10 min", after=PRETRAINED),
    Step(f"{VGG} SEEDS=0,1,2,3,4", "30 min", "{results}/paper/cub_validation/head_rates.csv", PRETRAINED),
    keep("{results}/paper/cub", "gpu/cub_vgg16"),
)


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
    for step in GPU if gpu else CPU:
        if show:
            click.echo(f"# {step.cost}\n{step.typed(**places)}")
            continue
        if missing := step.missing(**places):
            click.echo(f"left out, for want of {' and '.join(missing)}: {step.typed(**places)}")
            continue
        click.echo(step.typed(**places))
        try:
            step.run(**places)
        except subprocess.CalledProcessError as error:
            raise click.ClickException(f"that step failed ({error.returncode}): mend it and run this again") from error
