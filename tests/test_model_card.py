"""docs/model_card.md: `python tests/test_model_card.py` writes its tables, of configurations and results/reference."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wsol_utils import experiments, models, reference
from wsol_utils.experiment.profiles import DATASETS, PROFILES

PAGE = Path(__file__).parents[1] / "docs" / "model_card.md"
METHODS = {  # column -> recombination and rule
    "CAM": ("signed", "fixed"),
    "recombined": ("absolute", "fixed"),
    "recombined and chosen": ("absolute", "first_above_mean"),
}


def procedure() -> str:
    """What each profile does on each of its data sets, as Markdown."""
    rows = []
    for profile, dataset in DATASETS:
        c = experiments.configure(dataset, profile)
        rates = ", ".join(f"{name} {c.head_multiplier[name]:g}" for name in c.head_multiplier)
        slower = "".join(f", {name} {c.recipe(name).lr:g}" for name, times in c.lr_multiplier.items() if times != 1)
        rows.append({
            "profile, data set": f"{profile}, {dataset}", "backbone": c.backbone,
            "start": c.weights or "trained on things",
            "input": f"{c.image_size} of {c.resize_size + 2 * c.padding} px", "epochs": c.epochs, "batch": c.batch_size,
            "rate": f"{c.lr:g}{slower}", "head's rate, times": rates, "optimiser": f"{c.optimizer}, {c.schedule}",
            "weight decay": f"{c.weight_decay:g}",
        })  # fmt: skip
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def figures() -> str:
    """What results/reference holds of each network that was fine-tuned, as Markdown."""
    rows = []
    for profile, dataset in DATASETS:
        metrics, history = (reference.read(profile, dataset, name) for name in ("metrics.csv", "history.csv"))
        if history.empty:  # nothing was trained
            continue
        for pooling, found in metrics.groupby("pooling", sort=False):
            found = found[found["temperature"].fillna(1) == 1]
            last = history[history["pooling"] == pooling].groupby("seed").tail(1)
            row = {
                "network": f"{profile}, {dataset}, {pooling}", "seeds": found["seed"].nunique(),
                "test images": found["n_images"].iloc[0], "train accuracy": spread(last["accuracy"]),
                "Top-1 Cls": spread(found.groupby("seed")["top1_cls"].first()),
            }  # fmt: skip
            for title, (recombination, rule) in METHODS.items():
                of = found[(found["recombination"] == recombination) & (found["threshold_rule"] == rule)]
                one = of.iloc[0]
                interval = "" if len(of) > 1 else f" [{one['gt_known_low']:.1f}, {one['gt_known_high']:.1f}]"
                row[f"GT-known: {title}"] = spread(of["gt_known"]) + interval
            rows.append(row)
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def spread(values: pd.Series) -> str:
    return f"{values.mean():.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")


TABLES = {"procedure": procedure, "figures": figures}


@pytest.mark.parametrize("name", TABLES)
def test_the_card_shows_the_table_as_it_stands(name):
    text = PAGE.read_text(encoding="utf-8")
    assert f"<!-- {name} -->\n{TABLES[name]()}\n<!-- /{name} -->" in text, "run python tests/test_model_card.py"


def test_figures_by_hand():
    """One cell of the table, from its three seeds."""
    metrics = reference.read("sample", "birds", "metrics.csv")
    key = metrics[["pooling", "recombination", "threshold_rule"]] == ["wgap", "absolute", "first_above_mean"]
    values = metrics[key.all(axis=1)]["gt_known"].tolist()
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    [line] = [line for line in figures().splitlines() if line.startswith("| sample, birds, wgap ")]
    assert line.split("|")[-2].strip() == f"{mean:.1f} ± {deviation:.1f}"


def test_no_figure_is_typed_outside_the_tables():
    """No decimals, thus no percentages, but those of the method: 0.20, 0.5, and the names of networks."""
    text = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert set(re.findall(r"\b\d+\.\d+\b", text)) == {"0.20", "0.5"} | set(re.findall(r"Sec\. (\d\.\d)", text))


def test_every_profile_is_named():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{profile}`" in text for profile in PROFILES)
    assert all(f"`{dataset}`" in text for _, dataset in DATASETS)


def test_the_card_loads_a_network(tmp_path, monkeypatch, capsys):
    """The block under "How to load", on a network that was not trained."""
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    about = {
        "backbone": "small_vgg", "pooling": "wgap", "temperature": 1.0, "own_head": False, "image_size": 96,
        "class_names": ["a finch", "a robin"],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file = tmp_path / re.search(r'"(results/\S+\.safetensors)"', block).group(1)
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    models.save(models.build("small_vgg", 2, "wgap"), file, {}, about)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save("picture.jpg")
    names: dict = {}
    exec(block, names)
    said = capsys.readouterr().out
    assert said.startswith(("a finch dict_keys(['network'])", "a robin dict_keys(['network'])"))
    x0, y0, x1, y1 = names["boxes"].largest_box(names["maps"], names["thresholds"].select(names["maps"]))[0]
    assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 96 and str(x1) in said


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n{table()}\n<!-- /{name} -->{rest.partition(f'<!-- /{name} -->')[2]}"
    PAGE.write_text(text, encoding="utf-8")
