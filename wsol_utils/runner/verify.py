"""Check that a finished run is what its manifest says: compare checksums, and compute the tables again.

Nothing is written, and nothing outside the run's folder is opened: neither photographs nor networks are needed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from wsol_utils.common import files
from wsol_utils.experiment import experiments, handover
from wsol_utils.figures import tables
from wsol_utils.maps.predictions import FILES, Predictions
from wsol_utils.runner import comparison, manifest
from wsol_utils.scores import evaluation, statistics

KEYS = {  # what tells the rows of a table apart
    "metrics.csv": ["seed", *handover.COMBINATION],
    "seeds.csv": handover.COMBINATION,
    "differences.csv": ["step", *handover.COMBINATION, "figure"],
    "contributions.csv": ["form", "figure", "step"],
}
MADE = {  # what notebook 05 makes of metrics.csv and of each image's IoU, which are checked first
    "seeds.csv": lambda config, metrics: statistics.over_seeds(metrics),
    "differences.csv": lambda config, metrics: statistics.paired_differences(
        metrics, outcomes=handover.outcomes(metrics, handover.overlaps(config), config.conventions.iou)
    ),
    "contributions.csv": lambda config, metrics: tables.all_contributions(  # of the table that was just checked
        handover.read_csv(config.folder / "differences.csv")
    ),
    "table.csv": lambda config, metrics: tables.combined(config.dataset, metrics).to_csv(index=False),
    "table.md": lambda config, metrics: tables.to_markdown(tables.combined(config.dataset, metrics), config.dataset),
}


@dataclass(frozen=True)
class Finding:
    """A line about a run: what is wrong, or a remark, which a reader of its figures may want to know."""

    text: str
    remark: bool = False


@dataclass(frozen=True)
class Kept(experiments.Config):
    """The configuration of a run that lies in `here`, wherever it was made."""

    here: Path = Path()

    @property
    def folder(self) -> Path:
        """The run's own."""
        return self.here


def verify_all(results: Path) -> Iterator[tuple[Path, list[Finding]]]:
    """Every run below a folder, in the order of their names, with what `verify` finds; hidden folders are passed over.

    A run that has begun and has no manifest was not finished: this is found, too.
    """
    found = {path.parent for name in ("manifest.json", "annotations.csv") for path in results.rglob(name)}
    for folder in sorted(found):
        if not _hidden(folder.relative_to(results)):
            yield folder, verify(folder)


def verify(folder: Path) -> list[Finding]:
    """What is wrong with a run, and what is worth a remark.

    Args:
        folder: with the run's manifest.json; it may have been moved since.

    Returns:
        Remarks at most where everything is as its manifest says.
    """
    try:
        content, config = read(folder)
    except (OSError, ValueError) as error:
        return [Finding(_line(error))]
    findings, checked = _checksums(folder, content["sha256"])
    whole = {name for name, same in checked.items() if same}
    if "metrics.csv" in checked:
        findings += _figures(config, checked, whole)
    return findings + _remarks(folder, content)


def read(folder: Path) -> tuple[dict, Kept]:
    """The manifest of a run, and the configuration that it was made with.

    Raises:
        FileNotFoundError: if there is no manifest.
        ValueError: if it is cut off or malformed, or has a parameter that this release does not know.
    """
    try:
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError("there is no manifest.json: the run was not finished, run it again") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"manifest.json is cut off, or no JSON ({error})") from error
    for name, needed in {"parameters": ("dataset", "profile"), "sha256": ("metrics.csv",)}.items():
        values = content.get(name) if isinstance(content, dict) else None
        if not isinstance(values, dict) or not set(needed) <= set(values):
            raise ValueError(f"manifest.json is malformed: {name!r} must be there, and hold {' and '.join(needed)}")
    known = {field.name for field in fields(experiments.Config)}
    if unknown := sorted(set(content["parameters"]) - known):
        text = "manifest.json has parameters that this release does not know"
        raise ValueError(f"{text}, {', '.join(map(repr, unknown))}: verify it with the release that made the run")
    try:
        config = experiments.configure(**content["parameters"] | {"results": ""})
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError(f"manifest.json has parameters that make no run: {error}") from error
    return content, Kept(**vars(config), here=folder)


def inside(folder: Path, name: str) -> bool:
    """Whether a name in a manifest stays in the run's folder, links followed."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        return False
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # links in a circle, a name that no file can have
        return False


def measured(config: experiments.Config, networks: dict[tuple, Predictions]) -> list[dict]:
    """The rows of metrics.csv that notebooks 03 and 04 make of networks' predictions, by `evaluation.NETWORK`."""
    conventions, rows = config.conventions, []
    for key, prediction, name in evaluation.combinations(networks, config.recombinations, config.features):
        bounds = evaluation.bounds(prediction, name, conventions)
        by_rule = evaluation.overlaps(prediction, name, conventions, ["fixed", *config.rules])
        chosen = evaluation.rows(prediction, by_rule, conventions)[1:]  # the fixed one is among the bounds
        rows += [key | row for row in evaluation.rows(prediction, bounds, conventions) + chosen]
    return rows


def _checksums(folder: Path, listed: dict[str, str]) -> tuple[list[Finding], dict[str, bool]]:
    """What is wrong with the files that a manifest lists; of those that are there, whether they are as it says."""
    findings, checked = [], {}
    for name, digest in listed.items():
        if not inside(folder, name):
            findings.append(Finding(f"manifest.json names {name!r}, which is not in the run's folder: not opened"))
            continue
        try:
            if not (folder / name).is_file():
                findings.append(Finding(f"{_shown(name)} is missing"))
                continue
            checked[name] = files.sha256(folder / name) == digest
        except OSError as error:
            findings.append(Finding(f"{_shown(name)} cannot be read: {error.strerror or error}"))
            continue
        if not checked[name]:
            findings.append(Finding(f"{_shown(name)} is not what the run wrote: its checksum differs"))
    return findings, checked


def _figures(config: Kept, checked: dict[str, bool], whole: set[str]) -> list[Finding]:
    """metrics.csv beside what the predictions say, and the tables of notebook 05 beside what it says."""
    try:
        metrics = handover.read_csv(config.folder / "metrics.csv")
    except (OSError, ValueError) as error:
        return [Finding(f"metrics.csv is no table: {_line(error)}")]
    try:
        findings = _metrics(config, metrics, whole)
    except Exception as error:  # a table of other columns or values can fail in many ways
        findings = [Finding(f"metrics.csv cannot be computed again: {_line(error)}")]
    for name in (name for name in MADE if name in checked):
        try:
            again = MADE[name](config, metrics)
            if isinstance(again, str):
                findings += _told(comparison.of_texts(name, (config.folder / name).read_bytes(), again))
            else:
                findings += _told(
                    comparison.of_tables(name, KEYS[name], handover.read_csv(config.folder / name), again)
                )
        except Exception as error:  # likewise
            findings.append(Finding(f"{name} cannot be computed again: {_line(error)}"))
    return findings


def _metrics(config: Kept, metrics: pd.DataFrame, whole: set[str]) -> list[Finding]:
    columns, networks = list(evaluation.NETWORK), metrics  # or, where it is whole, the list of them
    if all(f"seed{seed}/networks.csv" in whole for seed in config.seeds):
        networks = handover.networks(config)
    findings, rows, failed = [], [], []
    for network in networks[columns].drop_duplicates().itertuples(index=False, name=None):
        seed, method, pooling = network
        path = handover.prediction_folder(config, seed, pooling, config.conventions, method)
        name = path.relative_to(config.folder).as_posix()
        try:
            if not {f"{name}/{file}" for file in FILES} <= whole:  # the checksums have told why
                raise ValueError("it is missing or damaged, or the manifest does not list it")
            rows += measured(config, {network: Predictions.load(path)})
        except Exception as error:  # arrays that do not go together can fail in many ways
            findings.append(Finding(f"{_shown(name)}: the figures made of it were not checked: {_line(error)}"))
            failed.append(network)
    if rows:
        left = metrics[~pd.MultiIndex.from_frame(metrics[columns]).isin(failed)] if failed else metrics
        again = handover.described(config, pd.DataFrame(rows))
        findings += _told(comparison.of_tables("metrics.csv", KEYS["metrics.csv"], left, again))
        findings += _overlaps(config, pd.DataFrame(rows))
    return findings


def _overlaps(config: Kept, again: pd.DataFrame) -> list[Finding]:
    """Each image's IoU, as it is kept, beside what the predictions say."""
    key = ["seed", *handover.COMBINATION]
    try:
        kept = handover.overlaps(config).set_index(key)
    except (OSError, ValueError, KeyError) as error:
        return [Finding(f"the IoU of the images were not checked: {_line(error)}")]
    said = []
    for row, here in again.set_index(key)[["iou", "class_is_right"]].iterrows():
        there = kept.loc[row] if row in kept.index else None
        if there is None or any(
            np.shape(there[name]) != np.shape(here[name])
            or not np.allclose(there[name], here[name], rtol=0, atol=comparison.TOLERANCE)
            for name in here.index
        ):
            said.append(f"the IoU of the images that are kept for {comparison.words(row)} are not those computed again")
    return _told(comparison.few(said))


def _remarks(folder: Path, content: dict) -> list[Finding]:
    """Files that the manifest does not know, and what else is here than where the run was made."""
    remarks = []
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.as_posix() for path in paths if not _hidden(path) and not path.match("notebooks/*.html")]  # report's
    if extra := [name for name in names if name not in content["sha256"] and name != "manifest.json"]:
        remarks.append(f"not in the manifest, so not checked: {_some(list(map(_shown, extra)))}")
    here = manifest.packages() | manifest.versions()
    there = _words_of(content, "packages") | _words_of(content, "versions")
    if other := [f"{n} {v} (here {here.get(n, 'none')})" for n, v in there.items() if v != here.get(n)]:
        remarks.append(f"other versions: {_some(other)}")
    there = _words_of(content, "code")
    here = manifest.code([PurePosixPath(name).name for name in there if name.startswith("notebooks/")])
    if other := [name for name, digest in there.items() if digest != here.get(name)]:
        remarks.append(f"another text here than when the run was made: {_some(other)}")
    return [Finding(text, remark=True) for text in remarks]


def _words_of(content: dict, name: str) -> dict:
    """A part of the manifest that holds names with texts; empty where an earlier release wrote none."""
    return content[name] if isinstance(content.get(name), dict) else {}


def _told(said: Sequence[str]) -> list[Finding]:
    return [Finding(text) for text in said]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - comparison.SHOWN} more" if len(names) > comparison.SHOWN else ""
    return ", ".join(names[: comparison.SHOWN]) + more


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
