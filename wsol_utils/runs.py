"""What a run does with a configuration: its splits, its networks, and the files that notebooks hand on.

Only the notebooks, the runner and the command line use this module.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from wsol_utils import datasets, models, pooling, protocols, training
from wsol_utils.experiments import PRETRAINING, ROOT, Config, absolute, configure
from wsol_utils.predictions import Predictions
from wsol_utils.training import Recipe

METRICS_COLUMNS = [
    "dataset", "profile", "backbone", "pooling", "temperature", "recombination", "normalization", "resolution",
    "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images",
    "top1_cls", "top1_loc", "gt_known", "gt_known_low", "gt_known_high",
]  # fmt: skip


def annotations(config: Config) -> pd.DataFrame:
    """The table that notebook 01 wrote."""
    return datasets.read_table(config.require(config.folder / "annotations.csv", "01_dataset_preparation"))


def networks(config: Config) -> pd.DataFrame:
    """The networks that notebook 02 trained: seed, pooling, own_head, classes, and how their training ended."""
    return seed_csv(config, "networks.csv", "02_finetune_wgap")


def predictions(config: Config, seed: int, name: str) -> Predictions:
    """What notebook 03 kept of one network's pass over the test split."""
    return Predictions.load(
        config.require(config.seed_folder(seed) / f"predictions_{name}.npz", "03_cam_recombination")
    )


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
    constant = ("dataset", "profile", "backbone", "protocol")
    rows = rows.assign(**{name: getattr(config, name) for name in constant})
    protocol = protocols.get(config.protocol)
    rows = rows.assign(normalization=protocol.normalization, resolution=protocol.resolution)
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


def fingerprint(*parts: object) -> str:
    """What else a finished training run depends on: its data and start, and the code that trains."""
    digest = hashlib.sha256(torch.__version__.encode())
    for module in ("datasets", "models", "pooling", "training"):
        digest.update((ROOT / "wsol_utils" / f"{module}.py").read_bytes())
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()
