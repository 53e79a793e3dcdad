"""What a configuration says of a run: its splits, where it computes, and the files that notebooks hand on.

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


def annotations(config: Config) -> pd.DataFrame:
    """The table that notebook 01 wrote."""
    return datasets.read_table(config.require(config.folder / "annotations.csv", "01_dataset_preparation"))


def skipped(config: Config) -> pd.DataFrame:
    """The photographs that the run does without, as notebook 01 listed them."""
    return read_csv(config.require(config.folder / "skipped.csv", "01_dataset_preparation"))


def networks(config: Config) -> pd.DataFrame:
    """The networks that notebook 02 trained: seed, method, pooling, own_head, classes, and how their training ended."""
    return seed_csv(config, "networks.csv", "02_finetune_wgap")


def trainings(config: Config, table: pd.DataFrame) -> list[tuple[str, str]]:
    """The networks that a run compares: every method with every pooling, as (method, pooling).

    A network that stands as it is, for want of a train split, is plain and has GAP alone.

    Raises:
        ValueError: if other methods are asked for where nothing can be trained.
    """
    if not split(config, table, "train").empty:
        return list(itertools.product(config.methods, config.poolings))
    if config.methods != ("cam",):
        others = ", ".join(config.methods[1:])
        raise ValueError(f"{config.dataset} has no train split, and {others} must be trained: leave methods as ['cam']")
    return [("cam", "gap")]


def checkpoint(config: Config, seed: int, pooling: str, method: str = "cam") -> Path:
    """Where notebook 02 keeps the network of one pooling and method."""
    return config.seed_folder(seed) / f"{name_of(method, pooling)}.safetensors"


def prediction_folder(config: Config, seed: int, pooling: str, protocol: Protocol, method: str = "cam") -> Path:
    """Where notebook 03 keeps one network's pass over the test split; a crop of the images is another pass."""
    crop = "" if protocol.frame == 1 else "_cropped"
    return config.seed_folder(seed) / f"predictions_{name_of(method, pooling)}{crop}"


def name_of(method: str, pooling: str) -> str:
    """What files call a network: "wgap", or "has_wgap" of another method than plain fine-tuning."""
    return pooling if method == "cam" else f"{method}_{pooling}"


def predictions(
    config: Config, seed: int, pooling: str, protocol: Protocol | None = None, method: str = "cam"
) -> Predictions:
    """What notebook 03 kept of one network's pass over the test split, in the geometry of a protocol."""
    path = prediction_folder(config, seed, pooling, protocol or config.conventions, method)
    return Predictions.load(config.require(path, "03_cam_recombination"))


def passes(config: Config, protocol: Protocol | None = None) -> dict[tuple[int, str, str], Predictions]:
    """`predictions` of all networks, by the columns `evaluation.NETWORK`."""
    return {
        (row.seed, row.method, row.pooling): predictions(config, row.seed, row.pooling, protocol, row.method)
        for row in networks(config).itertuples()
    }


def seed_csv(config: Config, name: str, notebook: str) -> pd.DataFrame:
    """The tables of that name of all seeds, one below the other.

    Raises:
        FileNotFoundError: naming the notebook that writes them, if one is not there.
    """
    paths = [config.require(config.seed_folder(seed) / name, notebook) for seed in config.seeds]
    return pd.concat([read_csv(path) for path in paths], ignore_index=True)


def read_csv(path: Path) -> pd.DataFrame:
    """A table that `write_csv` wrote.

    Raises:
        ValueError: if it is cut off within a line.
    """
    if files.is_cut_off(path):
        raise ValueError(f"{path} is cut off: delete it, and run the notebook that writes it again")
    return pd.read_csv(path)


def write_seed_csv(config: Config, rows: pd.DataFrame, name: str) -> None:
    """Write each seed's rows into its own folder; a table without rows where a seed has none."""
    for seed in config.seeds:
        write_csv(rows[rows["seed"] == seed], config.seed_folder(seed) / name)
        print("wrote", config.show(config.seed_folder(seed) / name))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV: the whole file or none."""
    files.write_text(path, table.to_csv(index=False, lineterminator="\n"))


def described(config: Config, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of metrics with the columns that say what they were measured on, in the order of metrics.csv."""
    protocol = config.conventions
    constant = {name: getattr(config, name) for name in ("dataset", "profile", "backbone", "protocol", "features")}
    constant |= {name: getattr(protocol, name) for name in experiments.CONVENTIONS}
    evaluated = "train" if config.evaluate_on == "validation" else "test"
    n_skipped = int((skipped(config)["split"] == evaluated).sum())
    constant["weights"] = starting_point(config)
    rows = rows.assign(**constant, candidates=len(protocol.candidates), n_skipped=n_skipped)
    rows["temperature"] = np.where(rows["pooling"].str.startswith("wgap"), config.temperature, np.nan)
    return rows[METRICS_COLUMNS]


def starting_point(config: Config) -> str:
    """What tables call the weights that training started from: "imagenet", "scratch", the name of their file, or
    "things" for the sample's own.
    """
    return Path(config.weights).name.removesuffix(".safetensors") or "things"


def write_overlaps(config: Config, rows: pd.DataFrame, name: str) -> None:
    """Keep what became of each image by rows of `evaluation.rows`, in each seed's folder.

    The file holds `pooling`, `recombination` and `threshold_rule`, (R,) str, `iou`, (R, N) float64, and
    `class_is_right`, (R, N) bool.
    """
    for seed in config.seeds:
        own, path = rows[rows["seed"] == seed], config.seed_folder(seed) / name
        arrays = {column: own[column].to_numpy(str) for column in COMBINATION}
        write_arrays(path, arrays | {column: np.array(list(own[column])) for column in ("iou", "class_is_right")})
        print("wrote", config.show(path))


def overlaps(config: Config) -> pd.DataFrame:
    """What `write_overlaps` kept in notebooks 03 and 04: seed, `COMBINATION`, and of each image iou and class_is_right.

    Raises:
        FileNotFoundError: if a file of an earlier notebook is missing.
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
    place = {words: i for i, words in enumerate(rows[key].itertuples(index=False, name=None))}
    keys = list(metrics[key].itertuples(index=False, name=None))
    if missing := [words for words in keys if words not in place]:
        raise ValueError(f"no image's IoU is kept for {missing[0]}: run notebooks 03 and 04 again")
    found = rows.iloc[[place[words] for words in keys]]
    known, right = np.stack(list(found["iou"])) >= iou, np.stack(list(found["class_is_right"]))
    return {"gt_known": known, "top1_loc": known & right, "top1_cls": right}


def save_panels(path: Path, columns: list[dict[str, np.ndarray]]) -> None:
    """Keep the columns of Fig. 4, so that a later run on the other data set can join them to its own."""
    write_arrays(path, {f"{i}/{key}": value for i, column in enumerate(columns) for key, value in column.items()})


def load_panels(path: Path) -> list[dict[str, np.ndarray]]:
    """What `save_panels` kept."""
    columns: dict[str, dict[str, np.ndarray]] = {}
    for name, array in read_arrays(path).items():
        i, key = name.split("/")
        columns.setdefault(i, {})[key] = array
    return list(columns.values())


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write a NumPy archive (.npz): the whole file or none."""
    with files.written(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, or no archive of plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{others[0]} in it is no array")
        return arrays
    except Exception as error:  # zipfile's and NumPy's readers raise many kinds
        if isinstance(error, OSError) and error.filename:
            raise  # the file cannot be opened; where zipfile seeks a place that is none, there is no name
        raise ValueError(f"{path} is no whole .npz file ({error}): delete it and run again") from error


def test_set(config: Config, table: pd.DataFrame, protocol: Protocol) -> datasets.ImageDataset:
    """The test photographs in the geometry of a protocol: the whole frame, or its centre."""
    side = config.image_size
    transform = datasets.test_transform(side, protocols.frame_side(side, protocol))
    return datasets.ImageDataset(split(config, table, "test"), config.root, transform)


def ours(config: Config) -> str:
    """The pooling that stands for the paper's, without another method: WGAP, or the last one where that is missing."""
    names = list(networks(config).query("method == 'cam'")["pooling"])
    return "wgap" if "wgap" in names else names[-1]


def pictures(config: Config, table: pd.DataFrame, images: Sequence[int]) -> list[np.ndarray]:
    """Some of the test photographs as the network sees them, uint8 (H, W, 3)."""
    photographs = test_set(config, table, config.conventions)
    return [datasets.denormalize(photographs[i][0]) for i in images]


def device(config: Config) -> str:
    """Where to compute, as torch calls it.

    Raises:
        ValueError: if this machine has no such device; it says what there is.
    """
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    gpus = {"cuda": cuda, "mps": ["mps"] if torch.backends.mps.is_available() else []}
    if not config.device:
        return "cuda" if cuda else "cpu"
    word = next((name for name, there in gpus.items() if there), "gpu") if config.device == "gpu" else config.device
    there = ["cpu", *cuda, *gpus["mps"]]
    if word not in (*there, *(name for name in gpus if gpus[name])):
        raise ValueError(f"device {config.device!r}: torch finds none here; there is {', '.join(there)}")
    return word


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
