"""Write the report of a profile: index.html with the tables, figures and manifests of its runs, and their notebooks.

Everything opens from the disk, without a network and without scripts: links are relative, formulas are MathML.
"""

import re
from pathlib import Path

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from wsol_utils.experiment import experiments, handover
from wsol_utils.figures import reference, tables
from wsol_utils.runner import manifest, pages, verify

FORMULAS = {  # the method in four lines
    "WGAP (Eq. 1): a channel weighs its own positions by a softmax S, and is averaged": (
        r"G_W = \frac{1}{W H} \sum_{i,j} P_c(i,j)\, S_c(i,j)"
    ),
    "Recombination (Eq. 3): channels of negative weight are added, not subtracted": (
        r"\hat{M}_c = M_p + |M_n| = \sum_k |w_k| F_k"
    ),
    "Boundary (Sec. 4.3): the step from threshold to threshold of the map's mean V on the mask's boundary": (
        r"D_l = |V_l - V_{l-1}|"
    ),
    "Threshold (Sec. 4.3): the first whose step is above the mean step": (
        r"\eta^{*} = \min \{ \eta_l : D_l > \bar{D} \}"
    ),
}
FIGURES = {
    "fig2.png": ("Fig. 2", "photographs; their strongest positive and negative channel; original and recombined CAM"),
    "fig3.png": ("Fig. 3", "a photograph, its CAM, the steps D against the threshold η, and the boxes of two rules"),
    "fig4.png": ("Fig. 4", "the original CAM above the paper's method; predicted boxes green, true boxes red"),
}
STEP = ["step", "pooling", "recombination", "threshold_rule", "n_seeds", "from", "to", "difference", "low", "high"]


def write(folder: Path) -> Path:
    """Write index.html of RESULTS/<profile>, and notebooks/*.html of every finished run in it.

    Returns:
        The path of index.html.

    Raises:
        ValueError: if there is no finished run.
    """
    found, unread = [], {}
    for path in sorted(folder.glob("*/manifest.json")):
        try:
            found.append(_run(path.parent))
        except (OSError, ValueError, LookupError) as error:  # of another release, or damaged
            unread[path.parent.name] = " ".join(str(error).split())
    if not found:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in unread.items()) or "there is no finished run")
    index, maps = folder / "index.html", _notebooks(folder)
    for run in [{"folder": folder, "notebooks": found[0]["notebooks"]}, *found]:
        there = {path.name: path.with_suffix(".html") for path in [*maps, *run["notebooks"]]}
        for path in _notebooks(run["folder"]):
            pages.convert(path, there[path.name], there, index)
    values = {"profile": folder.name, "runs": found, "unread": unread, "figures": _figures(folder)}
    formulas = {title: pages.formula(latex) for title, latex in FORMULAS.items()}
    pages.write(index, f"Results: {folder.name}", **values, formulas=formulas, maps=_links(maps, folder))
    return index


def _run(folder: Path) -> dict:
    """What the template shows of a run."""
    content, config = verify.read(folder)
    metrics, differences = handover.read_csv(folder / "metrics.csv"), handover.read_csv(folder / "differences.csv")
    table = pd.read_csv(folder / "table.csv", dtype=str, keep_default_na=False)
    text = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    notebooks, took = _notebooks(folder), content["duration_seconds"]
    links = [
        (*link, _time(took.get(path.stem, 0)))
        for path, link in zip(notebooks, _links(notebooks, folder.parent), strict=True)
    ]
    parameters = {name: value for name, value in content["parameters"].items() if value not in ("", [])}
    names = [name for name in content["sha256"] if name.endswith((".csv", ".md")) and (folder / name).is_file()]
    return {
        "name": folder.name, "folder": folder, "config": config, "title": text[0].lstrip("# "), "about": text[2],
        "notebooks": notebooks, "pages": links,
        "written": content["written"].replace("T", " ")[:16] + " UTC",
        "images": metrics["n_images"].iloc[0], "device": content["device"], "took": _time(sum(took.values())),
        "columns": list(tables.METRICS.values()), "groups": _groups(table), "doubts": _doubts(text),
        "glance": _glance(table), "bands": _bands(folder, content, metrics),
        "contributions": _rows(tables.contributions(config.dataset, differences).round(1)),
        "steps": _rows(tables.main_steps(differences)[STEP]),
        "figures": _figures(folder), "files": [*names, "manifest.json"],
        "command": manifest.command(config.dataset, content["given"]),
        "manifest": {
            "Device": content["device"], "Git revision": content["git_revision"],
        } | {name.replace("_", " ").capitalize(): value for name, value in content["platform"].items()},
        "versions": content["versions"], "parameters": parameters,
    }  # fmt: skip


def _groups(table: pd.DataFrame) -> list[dict]:
    """The rows of table.csv under a heading for each source and what it was measured on."""
    groups = []
    for (source, where), rows in table.groupby(["source", "measured_on"], sort=False):
        title = f"{'Printed in the paper' if source == 'paper' else 'Measured in this run'}: {where}"
        cells = [
            {"method": row["method"], "notes": row["note"].split(", ") if row["note"] else [],
             "values": [row[name] for name in tables.METRICS]}
            for row in rows.to_dict("records")
        ]  # fmt: skip
        groups.append({"title": title, "source": source, "rows": cells})
    return groups


def _doubts(text: list[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The footnotes of table.md: under each heading, letters (or "") with texts."""
    found: list[tuple[str, list]] = []
    last = max((i for i, line in enumerate(text) if line.startswith("|")), default=len(text))
    for line in filter(None, text[last + 1 :]):
        if not line.startswith("- "):
            found.append((line, []))
        elif found:
            letter = re.match(r"- \[(\w+)\] ", line)
            found[-1][1].append((letter[1], line[letter.end() :]) if letter else ("", line[2:]))
    return found


def _glance(table: pd.DataFrame) -> list[str]:
    """GT-known of the original CAM and of the paper's method, printed and measured."""
    cells = table.set_index("method")["gt_known"]
    names = [name for pair in zip(reference.PRINTED.values(), reference.PRINTED, strict=True) for name in pair]
    return [cells.get(name, "not run") for name in names]


def _bands(folder: Path, content: dict, metrics: pd.DataFrame) -> dict:
    """How a run compares with results/reference: in words, every figure outside, and GT-known of the table's rows."""
    config = experiments.configure(**content["parameters"] | {"results": ""})
    compared = reference.compare(metrics, config.profile, config.dataset)
    text = reference.describe(metrics, config, usual := experiments.is_usual(config))
    if compared.empty or not usual:
        return {"text": f"{text}.", "short": "no bands", "outside": None, "rows": None}
    inside = compared["beyond"] == 0
    steps = compared[reference.KEY].apply(tuple, axis=1).isin(tables.STEPS.values())
    shown = compared.drop(columns="asserted").rename(columns={"beyond": "points beyond the band"})
    return {
        "text": f"{text.splitlines()[0].removesuffix('; outside:')}.", "short": f"{inside.sum()} of {len(compared)}",
        "outside": None if inside.all() else _rows(shown[~inside]),
        "rows": _rows(shown[steps & (compared["figure"] == "gt_known")].drop(columns="figure")),
    }  # fmt: skip


def _figures(folder: Path) -> list[tuple[str, str, str]]:
    """(file, title, what it shows) of the figures that are there."""
    return [(name, *words) for name, words in FIGURES.items() if (folder / name).is_file()]


def _rows(table: pd.DataFrame) -> dict:
    """Heads and cells of a table, figures with one digit; whether each column holds figures."""
    figures = [is_numeric_dtype(table[name]) and not is_bool_dtype(table[name]) for name in table]
    shown = table.copy()
    for name in table.select_dtypes("float"):
        form = "{:+.1f}" if name in ("points", "difference") else "{:.1f}"
        shown[name] = table[name].map(form.format).replace({"nan": "", "+nan": ""})
    head = [name.replace("_", " ") for name in table]
    return {"head": head, "rows": shown.astype(str).to_numpy().tolist(), "figures": figures}


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _notebooks(folder: Path) -> list[Path]:
    return sorted((folder / "notebooks").glob("[!.]*.ipynb"))


def _links(notebooks: list[Path], folder: Path) -> list[tuple[str, str]]:
    """The title of each, and its page as a link from a folder."""
    return [(pages.title(path), path.with_suffix(".html").relative_to(folder).as_posix()) for path in notebooks]
