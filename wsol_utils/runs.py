"""What a run does with a configuration: its splits, its networks, and the files that notebooks hand on.

Only the notebooks, the runner and the command line use this module.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from wsol_utils import datasets, experiments, models, pooling, protocols, training
from wsol_utils.experiments import ROOT, Config, absolute, configure
from wsol_utils.predictions import Predictions, predict
from wsol_utils.profiles import PRETRAINING
from wsol_utils.protocols import Protocol
from wsol_utils.training import Recipe

METRICS_COLUMNS = [
    "dataset", "profile", "backbone", "pooling", "temperature", "recombination", "normalization", "resolution",
    "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images",
    "top1_cls", "top1_loc", "gt_known", "gt_known_low", "gt_known_high",
    "threshold_sd", "p_value", "features", "interpolation", "component", "boundary", "candidates",
]  # fmt: skip


def annotations(config: Config) -> pd.DataFrame:
    """The table that notebook 01 wrote."""
    return datasets.read_table(config.require(config.folder / "annotations.csv", "01_dataset_preparation"))


def networks(config: Config) -> pd.DataFrame:
    """The networks that notebook 02 trained: seed, pooling, own_head, classes, and how their training ended."""
    return seed_csv(config, "networks.csv", "02_finetune_wgap")


def prediction_file(config: Config, seed: int, name: str, protocol: Protocol) -> Path:
    """Where notebook 03 keeps one network's pass over the test split; a crop of the images is another pass."""
    crop = "" if protocol.frame == 1 else "_cropped"
    return config.seed_folder(seed) / f"predictions_{name}{crop}.npz"


def predictions(config: Config, seed: int, name: str, protocol: Protocol | None = None) -> Predictions:
    """What notebook 03 kept of one network's pass over the test split, in the geometry of a protocol."""
    path = prediction_file(config, seed, name, protocol or config.conventions)
    return Predictions.load(config.require(path, "03_cam_recombination"))


def seed_csv(config: Config, name: str, notebook: str) -> pd.DataFrame:
    """The tables of that name of all seeds, one below the other.

    Raises:
        FileNotFoundError: naming the notebook that writes them, if one is not there.
    """
    paths = [config.require(config.seed_folder(seed) / name, notebook) for seed in config.seeds]
    return pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)


def write_seed_csv(config: Config, rows: pd.DataFrame, name: str) -> None:
    """Write each seed's rows into its own folder, under a temporary name first."""
    for seed, group in rows.groupby("seed"):
        write_csv(group, config.seed_folder(seed) / name)
        print("wrote", config.show(config.seed_folder(seed) / name))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV under a temporary name first, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    table.to_csv(temporary, index=False)
    temporary.replace(path)


def described(config: Config, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of metrics with the columns that say what they were measured on, in the order of metrics.csv."""
    protocol = config.conventions
    constant = {name: getattr(config, name) for name in ("dataset", "profile", "backbone", "protocol", "features")}
    constant |= {name: getattr(protocol, name) for name in experiments.CONVENTIONS}
    rows = rows.assign(**constant, candidates=len(protocol.candidates))
    rows["temperature"] = np.where(rows["pooling"].str.startswith("wgap"), config.temperature, np.nan)
    return rows[METRICS_COLUMNS]


def save_panels(path: Path, columns: list[dict[str, np.ndarray]]) -> None:
    """Keep the columns of Fig. 4, so that a later run on the other data set can join them to its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        np.savez(file, **{f"{i}/{key}": value for i, column in enumerate(columns) for key, value in column.items()})
    temporary.replace(path)


def load_panels(path: Path) -> list[dict[str, np.ndarray]]:
    """What `save_panels` kept."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            i, key = name.split("/")
            columns.setdefault(i, {})[key] = archive[name]
    return list(columns.values())


def test_set(config: Config, table: pd.DataFrame, protocol: Protocol) -> datasets.ImageDataset:
    """The test photographs in the geometry of a protocol: the whole frame, or its centre."""
    side = config.image_size
    transform = datasets.test_transform(side, protocols.frame_side(side, protocol))
    return datasets.ImageDataset(split(config, table, "test"), config.root, transform)


def predict_test(config: Config, model: torch.nn.Module, table: pd.DataFrame, protocol: Protocol) -> Predictions:
    """One pass of a network over the test photographs in the geometry of a protocol."""
    photographs, sizes = test_set(config, table, protocol), split(config, table, "test")[["width", "height"]]
    return predict(model, photographs, sizes.to_numpy(), device=device(config), workers=workers(config))


def ours(config: Config) -> str:
    """The pooling that stands for the paper's: WGAP, or the last one where it was not trained."""
    names = list(networks(config)["pooling"])
    return "wgap" if "wgap" in names else names[-1]


def pictures(config: Config, table: pd.DataFrame, images: Sequence[int]) -> list[np.ndarray]:
    """Some of the test photographs as the network sees them, uint8 (H, W, 3)."""
    photographs = test_set(config, table, config.conventions)
    return [datasets.denormalize(photographs[i][0]) for i in images]


def device(config: Config) -> str:
    """Where to compute."""
    return config.device or ("cuda" if torch.cuda.is_available() else "cpu")


def workers(config: Config) -> int:
    """How many processes decode images."""
    if config.workers >= 0:
        return config.workers
    return 0 if device(config) == "cpu" else min(16, torch.get_num_threads())


def split(config: Config, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows to train on ("train") or to evaluate on ("test")."""
    if config.evaluate_on == "validation":
        table = datasets.hold_out(table)
    return table[table["split"] == name].reset_index(drop=True)


def network(config: Config, name: str, classes: int, own_head: bool, weights: str | None = None) -> torch.nn.Module:
    """The network of one pooling: with a new head, or as it stands where the data set has no train split.

    Raises:
        ValueError: if it should classify as it stands a data set whose classes are not ImageNet's.
    """
    if not own_head:
        return models.build(config.backbone, classes, pooling.build(name, config.temperature), weights)
    mapping = config.root / "LOC_synset_mapping.txt"
    listed = mapping.read_text(encoding="utf-8").split("\n") if config.layout == "ilsvrc" else []
    if sum(bool(line.strip()) for line in listed) != 1000:
        raise ValueError(
            f"{config.dataset} has no train split, and the network's own head knows ImageNet's 1000 classes alone: "
            "give DATA_ROOT with a train split, or with all 1000 lines in LOC_synset_mapping.txt"
        )
    return models.build_as_it_stands(config.backbone, weights)


def starting_weights(config: Config, seed: int) -> str:
    """The weights that fine-tuning starts from: "imagenet", a safetensors file, or the sample's own.

    The sample's small VGG is trained on `things` from scratch, once for each seed, as the paper's
    VGG was on ILSVRC; its convolutions are kept in RESULTS/sample/things/seed<k>/backbone.safetensors.
    """
    if config.weights:
        return config.weights if config.weights == "imagenet" else str(absolute(config.weights))
    held_out = config.evaluate_on if config.dataset == "things" else "test"
    things = configure(
        "things", "sample", results=config.results, device=config.device, threads=config.threads, evaluate_on=held_out
    )
    folder = things.seed_folder(seed)
    table = split(things, datasets.read_ilsvrc(things.root), "train")
    torch.manual_seed(seed)
    model = network(things, "gap", table["label"].nunique(), own_head=False)
    finetune(things, model, table, PRETRAINING, folder / "pretraining.safetensors", seed, "scratch")
    models.save_features(model, folder / "backbone.safetensors")
    return str(folder / "backbone.safetensors")


def finetune(
    config: Config, model: torch.nn.Module, table: pd.DataFrame, recipe: Recipe, checkpoint: Path, seed: int, start: str
) -> list[dict[str, float]]:
    """`training.fit` on the rows of a table, with this run's geometry; the history.

    Args:
        start: the weights that the model began with: a safetensors file, or a word.
    """
    transform = datasets.train_transform(config.resize_size, config.image_size, config.padding)
    dataset = datasets.ImageDataset(table, config.root, transform, seed=seed)
    weights = hashlib.sha256(Path(start).read_bytes()).hexdigest() if Path(start).is_file() else start
    sizes = [(config.root / path).stat().st_size for path in table["path"]]  # other pictures of the same names
    rows = table[["image_id", "label"]].assign(size=sizes).to_csv()
    identity = fingerprint(rows, weights, repr(transform), repr(model))
    return training.fit(
        model, dataset, recipe, checkpoint,
        seed=seed, device=device(config), workers=workers(config), fingerprint=identity,
    )  # fmt: skip


def head_rates(config: Config, seed: int, rates: dict[str, Sequence[float]]) -> pd.DataFrame:
    """Train each pooling with several rates of its head, judged by accuracy on a validation part of the train split.

    No box's place is looked at, and no test image.

    Args:
        config: with `evaluate_on="validation"`.
        rates: values of `head_multiplier` to try for each pooling.

    Returns:
        Columns pooling, head_multiplier, n_images, loss and top1_cls (percent) on the validation part; NaN where
        the training diverged.

    Raises:
        ValueError: if the configuration would judge them on the test split.
    """
    if config.evaluate_on != "validation":
        raise ValueError("rates of the head are chosen on a validation part: give evaluate_on='validation'")
    table = datasets.READERS[config.layout](config.root)
    train, n_images = split(config, table, "train"), len(split(config, table, "test"))
    classes, start, rows = int(table["label"].max()) + 1, starting_weights(config, seed), []
    for name, rate in ((name, rate) for name, values in rates.items() for rate in values):
        tried = replace(config, head_multiplier={**config.head_multiplier, name: rate})
        torch.manual_seed(seed)
        model = network(tried, name, classes, False, start)
        checkpoint = config.seed_folder(seed) / "head_rates" / f"{name}_{rate:g}.safetensors"
        row = {"pooling": name, "head_multiplier": rate, "n_images": n_images}
        with suppress(FloatingPointError):
            finetune(tried, model, train, tried.recipe(name), checkpoint, seed, start)
            found = predict_test(config, model, table, config.conventions)
            logits, labels = torch.from_numpy(found.logits).float(), torch.from_numpy(found.label)
            loss = torch.nn.functional.cross_entropy(logits, labels).item()
            if np.isfinite(loss):  # logits of float16 are not, beyond 65504
                row |= {"loss": loss, "top1_cls": 100 * float((found.predicted == found.label).mean())}
        rows.append(row)
    return pd.DataFrame(rows, columns=["pooling", "head_multiplier", "n_images", "loss", "top1_cls"])


def fingerprint(*parts: object) -> str:
    """What else a finished training run depends on: its data and start, and the code that trains."""
    digest = hashlib.sha256(torch.__version__.encode())
    for module in ("datasets", "models", "pooling", "training"):
        digest.update((ROOT / "wsol_utils" / f"{module}.py").read_bytes())
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()
