"""A run's configuration: a row of `profiles`, what a notebook or make overrides, and where the run keeps its files.

Only the notebooks, the runner and the command line use this module.
"""

import os
import re
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import AfterValidator, ConfigDict, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from wsol_utils import boxes
from wsol_utils.boxes import thresholds
from wsol_utils.common.checks import one_of
from wsol_utils.common.files import ROOT
from wsol_utils.data import datasets
from wsol_utils.data.images import DECODERS
from wsol_utils.experiment.parameters import Listed, Options, Pooling, Rates, among, injected, pairs, told
from wsol_utils.experiment.profiles import DATASETS, PROFILES
from wsol_utils.maps import cam
from wsol_utils.maps.predictions import FEATURES
from wsol_utils.network import method, models
from wsol_utils.network.recipe import Recipe
from wsol_utils.scores import protocols
from wsol_utils.scores.protocols import Protocol

CONVENTIONS = ("normalization", "resolution", "interpolation", "component", "boundary")  # a run can change one by one
DEVICES = ("cpu", "cuda", "mps", "gpu")  # "cuda" may bear a number
LAST_PIXELS = ("ilsvrc",)  # layouts whose files name a box's last pixel, which the reference codes read as they stand


@dataclass(frozen=True, kw_only=True, config=ConfigDict(coerce_numbers_to_str=True))
class Config:
    """Every value of a run. A notebook parameter of the same name overrides it."""

    # The data. A relative path starts at the repository's root.
    dataset: str  # with the profile, a row of `DATASETS`
    profile: str
    layout: Annotated[str, among("layout", datasets.READERS)]  # of the data set on disk
    data_root: str  # folder of the data set's own files
    # A photograph that is missing or does not decode: "stop", or "skip" it, list it in skipped.csv, and count it in
    # n_skipped if it is of the evaluated split.
    on_bad_image: Annotated[str, among("on_bad_image", ("stop", "skip"))] = "stop"
    # "test", or "validation" for a fifth of the train split, which is then not trained on.
    evaluate_on: Annotated[str, among("evaluate_on", ("test", "validation"))] = "test"
    results: str = "results"  # folder of the results

    # The networks: each method is trained with each pooling, once for each seed.
    backbone: Annotated[str, among("backbone", models.BACKBONES)]
    # "imagenet" (torchvision downloads them), a safetensors file, "scratch" (random ones; the trained convolutions are
    # kept in <dataset>_<pooling>_from_scratch.safetensors), or "" for the sample's own.
    weights: str = ""
    poolings: Listed[Pooling] = ("gap", "wgap")
    temperature: PositiveFloat = 1.0  # of WGAP's softmax
    # Plain fine-tuning, "cam", is always among them.
    methods: Annotated[Listed[str], AfterValidator(lambda names: tuple(dict.fromkeys(("cam", *names))))] = ("cam",)
    # For each method, arguments of its constructor: {"has": {"side": 24}}, or has.side=24 as text.
    method_options: Options = field(default_factory=dict)
    seeds: Listed[int] = (0,)

    # The training.
    image_size: PositiveInt  # pixels of the square input
    resize_size: PositiveInt  # pixels of the frame that a training image is cropped from
    padding: int = 0  # pixels of a grey margin around that frame that the crop may reach into
    batch_size: PositiveInt
    epochs: PositiveInt
    lr: PositiveFloat
    lr_multiplier: Rates = field(default_factory=dict)  # for each pooling, the network's rate by `lr`; 1 if not named
    head_multiplier: Rates  # for each pooling, the head's rate by the network's; GAP's if not named
    optimizer: str
    schedule: str
    weight_decay: float
    checkpoint_steps: int = 500  # steps between two checkpoints within an epoch; 0 for none

    # What notebooks 03 and 04 compare, and the conventions of the evaluation.
    recombinations: Listed[Annotated[str, among("recombination", cam.RECOMBINATIONS)]] = (
        "signed", "positive", "absolute",
    )  # fmt: skip
    rules: Listed[Annotated[str, among("threshold rule", thresholds.RULES)]] = tuple(
        rule for rule in thresholds.RULES if rule != "fixed"
    )
    # What maps are made of: "plain" (P), "weighted" (S⊙P) or "unrectified" (P before its ReLU).
    features: Annotated[str, among("features", FEATURES)] = "plain"
    protocol: Annotated[str, among("protocol", protocols.PROTOCOLS)] = "paper"
    # Each takes the place of the protocol's own word, unless it is "".
    normalization: Annotated[str, among("normalization", ("max", "minmax"))] = ""
    resolution: Annotated[str, among("resolution", ("input", "map"))] = ""
    interpolation: Annotated[str, among("interpolation", ("bilinear", "bicubic"))] = ""
    component: Annotated[str, among("component", boxes.COMPONENTS)] = ""
    boundary: Annotated[str, among("boundary", thresholds.BOUNDARIES)] = ""
    candidates: int = 0  # thresholds, evenly from 0 to 1, that Sec. 4.3 chooses from; 0 for the protocol's

    # The machine.
    # "cpu", "cuda" (or "cuda:1", …), "mps" (Apple's), "gpu" for CUDA or else MPS, or "" for CUDA or else the CPU.
    device: str = ""
    # GPUs or CPU processes of this machine that train and predict side by side; for several machines see the README.
    processes: PositiveInt = 1
    workers: int = -1  # processes that decode images; -1 for a share of the cores where a GPU computes, else none
    # Of torch on the CPU; 0 for torch's own choice. The sample's figures depend on them, so its profile fixes them;
    # OMP_NUM_THREADS in the environment overrides the profile's number.
    threads: int = 0
    deterministic: bool = False  # whether torch takes only algorithms that repeat to the bit; slower on a GPU
    compiled: bool = False  # whether torch compiles the network before it trains on a GPU
    prediction_batch_size: PositiveInt = 64
    cache_gb: float = 4.0  # a train split's decoded photographs are kept in memory, of each process, up to this size
    decoder: Annotated[str, among("decoder", DECODERS)] = "pillow"  # see `loader.Loader`

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse values that are wrong only beside each other, or that another module judges."""
        one_of("device", re.sub(r"^cuda:\d+$", "cuda", self.device or "cpu"), DEVICES)
        self.recipe("gap")  # it judges the optimizer and the schedule
        for name in {*self.methods, *self.method_options}:
            method.build(name, self.method_options.get(name))
        ours = ROOT / "results" / "reference"
        for name, wrong, why in (
            (
                "candidates",
                self.candidates and self.candidates < 3,
                "Sec. 4.3 needs at least three; 0 is the protocol's",
            ),
            ("resize_size", self.resize_size < self.image_size, f"it must be at least image_size {self.image_size}"),
            ("seeds", min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds), "they differ, from 0 on"),
            ("results", results_root(self.results).is_relative_to(ours), "our own figures are kept there"),
            ("device", self.processes > 1 and self.device not in ("", "cpu", "cuda"), "processes need cuda or cpu"),
        ):
            if wrong:
                raise ValueError(f"parameter {name} cannot be {getattr(self, name)!r}: {why}")
        return self

    @property
    def folder(self) -> Path:
        """RESULTS/<profile>/<dataset>, or <dataset>_validation for what was measured on a validation part."""
        name = self.dataset if self.evaluate_on == "test" else f"{self.dataset}_validation"
        return results_root(self.results) / self.profile / name

    def seed_folder(self, seed: int) -> Path:
        """The folder of one seed's work files."""
        return self.folder / f"seed{seed}"

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return absolute(self.data_root)

    @property
    def conventions(self) -> Protocol:
        """The protocol for this data set's files, with the words that this run changes."""
        own = {name: getattr(self, name) for name in CONVENTIONS if getattr(self, name)}
        if self.candidates:
            own["candidates"] = tuple(i / (self.candidates - 1) for i in range(self.candidates))
        return replace(self.follow(self.protocol), **own)

    def follow(self, name: str) -> Protocol:
        """The protocol of that name for this data set's files."""
        protocol = protocols.get(name)
        return protocols.for_last_pixels(protocol) if self.layout in LAST_PIXELS else protocol

    def recipe(self, name: str) -> Recipe:
        """How this run fine-tunes with the pooling of that name."""
        return Recipe(
            self.epochs, self.batch_size, self.lr * self.lr_multiplier.get(name, 1.0),
            self.head_multiplier.get(name, self.head_multiplier["gap"]),
            self.weight_decay, self.optimizer, self.schedule,
        )  # fmt: skip

    def require(self, path: Path, notebook: str) -> Path:
        """Return the path of a file or folder that an earlier notebook wrote.

        Raises:
            FileNotFoundError: if it is missing, naming the notebook.
        """
        if not path.exists():
            raise FileNotFoundError(
                f"{self.show(path)} is missing: run notebooks/{notebook}.ipynb first, with the same parameters "
                f"(dataset={self.dataset!r}, profile={self.profile!r}, results={self.results!r})"
            )
        return path

    def show(self, path: Path) -> str:
        """Return a path as text: from `results` on where it lies there, else relative to the repository."""
        for base, name in ((results_root(self.results), self.results), (ROOT, "")):
            if path.is_relative_to(base):
                return (Path(name) / path.relative_to(base)).as_posix()
        return path.as_posix()


NAMES = [field.name for field in fields(Config)]


def absolute(path: str) -> Path:
    """A parameter's path; a relative one starts at the repository's root, wherever the notebook runs."""
    return Path(os.path.abspath(ROOT / Path(path).expanduser()))


def results_root(results: str) -> Path:
    """The results folder; WSOL_RESULTS, which the tests set, takes the place of the default."""
    return absolute(os.environ.get("WSOL_RESULTS", results) if results == "results" else results)


def configure(dataset: str = "birds", profile: str = "sample", **values: Any) -> Config:
    """Build the configuration of a data set: the profile's row, the data set's own, then the values given here.

    A layout without a row of `DATASETS` is a data set too, of every profile but the sample. Values that are empty
    ("" or []) stand for the row's.

    Raises:
        ValueError: if names or values are wrong: all of them, with what there is to choose from.
    """
    one_of("profile", profile, PROFILES)
    own = {name: row for (p, name), row in DATASETS.items() if p == profile}
    if profile != "sample":
        own |= {name: {"layout": name, "data_root": f"data/{name}"} for name in datasets.READERS if name not in own}
    one_of(f"dataset of profile {profile!r}", dataset, own)
    for name in values:
        one_of("parameter", name, NAMES)
    row = {"dataset": dataset, "profile": profile} | PROFILES[profile] | own[dataset]
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if "threads" in row and threads.isdecimal() and int(threads):
        row["threads"] = int(threads)
    given = {name: value for name, value in values.items() if value not in ("", [], ())}
    for name in ("lr_multiplier", "head_multiplier"):
        if isinstance(own_rates := pairs(given.get(name, {})), dict):
            given[name] = row.get(name, {}) | own_rates
    try:
        return Config(**row | given)
    except ValidationError as error:
        raise ValueError("; ".join(told(error))) from None


def is_usual(config: Config) -> bool:
    """Tell whether every value that decides a figure is the row's, so that the kept reference applies."""
    usual = configure(config.dataset, config.profile)
    free = (
        "results", "seeds", "poolings", "methods", "device", "workers", "cache_gb", "checkpoint_steps", "compiled",
        "prediction_batch_size", "threads",
    )  # fmt: skip
    return replace(config, **{name: getattr(usual, name) for name in free}) == usual


def from_notebook(variables: dict) -> Config:
    """Build the configuration that a notebook's parameters give, and set torch's threads.

    Args:
        variables: the notebook's globals(). Each one named like a value of `Config` counts, and whatever papermill
            injects must be one.

    Raises:
        ValueError: as `configure`.
    """
    names = {*NAMES, *injected(variables)}
    config = configure(**{name: value for name, value in variables.items() if name in names})
    if config.threads:
        torch.set_num_threads(config.threads)
    return config


def refuse_unknown(variables: dict, known: list[str]) -> None:
    """Refuse parameters that papermill injected and nothing uses; those of other notebooks may pass.

    Raises:
        ValueError: naming the first.
    """
    for name in injected(variables):
        if name not in NAMES:
            one_of("parameter", name, known)
