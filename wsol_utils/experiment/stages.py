"""The two stages that take a network: fine-tuning and prediction, in this process or in several.

Only the notebooks, the runner and the command line use this module.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

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

# What a training and a pass are computed by: these modules, and all that they import.
TRAINING_CODE = ("wsol_utils.network.training",)
PREDICTION_CODE = ("wsol_utils.maps.extract", "wsol_utils.network.models")


def train(
    config: Config, table: pd.DataFrame, seed: int, name: str, start: str, method: str = "cam"
) -> list[dict[str, float]]:
    """Fine-tune the network of one pooling and method, or keep it as it stands where there is no train split.

    Args:
        table: the annotations.
        start: from `starting_weights`.

    Returns:
        The history, as of `training.fit` but for the seconds: the tables of equal runs are equal. Empty where
        nothing was trained.
    """
    rows, path = handover.split(config, table, "train"), handover.checkpoint(config, seed, name, method)
    torch.manual_seed(seed)
    model = network(config, name, int(table["label"].max()) + 1, rows.empty, start, method)
    about = description(config, table, name, len(cast(torch.Tensor, model.class_weights)), method)
    if not rows.empty:
        history = finetune(config, model, rows, config.recipe(name), path, seed, start, about)
        if start == "scratch" and processes.rank() == 0:
            named = path.with_stem(f"{config.dataset}_{path.stem}_from_scratch")  # as tables call it
            models.save_backbone(model, config.backbone, named, f"{config.dataset}, from scratch")
        return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]
    if processes.rank() == 0:
        models.save(model, path, {}, about | {"own_head": True})
    processes.wait()
    return []


def description(config: Config, table: pd.DataFrame, name: str, classes: int, method: str = "cam") -> dict[str, object]:
    """What the file of a fine-tuned network says of it, as of `models.save`; a class without an image has no name."""
    names = dict(zip(table["label"], table["class_name"], strict=True))
    return {
        "backbone": config.backbone, "pooling": name, "temperature": config.temperature, "own_head": False,
        "method": method, "method_options": config.method_options.get(method, {}),
        "image_size": config.image_size, "class_names": [names.get(label, "") for label in range(classes)],
    }  # fmt: skip


def predicted(
    config: Config, table: pd.DataFrame, seed: int, name: str, own_head: bool, protocol: Protocol, method: str = "cam"
) -> Predictions:
    """One network's pass over the test photographs: the one that is kept, or made and kept now.

    Args:
        table: the annotations.
        own_head: whether the network stands as it is.
        protocol: for the geometry of the images.
    """
    path = handover.prediction_folder(config, seed, name, protocol, method)
    trained = config.require(handover.checkpoint(config, seed, name, method), "02_finetune_wgap")
    test = handover.split(config, table, "test")
    weights = files.sha256(trained)
    transform = handover.test_set(config, table, protocol).transform
    rows, options = _with_sizes(config, test), config.method_options.get(method, {})
    identity = fingerprint(
        PREDICTION_CODE, rows, weights, name, config.temperature, transform, config.decoder, config.deterministic,
        options, methods.source(methods.get(method)).read_bytes(),
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
    """One pass of a network over the test photographs in the geometry of a protocol.

    Args:
        keep: where to, as of `extract.predict`.
    """
    photographs = handover.test_set(config, table, protocol)
    sizes = handover.split(config, table, "test")[["width", "height"]].to_numpy()
    with _algorithms(config):
        return predict(
            model, photographs, sizes, batch_size=config.prediction_batch_size, device=handover.device(config),
            workers=handover.workers(config), decoder=config.decoder, **keep,
        )  # fmt: skip


def network(
    config: Config, name: str, classes: int, own_head: bool, weights: str | None = None, method: str = "cam"
) -> torch.nn.Module:
    """The network of one pooling and method: with a new head, or as it stands where the data set has no train split.

    Args:
        weights: from `starting_weights`; None, too, leaves them random.

    Raises:
        ValueError: if it should classify as it stands a data set whose classes are not ImageNet's.
    """
    if weights == "scratch":
        if own_head:
            raise ValueError(
                f"{config.dataset} has no train split: weights='scratch' leave nothing to evaluate; give WEIGHTS of a "
                "trained network"
            )
        weights = None
    if not own_head:
        pool, options = pooling.build(name, config.temperature), config.method_options.get(method)
        return models.build(config.backbone, classes, pool, weights, method, options)
    mapping = config.root / "LOC_synset_mapping.txt"
    listed = mapping.read_text(encoding="utf-8").split("\n") if config.layout == "ilsvrc" else []
    if sum(bool(line.strip()) for line in listed) != 1000:
        raise ValueError(
            f"{config.dataset} has no train split, and the network's own head knows ImageNet's 1000 classes alone: "
            "give DATA_ROOT with a train split, or with all 1000 lines in LOC_synset_mapping.txt"
        )
    return models.build_as_it_stands(config.backbone, weights)


def starting_weights(config: Config, seed: int) -> str:
    """The weights that training starts from: "imagenet", a safetensors file, "scratch", or the sample's own.

    The sample's small VGG is trained on `things` from scratch, once for each seed, as the paper's
    VGG was on ILSVRC; its convolutions are kept in RESULTS/sample/things/seed<k>/backbone.safetensors.
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
    config: Config, model: torch.nn.Module, table: pd.DataFrame, recipe: Recipe, checkpoint: Path, seed: int,
    start: str, about: dict | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """`training.fit` on the rows of a table, with this run's geometry; the history.

    Args:
        start: the weights that the model began with: a safetensors file, or a word.
        about: what the checkpoint is to say of the network.
    """
    transform = datasets.train_transform(config.resize_size, config.image_size, config.padding)
    dataset = datasets.ImageDataset(table, config.root, transform, seed=seed)
    memory = int(config.cache_gb * 1e9)
    loader = Loader(dataset, handover.device(config), handover.workers(config), memory, config.decoder)
    weights = files.sha256(start) if Path(start).is_file() else start
    rows = _with_sizes(config, table[["image_id", "label", "path"]])
    made_of = fingerprint(
        TRAINING_CODE, rows, weights, repr(transform), repr(model), config.decoder, config.deterministic, about,
        methods.source(type(cast(models.Localizer, model).method)).read_bytes(),
    )  # fmt: skip
    if config.processes > 1 and not processes.launched():
        identity = training.identity_of(recipe, seed, made_of)
        if checkpoints.finished(checkpoint, identity, model) is None:  # else `fit` finds it so
            arguments = (config, model, table, recipe, checkpoint, seed, start, about)
            processes.launch(config.processes, handover.device(config), finetune, *arguments)
    compiled = config.compiled and loader.device != "cpu"
    with _algorithms(config):
        return training.fit(
            model, loader, recipe, checkpoint,
            seed=seed, compiled=compiled, keep_every=config.checkpoint_steps, fingerprint=made_of,
            about=about,
        )  # fmt: skip


@contextmanager
def _algorithms(config: Config) -> Iterator[None]:
    """Torch's algorithms as the configuration asks for them, and then as they were."""
    before = torch.are_deterministic_algorithms_enabled()
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(config.deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _with_sizes(config: Config, rows: pd.DataFrame) -> str:
    """Rows of a table and the sizes of their files, as text: other pictures of the same names make another."""
    try:
        sizes = [(config.root / path).stat().st_size for path in rows["path"]]
    except FileNotFoundError as error:
        problem = f"{error.filename}: the photograph was there when notebook 01 ran and is missing now; "
        raise datasets.DatasetError(problem + "put it back, or run notebook 01 again") from error
    return rows.assign(size=sizes).to_csv()


def head_rates(
    config: Config, seed: int, rates: Mapping[str, Sequence[float]], multipliers: Sequence[float] = (1.0,)
) -> pd.DataFrame:
    """Train each pooling at several rates, judged by accuracy on a validation part of the train split.

    No box's place is looked at, and no test image.

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
            loss = torch.nn.functional.cross_entropy(logits, labels).item()
            row |= {"loss": loss, "top1_cls": 100 * float((found.predicted == found.label).mean())}
        rows.append(row)
    columns = ["pooling", "lr_multiplier", "head_multiplier", "n_images", "loss", "top1_cls"]
    return pd.DataFrame(rows, columns=columns)


def fingerprint(code: Sequence[str], *parts: object) -> str:
    """What tells one training or one pass from another: the modules that compute it, torch, and its inputs."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in imports.of_modules(code, ROOT):
        digest.update(path.read_bytes())
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()
