"""State in sentences and tables what results/reference shows: the generated blocks of README.md and docs/."""

from collections.abc import Callable

import pandas as pd

from wsol_utils.common import files
from wsol_utils.common.files import ROOT
from wsol_utils.figures import reference, tables

CUB, TINY, ILSVRC = ("light", "cub"), ("light", "tiny_imagenet"), ("light", "ilsvrc")
LITE = ("light", "ilsvrc_lite0")
BIRDS, THINGS = ("sample", "birds"), ("sample", "things")
ON_TOP = "threshold, on top of the others"
CAM = tables.STEPS["CAM (GAP, Eq. 2, fixed 0.20)"]
PAPER = tables.STEPS["+ threshold (Sec. 4.3): the paper's method"]


def verdict() -> str:
    """Say what holds of the paper's three parts, what does not, and what was not run, as a Markdown list."""
    out, added = gains(CUB, "signed", "positive"), gains(CUB, "positive", "absolute")
    tiny_out, tiny_added = gains(TINY, "signed", "positive"), gains(TINY, "positive", "absolute")
    lost = gains(THINGS, "absolute", "positive")
    as_it_stands = gains(ILSVRC, "signed", "absolute") + gains(LITE, "signed", "absolute")
    said = {
        "All three parts together": f"take GT-known localisation from {known(CUB, CAM):.1f} to "
        f"{known(CUB, PAPER):.1f} % on 20 classes of CUB, and from {known(TINY, CAM):.1f} to "
        f"{known(TINY, PAPER):.1f} % on Tiny-ImageNet. On the embedded sample they change nothing that can be told "
        f"from chance ({of_part(BIRDS, 'all three')} points on birds, {of_part(THINGS, 'all three')} on things).",
        "Recombination (Eq. 3) does most of it.": f"Leaving negative channels out gains {span(out)} points on CUB and "
        f"{span(tiny_out)} on Tiny-ImageNet. Adding them, the paper's own step, gains {span(added)} more on CUB and "
        f"{span(tiny_added)} on Tiny-ImageNet, and loses {span(lost)} on things. On "
        f"ILSVRC, with two networks that were not fine-tuned, Eq. 3 changes the figure by "
        f"{span(as_it_stands, 1)} points.",
        "The threshold (Sec. 4.3) depends on its grid.": f"On CUB, with WGAP and Eq. 3, it reaches "
        f"{by_candidates(CUB, 21):.1f} % with the paper's 21 candidates, {by_candidates(CUB, 11):.1f} with 11 and "
        f"{by_candidates(CUB, 101):.1f} with 101. A fixed 0.20 reaches {known(CUB, (*PAPER[:2], 'fixed')):.1f}; the "
        f"mean of the map, which is parameter-free, {known(CUB, (*PAPER[:2], 'mean')):.1f}. On top of the other parts "
        f"it changes {of_part(TINY, ON_TOP)} points on Tiny-ImageNet and {of_part(BIRDS, ON_TOP)} on birds.",
        "WGAP (Eq. 1): on CUB much of its gain comes from a lower learning rate.": "With one slow rate for both "
        f"poolings, it changes the recombined map's figure by {with_one_rate('fixed')} points at 0.20, and by "
        f"{with_one_rate('first_above_mean')} with Sec. 4.3. On Tiny-ImageNet, where one rate suits both, it adds "
        f"{of_part(TINY, 'WGAP, on top of the others')} to the two other parts.",
        "Not run:": "VGG-16 on all of CUB-200-2011 and ILSVRC, the paper's own setting. Nothing here confirms or "
        "refutes its printed figures.",
    }
    return "\n".join(f"- **{claim}** {evidence}" for claim, evidence in said.items())


def short() -> str:
    """Show where CAM and the paper's method start and end on every data set, as Markdown."""
    rows = {
        "CAM (GAP, Eq. 2, fixed 0.20)": "CAM (GAP, Eq. 2, fixed 0.20)",
        "+ threshold (Sec. 4.3): the paper's method": "the paper's method (WGAP, Eq. 3, Sec. 4.3)",
        "the paper's maps, best fixed threshold (looks at the boxes)": "its maps, best fixed threshold",
        "the paper's maps, oracle (looks at the boxes)": "its maps, oracle",
    }
    return reference.overview(rows)


def as_they_stand() -> str:
    """Show GT-known and Top-1 Cls on ILSVRC of the networks that were not fine-tuned, as Markdown."""
    columns = {}
    for title, place in {"SqueezeNet 1.1": ILSVRC, "EfficientNet-Lite0, 14×14": LITE}.items():
        rows = tables.measured(reference.read(*place, "metrics.csv")).set_index("method")
        columns[title] = {**rows["gt_known"], "Top-1 Cls": rows["top1_cls"].iloc[0]}
    return pd.DataFrame(columns).rename_axis("GT-known Loc, %").to_markdown(disable_numparse=True)


def known(place: tuple[str, str], combination: tuple[str, ...]) -> float:
    """Give GT-known of a combination, the values of `tables.KEY`, in percent: the mean over seeds.

    Args:
        place: profile and data set below results/reference.
    """
    return float(tables.matching(reference.read(*place, "seeds.csv"), combination)["gt_known_mean"].iloc[0])


def gains(place: tuple[str, str], before: str, after: str) -> list[float]:
    """List what a recombination gains over another in points, with each pooling, at 0.20 and by Sec. 4.3."""
    poolings = set(reference.read(*place, "seeds.csv")["pooling"]) & {"gap", "wgap"}
    ways = [(pooling, rule) for pooling in sorted(poolings) for rule in ("fixed", "first_above_mean")]
    return [known(place, (pool, after, rule)) - known(place, (pool, before, rule)) for pool, rule in ways]


def by_candidates(place: tuple[str, str], count: int) -> float:
    """Give GT-known of the paper's method where Sec. 4.3 chooses from so many candidates: the mean over seeds."""
    rows = reference.read(*place, "conventions.csv")
    reading = "as it stands" if count == 21 else f"{count} candidates"
    return float(rows.loc[rows["reading"] == reading, "first_above_mean"].mean())


def of_part(place: tuple[str, str], step: str) -> str:
    """Give what a part changes, one of `tables.CONTRIBUTIONS`, in points with their interval."""
    rows = tables.contributions("", reference.read(*place, "differences.csv"), figure="gt_known")
    return reference.points(rows.set_index("step").loc[step], bold=False)


def with_one_rate(rule: str) -> str:
    """Give what WGAP changes on CUB where both poolings learn at the slow rate, in points with their interval."""
    rows = reference.read("light", "cub_slow", "differences.csv").query("figure == 'gt_known'")
    row = tables.matching(rows, ("gap → wgap", "absolute", rule)).iloc[0]
    return reference.points(row.rename({"difference": "points"}), bold=False)


def span(values: list[float], digits: int = 0) -> str:
    """Give the smallest and the largest of several differences, in points with so many digits."""
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}".replace("-", "−").replace("−0 ", "0 ")


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {  # of each document, by name
    "README.md": {"verdict": verdict, "short": short},
    "docs/results.md": {
        "results": reference.overview,
        "networks": as_they_stand,
        "steps": reference.steps,
        "rates": reference.equal_rates,
    },
    "docs/speed.md": {"speed": reference.speed},
}


def write_documents() -> None:
    """Write the documents with their blocks generated anew from results/reference."""
    for page, blocks in BLOCKS.items():
        files.write_text(ROOT / page, reference.filled((ROOT / page).read_text(encoding="utf-8"), blocks))
