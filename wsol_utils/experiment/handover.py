"""The files that notebooks hand on, and what else a configuration determines: splits, networks, the device.

Only the notebooks, the runner and the command line use this module.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from wsol_utils.common import files
from wsol_utils.data import datasets
from wsol_utils.experiment import experiments
from wsol_utils.experiment.experiments import Config
from wsol_utils.maps.predictions import Predictions
from wsol_utils.scores import protocols
from wsol_utils.scores.protocols import Protocol

METRICS_COLUMNS = [
    "dataset", "profile", "backbone", "method", "pooling", "temperature", "recombination", "normalization",
    "resolution", "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images",
    "top1_cls", "top1_loc", "gt_known", "gt_known_low", "gt_known_high",
    "threshold_sd", "p_value", "features", "interpolation", "component", "boundary", "candidates",
    "n_skipped", "weights",
]  # fmt: skip
COMBINATION = ["method", "pooling", "recombination", "threshold_rule"]
OVERLAPS = {"recombination.npz": "03_cam_recombination", "thresholds.npz": "04_threshold_selection"}


# Tables and arrays: the whole file or none.


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV."""
    files.write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table that `write_csv` wrote.

    Raises:
        ValueError: if it is cut off within a line.
    """
    if files.is_cut_off(path):
        raise ValueError(f"{path} is cut off: delete it, and run the notebook that writes it again")
    return pd.read_csv(path)


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write a NumPy archive (.npz)."""
    with files.written(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `write_arrays` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, or no archive of plain arrays.
    """
    with open(path, "rb") as file:
        try:
            arrays = dict(np.load(file, allow_pickle=False))
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # of files that are no .npy
                raise ValueError("not all of it are arrays")
            return arrays
        except Exception as error:  # zipfile's and NumPy's readers raise many kinds
            raise ValueError(f"{path} is no whole .npz file ({error}): delete it and run again") from error


# What a configuration determines.


def split(config: Config, table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a table to train on ("train") or to evaluate on ("test")."""
    if config.evaluate_on == "validation":
        table = datasets.hold_out(table)
    return table[table["split"] == name].reset_index(drop=True)


def test_set(config: Config, table: pd.DataFrame, protocol: Protocol) -> datasets.ImageDataset:
    """The test photographs in a protocol's geometry: the whole frame, or its centre."""
    side = config.image_size
    transform = datasets.test_transform(side, protocols.frame_side(side, protocol))
    return datasets.ImageDataset(split(config, table, "test"), config.root, transform)


def pictures(config: Config, table: pd.DataFrame, images: Sequence[int]) -> list[np.ndarray]:
    """Some of the test photographs as the network sees them, uint8 (H, W, 3)."""
    photographs = test_set(config, table, config.conventions)
    return [datasets.denormalize(photographs[i][0]) for i in images]


def trainings(config: Config, table: pd.DataFrame) -> list[tuple[str, str]]:
    """The networks that a run compares: every method with every pooling, as (method, pooling).

    Without a train split a network stays as it is: plain, with GAP.

    Raises:
        ValueError: if there is no train split and other methods are asked for.
    """
    if not split(config, table, "train").empty:
        return list(itertools.product(config.methods, config.poolings))
    if config.methods != ("cam",):
        others = ", ".join(config.methods[1:])
        raise ValueError(f"{config.dataset} has no train split, and {others} must be trained: leave methods as ['cam']")
    return [("cam", "gap")]


def device(config: Config) -> str:
    """Where to compute, as torch calls it.

    Raises:
        ValueError: if this machine has no such device, with those that it has.
    """
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    gpus = (["cuda"] if cuda else []) + mps
    word = {"": "cuda" if cuda else "cpu", "gpu": next(iter(gpus), "gpu")}.get(config.device, config.device)
    if word not in ("cpu", *cuda, *gpus):
        there = ", ".join(["cpu", *cuda, *mps])
        raise ValueError(f"device {config.device!r}: torch finds none here; there is {there}")
    return word


def workers(config: Config) -> int:
    """How many processes decode images."""
    if config.workers >= 0:
        return config.workers
    return 0 if device(config) == "cpu" else min(16, torch.get_num_threads())


# What notebooks 01 to 03 wrote.


def annotations(config: Config) -> pd.DataFrame:
    """The table that notebook 01 wrote."""
    return datasets.read_table(config.require(config.folder / "annotations.csv", "01_dataset_preparation"))


def networks(config: Config) -> pd.DataFrame:
    """The networks that notebook 02 trained: seed, method, pooling, own_head, classes, and how their training ended."""
    return seed_csv(config, "networks.csv", "02_finetune_wgap")


def ours(config: Config) -> str:
    """The pooling that stands for the paper's: plain fine-tuning's WGAP, or its last one where that was not trained."""
    names = list(networks(config).query("method == 'cam'")["pooling"])
    return "wgap" if "wgap" in names else names[-1]


def name_of(method: str, pooling: str) -> str:
    """What files call a network: "wgap", or "has_wgap" of another method than plain fine-tuning."""
    return pooling if method == "cam" else f"{method}_{pooling}"


def checkpoint(config: Config, seed: int, pooling: str, method: str = "cam") -> Path:
    """Where notebook 02 keeps a network."""
    return config.seed_folder(seed) / f"{name_of(method, pooling)}.safetensors"


def prediction_folder(config: Config, seed: int, pooling: str, protocol: Protocol, method: str = "cam") -> Path:
    """Where notebook 03 keeps a network's pass over the test split; a crop of the images is another pass."""
    crop = "" if protocol.frame == 1 else "_cropped"
    return config.seed_folder(seed) / f"predictions_{name_of(method, pooling)}{crop}"


def predictions(
    config: Config, seed: int, pooling: str, protocol: Protocol | None = None, method: str = "cam"
) -> Predictions:
    """A network's pass over the test split, in a protocol's geometry, the run's by default."""
    path = prediction_folder(config, seed, pooling, protocol or config.conventions, method)
    return Predictions.load(config.require(path, "03_cam_recombination"))


def passes(config: Config, protocol: Protocol | None = None) -> dict[tuple[int, str, str], Predictions]:
    """The `predictions` of all networks, by the columns `evaluation.NETWORK`."""
    return {
        (row.seed, row.method, row.pooling): predictions(config, row.seed, row.pooling, protocol, row.method)
        for row in networks(config).itertuples()
    }


# Tables of all seeds.


def write_seed_csv(config: Config, rows: pd.DataFrame, name: str) -> None:
    """Write each seed's rows into its own folder; a table without rows where a seed has none."""
    for seed in config.seeds:
        write_csv(rows[rows["seed"] == seed], config.seed_folder(seed) / name)
        print("wrote", config.show(config.seed_folder(seed) / name))


def seed_csv(config: Config, name: str, notebook: str) -> pd.DataFrame:
    """Read the tables of that name of all seeds, one below the other.

    Raises:
        FileNotFoundError: if one is missing, naming the notebook that writes it.
    """
    paths = [config.require(config.seed_folder(seed) / name, notebook) for seed in config.seeds]
    return pd.concat([read_csv(path) for path in paths], ignore_index=True)


def described(config: Config, rows: pd.DataFrame) -> pd.DataFrame:
    """Add to rows of metrics the columns that say what they were measured on, in the order of metrics.csv.

    "weights" is what training started from: "imagenet", "scratch", the file's name, or "things" for the sample's own.
    """
    protocol = config.conventions
    constant = {name: getattr(config, name) for name in ("dataset", "profile", "backbone", "protocol", "features")}
    constant |= {name: getattr(protocol, name) for name in experiments.CONVENTIONS}
    evaluated = "train" if config.evaluate_on == "validation" else "test"
    skipped = read_csv(config.require(config.folder / "skipped.csv", "01_dataset_preparation"))
    weights = Path(config.weights).name.removesuffix(".safetensors") or "things"
    rows = rows.assign(
        **constant, candidates=len(protocol.candidates), n_skipped=(skipped["split"] == evaluated).sum(),
        weights=weights, temperature=config.temperature,
    )  # fmt: skip
    rows["temperature"] = rows["temperature"].where(rows["pooling"].str.startswith("wgap"))
    return rows[METRICS_COLUMNS]


# What became of each image.


def write_overlaps(config: Config, rows: pd.DataFrame, name: str) -> None:
    """Keep what became of each image by rows of `evaluation.rows`, in each seed's folder.

    The file holds `COMBINATION`, (R,) str each, `iou`, (R, N) float64, and `class_is_right`, (R, N) bool.
    """
    for seed in config.seeds:
        own, path = rows[rows["seed"] == seed], config.seed_folder(seed) / name
        arrays = {column: own[column].to_numpy(str) for column in COMBINATION}
        write_arrays(path, arrays | {column: np.array(list(own[column])) for column in ("iou", "class_is_right")})
        print("wrote", config.show(path))


def overlaps(config: Config) -> pd.DataFrame:
    """Read what notebooks 03 and 04 kept: seed, `COMBINATION`, and of each image iou and class_is_right.

    Raises:
        FileNotFoundError: if a file is missing, naming the notebook that writes it.
        ValueError: if it is cut off.
    """
    rows = []
    for seed, (name, notebook) in itertools.product(config.seeds, OVERLAPS.items()):
        kept = read_arrays(config.require(config.seed_folder(seed) / name, notebook))
        columns = {name: list(kept[name]) for name in (*COMBINATION, "iou", "class_is_right")}
        rows.append(pd.DataFrame(columns).assign(seed=seed))
    return pd.concat(rows, ignore_index=True).astype(dict.fromkeys(COMBINATION, str))


def outcomes(metrics: pd.DataFrame, rows: pd.DataFrame, iou: float) -> dict[str, np.ndarray]:
    """Whether each row of metrics met each image.

    Args:
        rows: of `overlaps`, or of `evaluation.rows` with the seed; in any order.
        iou: that counts as a hit.

    Returns:
        For `gt_known`, `top1_loc` and `top1_cls`: (rows of metrics, N) bool.

    Raises:
        ValueError: if rows lack one of metrics.
    """
    key = ["seed", *COMBINATION]
    found = metrics[key].merge(rows, on=key, how="left")
    for missing in found.loc[found["iou"].isna(), key].itertuples(index=False, name=None):
        raise ValueError(f"no image's IoU is kept for {missing}: run notebooks 03 and 04 again")
    known, right = np.stack(list(found["iou"])) >= iou, np.stack(list(found["class_is_right"]))
    return {"gt_known": known, "top1_loc": known & right, "top1_cls": right}


# The columns of Fig. 4.


def save_panels(path: Path, columns: list[dict[str, np.ndarray]]) -> None:
    """Keep the columns of Fig. 4, so that a later run on the other data set can join them to its own."""
    write_arrays(path, {f"{i}/{key}": value for i, column in enumerate(columns) for key, value in column.items()})


def load_panels(path: Path) -> list[dict[str, np.ndarray]]:
    """Read what `save_panels` kept."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    for name, array in read_arrays(path).items():
        i, key = name.split("/")
        columns.setdefault(i, {})[key] = array
    return list(columns.values())
