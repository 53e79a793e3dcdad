"""The documents: generated blocks are up to date, and what is named is there.

`python tests/test_documents.py` writes the generated blocks, each between `<!-- name -->` and `<!-- /name -->`.
"""

import ast
import re
import shlex
import tomllib

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from layouts_on_disk import ROOT
from PIL import Image

import wsol_utils
from wsol_utils import __main__ as commands
from wsol_utils import experiments, findings, models, reference, tables
from wsol_utils.experiment.profiles import DATASETS

# docs/model_card.md, from the configurations and results/reference.


def procedure() -> str:
    """What each profile does on each of its data sets."""
    rows = []
    for profile, dataset in DATASETS:
        c = experiments.configure(dataset, profile)
        slower = "".join(f", {name} {c.recipe(name).lr:g}" for name, times in c.lr_multiplier.items() if times != 1)
        rows.append({
            "profile, data set": f"{profile}, {dataset}", "backbone": c.backbone,
            "start": c.weights or "trained on things",
            "input": f"{c.image_size} of {c.resize_size + 2 * c.padding} px", "epochs": c.epochs, "batch": c.batch_size,
            "rate": f"{c.lr:g}{slower}",
            "head's rate, times": ", ".join(f"{name} {times:g}" for name, times in c.head_multiplier.items()),
            "optimiser": f"{c.optimizer}, {c.schedule}", "weight decay": f"{c.weight_decay:g}",
        })  # fmt: skip
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def figures() -> str:
    """What results/reference holds of each network that was fine-tuned."""
    maps = {"CAM": ("signed", "fixed"), "recombined": ("absolute", "fixed")}
    maps["recombined and chosen"] = ("absolute", "first_above_mean")
    rows = []
    for profile, dataset in DATASETS:
        metrics, history = (reference.read(profile, dataset, name) for name in ("metrics.csv", "history.csv"))
        for pooling in history["pooling"].unique() if len(history) else ():  # none where nothing was trained
            last = history[history["pooling"] == pooling].groupby("seed").tail(1)
            found = {what: tables.matching(metrics, (pooling, *rest)) for what, rest in maps.items()}
            rows.append({
                "network": f"{profile}, {dataset}, {pooling}", "seeds": len(last),
                "test images": metrics["n_images"].iloc[0], "train accuracy": tables.cell(last, "accuracy"),
                "Top-1 Cls": tables.cell(found["CAM"], "top1_cls"),
                **{f"GT-known: {what}": tables.cell(of, "gt_known") for what, of in found.items()},
            })  # fmt: skip
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


# docs/reliability.md, from the tests marked `fault`.

HEADINGS = {  # of the test files; those not listed stand below "Others"
    "Runs": ("dodo", "faults", "processes", "training"),
    "Downloads and archives": ("download",),
    "Annotations, photographs, weights": (
        "layouts", "images", "datasets", "fuzz", "models", "command_line",
    ),
    "Numbers": ("predictions", "pooling", "evaluation"),
    "Finished runs": ("verify", "reproducible"),
}  # fmt: skip


def faults() -> str:
    """What happens, what survives, and the test that provokes it."""
    lines: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    what, survives = map(ast.literal_eval, mark.args)
                    row = f"| {what} | {survives} | [`{node.name}`](../tests/{file.name}) |\n"
                    lines.setdefault(file.stem.removeprefix("test_"), []).append(row)
    listed = {name for names in HEADINGS.values() for name in names}
    text = ""
    for title, names in (HEADINGS | {"Others": tuple(name for name in lines if name not in listed)}).items():
        if rows := "".join(row for name in names for row in lines.get(name, [])):
            text += f"\n### {title}\n\n| what happens | what survives, or is said | tested by |\n|---|---|---|\n{rows}"
    return text


BLOCKS = {
    **findings.BLOCKS,
    "docs/model_card.md": {"procedure": procedure, "figures": figures},
    "docs/reliability.md": {"faults": faults},
}


@pytest.mark.parametrize("page", BLOCKS)
def test_generated_blocks_are_up_to_date(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert reference.filled(text, BLOCKS[page]) == text, "run python tests/test_documents.py"


# Names in every document.

FILES = [path for pattern in ("*.md", "docs/*.md", "data/*.md", "results/*.md") for path in sorted(ROOT.glob(pattern))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}


def code(text):
    """What a page gives as code: in backticks, and in indented lines, which may go on in the next."""
    lines = re.sub(r"\\\n\s+", "", text).splitlines()
    return [*re.findall(r"`([^`\n]+)`", text), *(line.split("  #")[0].strip() for line in lines if line[:4] == " " * 4)]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_are_there(page):
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    headings = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", prose, re.M)}
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    missing = [link for link in links if link[0] == "#" and link[1:] not in headings]
    missing += [link for link in links if not ((ROOT / page).parent / link.partition("#")[0]).exists()]
    kept = r"(?<![\w/])((?:wsol_utils|tests|docs|notebooks|data/published)/[\w/.-]*\w|results/reference/[\w/]+\.\w+)"
    named = {name for piece in code(prose) for name in re.findall(kept, piece)}
    assert missing + [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_targets_and_options_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split()
    for piece in code(PAGES[page]):
        if call := re.match(r"make ([a-z]+)\b", piece):
            assert call[1] in targets, piece
            assert all(re.search(rf"\b{word}\b", makefile) for word in re.findall(r"\b([A-Z_]+)=", piece)), piece
        if call := re.search(r"-m wsol_utils ([a-z-]+)(.*)", piece):
            options = [o for p in commands.main.commands[call[1]].params for o in (*p.opts, *p.secondary_opts)]
            words = shlex.split(re.sub(r"[\[\]|…]", " ", call[2]))
            assert not [word for word in words if word.startswith("--") and word not in options], piece


def test_the_readme_names_every_folder_of_the_package():
    part = PAGES["README.md"].split("    wsol_utils/")[1].split("\n    data/")[0]
    folders = {path.parent.name for path in (ROOT / "wsol_utils").glob("*/__init__.py")}
    assert set(re.findall(r"^ {6}(\w+) ", part, flags=re.MULTILINE)) == folders


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    releases = re.findall(r"^## \[(\S+)\](?: - (\S+))?$", PAGES["CHANGELOG.md"], flags=re.MULTILINE)
    assert releases[:2] == [("Unreleased", ""), (citation["version"], str(citation["date-released"]))]
    assert citation["version"] == wsol_utils.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"Python (≥ \S+?),", PAGES["README.md"])) == {project["requires-python"].replace(">=", "≥ ")}


def test_the_model_card_loads_a_network(tmp_path, monkeypatch, capsys):
    """Its block under "How to load", on a network that was not trained."""
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGES["docs/model_card.md"], flags=re.MULTILINE | re.DOTALL)
    about = {
        "backbone": "small_vgg", "pooling": "wgap", "temperature": 1.0, "own_head": False, "image_size": 96,
        "class_names": ["a finch", "a robin"],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    file = tmp_path / re.search(r'"(results/\S+\.safetensors)"', block)[1]
    file.parent.mkdir(parents=True)
    models.save(models.build("small_vgg", 2, "wgap"), file, {}, about)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save("picture.jpg")
    torch.manual_seed(0)
    exec(block, {})
    assert re.match(r"a (finch|robin) dict_keys\(\['network'\]\)\n\[\[", capsys.readouterr().out)


if __name__ == "__main__":
    for page, blocks in BLOCKS.items():
        (ROOT / page).write_text(reference.filled(PAGES[page], blocks), encoding="utf-8")
