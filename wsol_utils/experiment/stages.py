"""The two stages that need a network, fine-tuning and prediction, in this process or in several.

Only the notebooks, the runner and the command line use this module.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from wsol_utils.common import files, imports
from wsol_utils.common.files import ROOT
from wsol_utils.data import datasets
from wsol_utils.data.loader import Loader
from wsol_utils.experiment import handover
from wsol_utils.experiment.experiments import Config, absolute, configure
from wsol_utils.experiment.profiles import PRETRAINING
from wsol_utils.maps.extract import predict
from wsol_utils.maps.predictions import Predictions, made_from
from wsol_utils.network import checkpoints, models, pooling, processes, training
from wsol_utils.network import method as methods
from wsol_utils.network.recipe import Recipe
from wsol_utils.scores.protocols import Protocol

# The modules that compute a training and a pass, together with all that they import.
TRAINING_CODE = ("wsol_utils.network.training",)
PREDICTION_CODE = ("wsol_utils.maps.extract", "wsol_utils.network.models")


def train(
    config: Config, table: pd.DataFrame, seed: int, name: str, start: str, method: str = "cam"
) -> list[dict[str, float]]:
    """Fine-tune the network of one pooling and method; without a train split, keep it as it stands.

    Args:
        table: the annotations.
        name: of the pooling.
        start: from `starting_weights`.

    Returns:
        The history of `training.fit` without the seconds, so that equal runs have equal tables; empty where nothing
        was trained.
    """
    rows, path = handover.split(config, table, "train"), handover.checkpoint(config, seed, name, method)
    torch.manual_seed(seed)
    model = network(config, name, int(table["label"].max()) + 1, rows.empty, start, method)
    about = description(config, table, name, len(model.class_weights), method) | {"own_head": rows.empty}
    if rows.empty:
        if processes.rank() == 0:
            models.save(model, path, {}, about)
        processes.wait()
        return []
    history = finetune(config, model, rows, config.recipe(name), path, seed, start, about)
    if start == "scratch" and processes.rank() == 0:
        named = path.with_stem(f"{config.dataset}_{path.stem}_from_scratch")  # as tables call it
        models.save_backbone(model, config.backbone, named, f"{config.dataset}, from scratch")
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def description(config: Config, table: pd.DataFrame, name: str, classes: int, method: str = "cam") -> dict[str, object]:
    """What a fine-tuned network's file says of it (see `models.save`); a class without an image has no name."""
    names = dict(zip(table["label"], table["class_name"], strict=True))
    return {
        "backbone": config.backbone, "pooling": name, "temperature": config.temperature, "own_head": False,
        "method": method, "method_options": config.method_options.get(method, {}),
        "image_size": config.image_size, "profile": config.profile,
        "class_names": [names.get(label, "") for label in range(classes)],
    }  # fmt: skip


def predicted(
    config: Config, table: pd.DataFrame, seed: int, name: str, own_head: bool, protocol: Protocol, method: str = "cam"
) -> Predictions:
    """Return one network's pass over the test photographs; make and keep it first unless it is there.

    Args:
        table: the annotations.
        name: of the pooling.
        own_head: whether the network stands as it is.
        protocol: for the geometry of the images.
    """
    path = handover.prediction_folder(config, seed, name, protocol, method)
    trained = config.require(handover.checkpoint(config, seed, name, method), "02_finetune_wgap")
    test = handover.test_set(config, table, protocol)
    identity = fingerprint(
        PREDICTION_CODE, methods.get(method), _with_sizes(config, handover.split(config, table, "test")),
        files.sha256(trained), name, config.temperature, test.transform, config.decoder, config.deterministic,
        config.method_options.get(method, {}),
    )  # fmt: skip
    if made_from(path) == identity:
        return Predictions.load(path)
    if config.processes > 1 and not processes.launched():
        arguments = (config, table, seed, name, own_head, protocol, method)
        processes.launch(config.processes, handover.device(config), predicted, *arguments)
        return Predictions.load(path)
    model = network(config, name, int(table["label"].max()) + 1, own_head, method=method)
    models.load_into(model, trained)
    return predict_test(config, model, table, protocol, path=path, identity=identity)


def predict_test(
    config: Config, model: torch.nn.Module, table: pd.DataFrame, protocol: Protocol, **keep: Any
) -> Predictions:
    """Pass the test photographs, in the geometry of a protocol, through a network.

    Args:
        keep: where to keep the predictions, as of `extract.predict`.
    """
    sizes = handover.split(config, table, "test")[["width", "height"]].to_numpy()
    with _algorithms(config):
        return predict(
            model, handover.test_set(config, table, protocol), sizes, batch_size=config.prediction_batch_size,
            device=handover.device(config), workers=handover.workers(config), decoder=config.decoder, **keep,
        )  # fmt: skip


def network(
    config: Config, name: str, classes: int, own_head: bool, weights: str | None = None, method: str = "cam"
) -> Any:
    """Build the network of one pooling and method: with a new head, or with its own where there is no train split.

    Args:
        weights: from `starting_weights`; None and "scratch" leave them random.

    Raises:
        ValueError: if its own head does not fit the data set.
    """
    start = None if weights == "scratch" else weights
    if not own_head:
        pool, options = pooling.build(name, config.temperature), config.method_options.get(method)
        return models.build(config.backbone, classes, pool, start, method, options)
    mapping = config.root / "LOC_synset_mapping.txt"
    listed = mapping.read_text(encoding="utf-8").splitlines() if config.layout == "ilsvrc" else []
    if weights == "scratch" or sum(bool(line.strip()) for line in listed) != 1000:
        raise ValueError(
            f"{config.dataset} has no train split, and the head of trained WEIGHTS knows only ImageNet's 1000 classes: "
            "give DATA_ROOT with a train split, or with all 1000 lines in LOC_synset_mapping.txt"
        )
    return models.build_as_it_stands(config.backbone, start)


def starting_weights(config: Config, seed: int) -> str:
    """The weights that training starts from: "imagenet", a safetensors file, "scratch", or the sample's own.

    The sample's small VGG is trained from scratch on `things`, once for each seed, as the paper's VGG was on ILSVRC.
    Its convolutions are kept in RESULTS/sample/things/seed<k>/backbone.safetensors.
    """
    if config.weights:
        return config.weights if config.weights in ("imagenet", "scratch") else str(absolute(config.weights))
    held_out = config.evaluate_on if config.dataset == "things" else "test"
    things = configure(
        "things", "sample", results=config.results, device=config.device, threads=config.threads, evaluate_on=held_out,
        processes=config.processes,
    )  # fmt: skip
    folder = things.seed_folder(seed)
    table = handover.split(things, datasets.read_ilsvrc(things.root), "train")
    torch.manual_seed(seed)
    model = network(things, "gap", table["label"].nunique(), own_head=False)
    finetune(things, model, table, PRETRAINING, folder / "pretraining.safetensors", seed, "scratch")
    if processes.rank() == 0:
        models.save_backbone(model, things.backbone, folder / "backbone.safetensors", "things")
    processes.wait()
    return str(folder / "backbone.safetensors")


def finetune(
    config: Config, model: Any, table: pd.DataFrame, recipe: Recipe, checkpoint: Path, seed: int, start: str,
    about: dict | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Call `training.fit` on the rows of a table, with this run's geometry; return the history.

    Args:
        model: of `network`.
        start: the weights that it began with: a safetensors file, or a word.
        about: what the checkpoint is to say of the network.
    """
    transform = datasets.train_transform(config.resize_size, config.image_size, config.padding)
    dataset = datasets.ImageDataset(table, config.root, transform, seed=seed)
    memory = int(config.cache_gb * 1e9)
    loader = Loader(dataset, handover.device(config), handover.workers(config), memory, config.decoder)
    made_of = fingerprint(
        TRAINING_CODE, type(model.method), _with_sizes(config, table[["image_id", "label", "path"]]),
        files.sha256(start) if Path(start).is_file() else start, transform, model, config.decoder,
        config.deterministic, about,
    )  # fmt: skip
    if config.processes > 1 and not processes.launched():
        identity = training.identity_of(recipe, seed, made_of)
        if checkpoints.finished(checkpoint, identity, model) is None:  # else `fit` finds it so
            arguments = (config, model, table, recipe, checkpoint, seed, start, about)
            processes.launch(config.processes, handover.device(config), finetune, *arguments)
    with _algorithms(config):
        return training.fit(
            model, loader, recipe, checkpoint, seed=seed, compiled=config.compiled and loader.device != "cpu",
            keep_every=config.checkpoint_steps, fingerprint=made_of, about=about,
        )  # fmt: skip


def head_rates(
    config: Config, seed: int, rates: Mapping[str, Sequence[float]], multipliers: Sequence[float] = (1.0,)
) -> pd.DataFrame:
    """Train each pooling at several rates, and judge them by accuracy on a validation part of the train split.

    No test image is looked at, and no box.

    Args:
        config: with `evaluate_on="validation"`.
        rates: values of `head_multiplier` to try for each pooling.
        multipliers: values of `lr_multiplier` to try each of them with.

    Returns:
        Columns pooling, lr_multiplier, head_multiplier, n_images, loss and top1_cls (percent) on the validation
        part; NaN where the training diverged.

    Raises:
        ValueError: if the configuration would judge them on the test split.
    """
    if config.evaluate_on != "validation":
        raise ValueError("rates of the head are chosen on a validation part: give evaluate_on='validation'")
    table = datasets.READERS[config.layout](config.root)
    train, n_images = handover.split(config, table, "train"), len(handover.split(config, table, "test"))
    classes, start, rows = int(table["label"].max()) + 1, starting_weights(config, seed), []
    tries = [(name, lr, head) for name, values in rates.items() for lr in multipliers for head in values]
    for name, lr, head in tries:
        tried = replace(config, lr_multiplier={name: lr}, head_multiplier={**config.head_multiplier, name: head})
        torch.manual_seed(seed)
        model = network(tried, name, classes, False, start)
        checkpoint = config.seed_folder(seed) / "head_rates" / f"{name}_{lr:g}_{head:g}.safetensors"
        row = {"pooling": name, "lr_multiplier": lr, "head_multiplier": head, "n_images": n_images}
        with suppress(FloatingPointError):
            finetune(tried, model, train, tried.recipe(name), checkpoint, seed, start)
            found = predict_test(config, model, table, config.conventions)
            logits, labels = torch.from_numpy(found.logits).float(), torch.from_numpy(found.label)
            row["loss"] = torch.nn.functional.cross_entropy(logits, labels).item()
            row["top1_cls"] = 100 * float((found.predicted == found.label).mean())
        rows.append(row)
    columns = ["pooling", "lr_multiplier", "head_multiplier", "n_images", "loss", "top1_cls"]
    return pd.DataFrame(rows, columns=columns)


def fingerprint(code: Sequence[str], method: type[methods.Method], *parts: object) -> str:
    """Tell one training or pass from another by torch, the modules that compute it, its method and its inputs."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in [*imports.of_modules(code, ROOT), methods.source(method)]:
        digest.update(path.read_bytes())
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()


@contextmanager
def _algorithms(config: Config) -> Iterator[None]:
    """Let torch use the algorithms that the configuration asks for, and afterwards those of before."""
    before = torch.are_deterministic_algorithms_enabled()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(config.deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _with_sizes(config: Config, rows: pd.DataFrame) -> str:
    """Rows of a table with the sizes of their files, by which other pictures of the same names differ, as text."""
    try:
        sizes = [(config.root / path).stat().st_size for path in rows["path"]]
    except FileNotFoundError as error:
        problem = f"{error.filename}: the photograph was there when notebook 01 ran and is missing now; "
        raise datasets.DatasetError(problem + "put it back, or run notebook 01 again") from error
    return rows.assign(size=sizes).to_csv()
