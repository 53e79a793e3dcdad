"""manifest.json: what a run was, so that it can be repeated and its files recognised. Written last."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from wsol_utils import experiments, reference, runs, tables

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "pandas", "scikit-image", "pillow",
    "matplotlib", "papermill",
)  # fmt: skip


def write(config: experiments.Config, given: dict[str, str]) -> None:
    """RESULTS/<profile>/<dataset>/manifest.json.

    Args:
        config: the run's configuration.
        given: the parameters that were not left to the profile.
    """
    folders = [config.folder, config.folder / "notebooks", *map(config.seed_folder, config.seeds)]
    files = sorted(path for folder in folders for path in folder.glob("*") if path.is_file())
    files = [path for path in files if path.name != "manifest.json" and not path.name.startswith(".")]
    notebooks = [path for path in files if path.suffix == ".ipynb"]
    weights = experiments.absolute(config.weights)
    content = {
        "given": given,
        "parameters": asdict(config),
        "seeds": config.seeds,
        "device": _device(config),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "git_revision": _revision(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_seconds": {path.stem: _duration(path) for path in notebooks},
        "weights_sha256": _sha256(weights) if config.weights and weights.is_file() else "",
        "sha256": {path.relative_to(config.folder).as_posix(): _sha256(path) for path in files},
    }  # fmt: skip
    tables.write(config.folder / "manifest.json", json.dumps(content, indent=1) + "\n")


def summary(config: experiments.Config) -> str:
    """Where the results are, and how they compare with results/reference."""
    metrics = pd.read_csv(config.folder / "metrics.csv")
    compared = reference.compare(metrics, config.profile, config.dataset)
    text = f"{config.dataset}: {config.show(config.folder / 'table.md')}"
    if len(compared) and experiments.is_usual(config):
        inside = f"{compared['inside'].sum()} of {len(compared)} figures lie within the bands"
        return f"{text}; {inside} of results/reference/{config.profile}/{config.dataset}"
    return f"{text}; results/reference has no bands for this run"


def _device(config: experiments.Config) -> str:
    if runs.device(config) == "cpu":
        return f"CPU {platform.machine()}, {config.threads or torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(runs.device(config)) if torch.cuda.is_available() else runs.device(config)


def _revision() -> str:
    command = ["git", "-C", str(experiments.ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def _duration(notebook: Path) -> float:
    return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"]


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
