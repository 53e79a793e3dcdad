"""Check that a finished run is what its manifest says: compare checksums, and compute the tables again.

Nothing is written, and nothing outside the run's folder is opened: neither photographs nor networks are needed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from wsol_utils.common import files
from wsol_utils.experiment import experiments, handover
from wsol_utils.figures import tables
from wsol_utils.maps.predictions import FILES, Predictions
from wsol_utils.scores import evaluation, statistics

TOLERANCE = 1e-9  # between a figure and the same one computed again, in the unit of its table
SHOWN = 5  # differences of a table that get a line each
KEYS = {  # the columns that identify a row of each table
    "metrics.csv": ["seed", *handover.COMBINATION],
    "seeds.csv": handover.COMBINATION,
    "differences.csv": ["step", *handover.COMBINATION, "figure"],
    "contributions.csv": ["form", "figure", "step"],
}
MADE = {  # how notebook 05 computes its tables from metrics.csv and from the IoU of each image
    "seeds.csv": lambda config, metrics, rows: statistics.over_seeds(metrics),
    "differences.csv": lambda config, metrics, rows: statistics.paired_differences(
        metrics, outcomes=handover.outcomes(metrics, rows, config.conventions.iou)
    ),
    "contributions.csv": lambda config, metrics, rows: tables.all_contributions(
        handover.read_csv(config.folder / "differences.csv")
    ),
    "table.csv": lambda config, metrics, rows: tables.combined(config.dataset, metrics).to_csv(index=False),
    "table.md": lambda config, metrics, rows: tables.to_markdown(
        tables.combined(config.dataset, metrics), config.dataset
    ),
}


@dataclass(frozen=True)
class Kept(experiments.Config):
    """The configuration of a run that now lies in `here`."""

    here: Path = Path()

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.here


def verify_all(results: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Check every run below a folder, in the order of their names; hidden folders are passed over.

    Yields:
        The run's folder, and what `verify` returns. A run without a manifest was not finished, which is a finding.
    """
    found = {path.parent for name in ("manifest.json", "annotations.csv") for path in results.rglob(name)}
    for folder in sorted(found):
        if not _hidden(folder.relative_to(results)):
            yield folder, *verify(folder)


def verify(folder: Path) -> tuple[list[str], list[str]]:
    """Check one run.

    Args:
        folder: with the run's manifest.json; it may have been moved since.

    Returns:
        The findings, a line each; and the names of the files that the manifest does not list, which were not checked.
    """
    try:
        content, config = read(folder)
    except (OSError, ValueError) as error:
        return [_line(error)], []
    wrong = {name: _damage(folder, name, digest) for name, digest in content["sha256"].items()}
    whole = {name for name, damage in wrong.items() if not damage}
    paths = [
        path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".html"
    ]
    known = {"manifest.json", *wrong}
    unlisted = [path.as_posix() for path in paths if not _hidden(path) and path.as_posix() not in known]
    return [*filter(None, wrong.values()), *_figures(Kept(**vars(config), here=folder), whole)], unlisted


def read(folder: Path) -> tuple[dict, experiments.Config]:
    """Read the manifest of a run and the configuration that it was made with.

    Raises:
        FileNotFoundError: if there is no manifest.
        ValueError: if it is cut off or malformed, or has parameters that this release does not know.
    """
    try:
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        config = experiments.configure(**content["parameters"] | {"results": ""})
        dict.items(content["sha256"])
    except FileNotFoundError:
        raise FileNotFoundError("there is no manifest.json: the run was not finished, run it again") from None
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise ValueError(f"manifest.json is damaged, or of another release: {_line(error)}; run it again") from error
    return content, config


def _damage(folder: Path, name: str, digest: str) -> str:
    """Say what is wrong with a file that the manifest lists, or return "" if its checksum agrees."""
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            return f"manifest.json names {name!r}, which is not in the run's folder: not opened"
        return "" if files.sha256(path) == digest else f"{name} is not what the run wrote: its checksum differs"
    except FileNotFoundError:
        return f"{name} is missing"
    except (OSError, ValueError, RuntimeError) as error:  # the last one of links in a circle
        return f"{name} cannot be read: {_line(error)}"


def _figures(config: Kept, whole: set[str]) -> list[str]:
    """Compare metrics.csv with what the predictions say, and the tables of notebook 05 with what both say."""
    needed = ["metrics.csv", "skipped.csv", *(f"seed{seed}/networks.csv" for seed in config.seeds)]
    if lost := [name for name in needed if name not in whole]:
        return [f"no figure was computed again, for want of {', '.join(lost)} as the run wrote it"]
    findings, rows, left_out = [], list[dict](), []
    try:
        metrics = handover.read_csv(config.folder / "metrics.csv")
        columns = list(evaluation.NETWORK)
        for network in handover.networks(config)[columns].itertuples(index=False, name=None):
            seed, method, pooling = network
            folder = handover.prediction_folder(config, seed, pooling, config.conventions, method)
            name = folder.relative_to(config.folder).as_posix()
            if {f"{name}/{file}" for file in FILES} <= whole:  # nothing else is opened
                rows += _measured(config, {network: Predictions.load(folder)})
            else:
                left_out.append(network)
                findings.append(f"no figure of {name} was computed again, for want of its files as the run wrote them")
        if not rows:
            return findings
        own = metrics[~pd.MultiIndex.from_frame(metrics[columns]).isin(left_out)] if left_out else metrics
        findings += _differences("metrics.csv", own, handover.described(config, pd.DataFrame(rows)))
    except Exception as error:  # tables of other columns and arrays of other shapes can fail in many ways
        return [*findings, f"metrics.csv cannot be computed again: {_line(error)}"]
    for name in (name for name in MADE if name in whole and not (left_out and name == "differences.csv")):
        try:
            kept, again = config.folder / name, MADE[name](config, metrics, pd.DataFrame(rows))
            findings += _differences(name, pd.read_csv(kept) if name in KEYS else kept.read_text("utf-8"), again)
        except Exception as error:  # likewise
            findings.append(f"{name} cannot be computed again: {_line(error)}")
    return findings


def _measured(config: experiments.Config, networks: dict[tuple, Predictions]) -> list[dict]:
    """Compute the rows of metrics.csv again that notebooks 03 and 04 make of networks' predictions."""
    conventions, rows = config.conventions, []
    for key, prediction, name in evaluation.combinations(networks, config.recombinations, config.features):
        bounds = evaluation.bounds(prediction, name, conventions)
        by_rule = evaluation.overlaps(prediction, name, conventions, ["fixed", *config.rules])
        chosen = evaluation.rows(prediction, by_rule, conventions)[1:]  # the fixed one is among the bounds
        rows += [key | row for row in evaluation.rows(prediction, bounds, conventions) + chosen]
    return rows


def _differences(name: str, kept: pd.DataFrame | str, again: pd.DataFrame | str) -> list[str]:
    """Name the first few cells of a table, or lines of a text, that differ from those computed again."""
    if isinstance(kept, str) or isinstance(again, str):
        lines = zip_longest(str(kept).splitlines(), str(again).splitlines(), fillvalue="")
        said = [f"{name}: line {n} is {a!r}, computed again {b!r}" for n, (a, b) in enumerate(lines, 1) if a != b]
    else:
        again = pd.read_csv(StringIO(again.to_csv(index=False)))
        cells = [table.set_index(KEYS[name]).stack(future_stack=True) for table in (kept, again)]
        said = [
            f"{name}: {column} of {', '.join(map(str, row))} is {a}, computed again {b}"
            for (*row, column), a, b in pd.concat(cells, axis=1).itertuples()
            if not _same(a, b)
        ]
    return [*said[:SHOWN], *([f"… and {len(said) - SHOWN} more of {name}"] if len(said) > SHOWN else [])]


def _same(a: object, b: object) -> bool:
    """Say whether two cells are equal: numbers within the tolerance, NaN as itself, all else exactly."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= TOLERANCE or (a != a and b != b)
    return a == b


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
