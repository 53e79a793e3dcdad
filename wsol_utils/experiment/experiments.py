"""A run's configuration: a row of `profiles` with what a notebook or make overrides, and where it keeps its files.

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
from wsol_utils.common.checks import hint, one_of
from wsol_utils.common.files import ROOT
from wsol_utils.data import datasets
from wsol_utils.data.images import DECODERS
from wsol_utils.experiment.parameters import Listed, Options, Rates, among, injected, pairs, told
from wsol_utils.experiment.profiles import DATASETS, PROFILES
from wsol_utils.maps import cam
from wsol_utils.maps.predictions import FEATURES
from wsol_utils.network import method, models, pooling
from wsol_utils.network.recipe import Recipe
from wsol_utils.scores import protocols
from wsol_utils.scores.protocols import Protocol

DEVICES = ("cpu", "cuda", "mps", "gpu")  # "cuda" may bear a number

# Words of a protocol that a run can change one by one, each with what it can be.
CONVENTIONS = {
    "normalization": ("max", "minmax"),
    "resolution": ("input", "map"),
    "interpolation": ("bilinear", "bicubic"),
    "component": tuple(boxes.COMPONENTS),
    "boundary": thresholds.BOUNDARIES,
}
LAST_PIXELS = ("ilsvrc",)  # layouts whose files name a box's last pixel, which the reference codes read as they stand

Recombination = Annotated[str, among("recombination", cam.RECOMBINATIONS)]
Rule = Annotated[str, among("threshold rule", thresholds.RULES)]


@dataclass(frozen=True, config=ConfigDict(coerce_numbers_to_str=True))
class Config:
    """Every value of a run. Each can be overridden by a notebook parameter of the same name.

    Attributes:
        dataset, profile: the row of `DATASETS`.
        layout: the data set's layout on disk, one of `datasets.READERS`.
        data_root: folder of the data set's own files; a relative path starts at the repository's root.
        weights: "imagenet" (torchvision downloads them), a safetensors file, "scratch" (random ones; the trained
            convolutions are kept in <dataset>_<pooling>_from_scratch.safetensors), or "" for the sample's own.
        backbone, poolings, temperature: of `models` and `pooling`.
        methods: of `method`, each trained with every pooling; plain fine-tuning, "cam", is always among them.
        method_options: for each method, arguments of its constructor: {"has": {"side": 24}}, or has.side=24 as text.
        recombinations, rules: what notebooks 03 and 04 compare.
        features: what maps are made of: "plain" (P), "weighted" (S⊙P) or "unrectified" (P before its ReLU).
        protocol: the conventions of the evaluation, one of `protocols.PROTOCOLS`.
        normalization, resolution, interpolation, component, boundary: a word of their own in place of the protocol's.
        candidates: how many thresholds, evenly from 0 to 1, Sec. 4.3 chooses from; 0 for the protocol's.
        image_size, resize_size: pixels of the square input, and of the frame that it is cropped from in training.
        prediction_batch_size: images that are predicted at a time.
        padding: a grey margin around that frame, in pixels, that the crop may reach into.
        lr_multiplier: the network's rate as a multiple of `lr`, for each pooling; 1 for one that is not named.
        head_multiplier: the head's rate as a multiple of that, for each pooling; one that is not named takes GAP's.
        on_bad_image: "stop" at a photograph that is missing or does not decode, or "skip" it: it is listed in
            skipped.csv, and counted in n_skipped if it is of the evaluated split.
        evaluate_on: "test", or "validation" for a fifth of the train split, which is then not trained on.
        seeds: a training run each.
        results: folder of the results; a relative path starts at the repository's root.
        workers: processes that decode images; -1 for a share of the cores where a GPU computes, else none.
        device: "cpu", "cuda" (or "cuda:1", …), "mps" (Apple's), "gpu" for CUDA or else MPS, or "" for CUDA or else
            the CPU.
        threads: of torch on the CPU, 0 for torch's own choice. The sample's profile fixes them, as figures depend on
            them; OMP_NUM_THREADS in the environment overrides the profile's number.
        deterministic: whether torch may use only algorithms that repeat themselves to the bit; slower on a GPU.
        cache_gb: decoded photographs of a train split that takes no more are kept in memory, of each process.
        decoder: "pillow" or "torchvision", see `loader.Loader`.
        compiled: whether torch compiles the network before it trains on a GPU.
        checkpoint_steps: steps between two checkpoints within an epoch; 0 for none.
        processes: that train and predict side by side on this machine, each on a GPU of its own where there are any;
            for several machines see the README.
    """

    dataset: str
    profile: str
    layout: Annotated[str, among("layout", datasets.READERS)]
    data_root: str
    backbone: Annotated[str, among("backbone", models.BACKBONES)]
    image_size: PositiveInt
    resize_size: PositiveInt
    batch_size: PositiveInt
    epochs: PositiveInt
    lr: PositiveFloat
    optimizer: str
    schedule: str
    weight_decay: float
    head_multiplier: Rates
    lr_multiplier: Rates = field(default_factory=dict)
    prediction_batch_size: PositiveInt = 64
    padding: int = 0
    weights: str = ""
    poolings: Listed[str] = ("gap", "wgap")
    methods: Annotated[Listed[str], AfterValidator(lambda names: tuple(dict.fromkeys(("cam", *names))))] = ("cam",)
    method_options: Options = field(default_factory=dict)
    temperature: float = 1.0
    recombinations: Listed[Recombination] = ("signed", "positive", "absolute")
    rules: Listed[Rule] = tuple(rule for rule in thresholds.RULES if rule != "fixed")
    features: Annotated[str, among("features", FEATURES)] = "plain"
    protocol: Annotated[str, among("protocol", protocols.PROTOCOLS)] = "paper"
    normalization: str = ""
    resolution: str = ""
    interpolation: str = ""
    component: str = ""
    boundary: str = ""
    candidates: int = 0
    on_bad_image: Annotated[str, among("on_bad_image", ("stop", "skip"))] = "stop"
    evaluate_on: Annotated[str, among("evaluate_on", ("test", "validation"))] = "test"
    seeds: Listed[int] = (0,)
    results: str = "results"
    device: str = ""
    workers: int = -1
    threads: int = 0
    deterministic: bool = False
    cache_gb: float = 4.0
    decoder: Annotated[str, among("decoder", DECODERS)] = "pillow"
    compiled: bool = False
    checkpoint_steps: int = 500
    processes: PositiveInt = 1

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        """Refuse values that are wrong only beside each other, or that another module judges."""
        one_of("device", re.sub(r"^cuda:\d+$", "cuda", self.device or "cpu"), DEVICES)
        for name, words in CONVENTIONS.items():
            one_of(name, getattr(self, name) or words[0], words)
        for name in self.poolings:
            pooling.build(name, self.temperature)
            self.recipe(name)
        for name in {*self.methods, *self.method_options}:
            method.build(name, self.method_options.get(name))
        for multiplier in ("lr_multiplier", "head_multiplier"):
            for name in getattr(self, multiplier):
                one_of(f"pooling in {multiplier}", name, pooling.POOLINGS)
        if self.candidates and self.candidates < 3:
            raise ValueError(f"parameter candidates cannot be {self.candidates}: a step of V needs three at least")
        if self.processes > 1 and self.device not in ("", "cpu", "cuda"):
            raise ValueError(f"device {self.device!r} is for one process: give device='cuda' or 'cpu' with processes")
        if self.resize_size < self.image_size:
            raise ValueError(
                f"parameter resize_size cannot be {self.resize_size}: the frame of a training image is at least as "
                f"large as the input that is cropped from it, image_size {self.image_size}"
            )
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"parameter seeds cannot be {self.seeds}: they are different and not negative")
        if results_root(self.results).is_relative_to(ROOT / "results" / "reference"):
            raise ValueError(f"parameter results cannot be {self.results!r}: our own figures are kept there")
        return self

    @property
    def folder(self) -> Path:
        """RESULTS/<profile>/<dataset>; what was measured on a validation part is kept apart from test."""
        name = self.dataset if self.evaluate_on == "test" else f"{self.dataset}_validation"
        return results_root(self.results) / self.profile / name

    def seed_folder(self, seed: int) -> Path:
        """The work files of one seed."""
        return self.folder / f"seed{seed}"

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return absolute(self.data_root)

    @property
    def conventions(self) -> Protocol:
        """The protocol for this data set's files, with this run's own words in place of its."""
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
        """That file or folder of an earlier stage.

        Raises:
            FileNotFoundError: naming the notebook that writes it, if it is not there.
        """
        if not path.exists():
            raise FileNotFoundError(
                f"{self.show(path)} is missing: run notebooks/{notebook}.ipynb first, with the same parameters "
                f"(dataset={self.dataset!r}, profile={self.profile!r}, results={self.results!r})"
            )
        return path

    def show(self, path: Path) -> str:
        """A path as a reader should see it: relative to the repository, below `results` where it lies there."""
        for base, name in ((results_root(self.results), self.results), (ROOT, "")):
            if path.is_relative_to(base):
                return (Path(name) / path.relative_to(base)).as_posix()
        return path.as_posix()


def absolute(path: str) -> Path:
    """A parameter's path: a relative one starts at the repository's root, wherever the notebook runs."""
    return Path(os.path.abspath(ROOT / Path(path).expanduser()))


def results_root(results: str) -> Path:
    """The results folder; the tests put theirs in the place of the default with WSOL_RESULTS."""
    return absolute(os.environ.get("WSOL_RESULTS", results) if results == "results" else results)


def configure(dataset: str = "birds", profile: str = "sample", **values: Any) -> Config:
    """A row of `DATASETS`, or a layout that has none, with some of its values overridden.

    Values that are empty ("" or []) stand for the profile's own.

    Raises:
        ValueError: if a name or a value is unknown, naming what there is to choose from.
    """
    one_of("profile", profile, PROFILES)
    own = {name: row for (p, name), row in DATASETS.items() if p == profile}
    if profile != "sample":
        own |= {name: {"layout": name, "data_root": f"data/{name}"} for name in datasets.READERS if name not in own}
    one_of(f"dataset of profile {profile!r}", dataset, own)
    known = [f.name for f in fields(Config)]
    for name in values:
        if name not in known:
            raise ValueError(f"unknown parameter {name!r}{hint(name, known)}; there are {', '.join(known)}")
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
    """Whether every value that decides a figure is the configuration's own, so that its reference applies."""
    usual = configure(config.dataset, config.profile)
    free = (
        "results", "seeds", "poolings", "methods", "device", "workers", "cache_gb", "checkpoint_steps", "compiled",
        "prediction_batch_size", "threads",
    )  # fmt: skip
    return replace(config, **{name: getattr(usual, name) for name in free}) == usual


def from_notebook(variables: dict) -> Config:
    """The configuration that a notebook's parameters say; sets torch's threads.

    Args:
        variables: the notebook's globals(). Every variable with the name of a value of `Config` counts,
            so papermill can override any; one that papermill injects and nothing knows is refused.

    Raises:
        ValueError: as `configure`.
    """
    names = {f.name for f in fields(Config)}
    values = {name: value for name, value in variables.items() if name in names}
    config = configure(**values | {name: variables[name] for name in injected(variables)})
    if config.threads:
        torch.set_num_threads(config.threads)
    return config


def refuse_unknown(variables: dict, known: list[str]) -> None:
    """Stop at a parameter that papermill injected and that nothing uses; those of the other notebooks may pass.

    Raises:
        ValueError: naming it.
    """
    for name in injected(variables):
        if name not in {f.name for f in fields(Config)}:
            one_of("parameter", name, known)
