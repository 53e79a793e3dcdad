"""Write manifest.json, the last file of a run: how to repeat the run, and the checksums of its files."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from wsol_utils.benchmarks.kernels import processor
from wsol_utils.common.files import ROOT, sha256, write_text
from wsol_utils.experiment import experiments, handover
from wsol_utils.figures import reference

ROUNDING = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")  # variables that change how a CPU rounds
# The files that list a data set's images, classes and boxes.
LISTS = ("*.csv", "*.txt", "*.json", "val/*.txt")


def write(config: experiments.Config, given: dict[str, str]) -> None:
    """Write RESULTS/<profile>/<dataset>/manifest.json.

    Args:
        config: the run's configuration.
        given: the parameters that were not left to the profile.
    """
    files = listed(config.folder, config.seeds)
    notebooks = [path for path in files if path.suffix == ".ipynb"]
    weights = experiments.absolute(config.weights)
    content = {
        "command": command(config.dataset, given),
        "given": given,
        "parameters": asdict(config),
        "seeds": config.seeds,
        "device": _device(config),
        "platform": _platform(config),
        "versions": versions(),
        "git_revision": _revision(),
        "code": _code([path.name for path in notebooks]),
        "data": _data(config),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_seconds": {
            path.stem: json.loads(path.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"]
            for path in notebooks
        },
        "weights_sha256": sha256(weights) if config.weights and weights.is_file() else "",
        "sha256": {path.relative_to(config.folder).as_posix(): sha256(path) for path in files},
    }
    write_text(config.folder / "manifest.json", json.dumps(content, indent=1) + "\n")


def summary(config: experiments.Config) -> str:
    """Say where the results are, and how they compare with results/reference."""
    metrics = pd.read_csv(config.folder / "metrics.csv")
    compared = reference.describe(metrics, config, experiments.is_usual(config))
    return f"{config.dataset}: {config.show(config.folder / 'table.md')}; {compared}"


def command(dataset: str, given: dict[str, str]) -> str:
    """Return what to type to repeat a run: paths as they were given, values quoted for the shell and for make."""
    values = {"dataset": dataset} | given
    words = [f"{name.upper()}={shlex.quote(str(value).replace('$', '$$'))}" for name, value in values.items()]
    return " ".join(["make reproduce", *words])


def listed(folder: Path, seeds: tuple[int, ...]) -> list[Path]:
    """List the files of a run, sorted: tables, pictures, notebooks, work files and predictions of its seeds.

    Hidden files and the report's pages, which are made of the others, are left out.
    """
    folders = [folder, folder / "notebooks", *(folder / f"seed{seed}" for seed in seeds)]
    folders += [path for seed in seeds for path in folder.glob(f"seed{seed}/predictions_*")]
    files = sorted(path for some in folders for path in some.glob("*") if path.is_file())
    files = [path for path in files if not path.match("notebooks/*.html")]
    return [path for path in files if path.name != "manifest.json" and not path.name.startswith(".")]


def versions() -> dict[str, str]:
    """Give the version of Python and of every installed package; of two copies, that of the one which is imported."""
    about = [distribution.metadata for distribution in importlib.metadata.distributions()]
    found = {(each["Name"] or "").lower(): each["Version"] for each in reversed(about)}  # the first on the path counts
    return {"python": platform.python_version()} | {name: found[name] for name in sorted(found) if name}


def _code(notebooks: list[str]) -> dict[str, str]:
    """Checksums of the modules, dodo.py and the notebooks of those names, as they stand in the repository."""
    paths = [ROOT / "dodo.py", *(ROOT / "notebooks" / name for name in notebooks), *(ROOT / "wsol_utils").rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): sha256(path) for path in sorted(paths) if path.is_file()}


def _data(config: experiments.Config) -> dict[str, dict]:
    """The data set's lists, each with its checksum and size in bytes."""
    paths = sorted(path for pattern in LISTS for path in config.root.glob(pattern) if path.is_file())
    return {
        path.relative_to(config.root).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in paths
    }


def _platform(config: experiments.Config) -> dict[str, object]:
    """Describe what the run computed on, as far as figures can depend on it."""
    found = {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor(),
        "threads": config.threads or torch.get_num_threads(),
        "deterministic_algorithms": config.deterministic,
    } | {name: os.environ[name] for name in ROUNDING if name in os.environ}
    if handover.device(config) != "cpu" and torch.cuda.is_available():
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def _device(config: experiments.Config) -> str:
    if handover.device(config) == "cpu":
        return f"CPU {platform.machine()}, {config.threads or torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(handover.device(config)) if torch.cuda.is_available() else handover.device(config)


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
