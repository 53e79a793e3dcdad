"""Bad input stops a notebook at once, with a message that names the file (and line) or the value, and the remedy."""

import re
from pathlib import Path

import pytest
import torchvision
from click.testing import CliRunner
from layouts_on_disk import LAYOUTS, NOTEBOOKS, ROAD, VAL, cub, replace_line, run_notebook, run_road, weights_file
from papermill.cli import papermill

from wsol_utils import models

CHEAP = {
    "backbone": "small_vgg", "image_size": 32, "resize_size": 36, "batch_size": 4, "epochs": 1,
    "rules": "first_above_mean,argmax",
}  # fmt: skip
UNPACK = "correct it, or unpack the data set again"


def stops(message: str, notebook: str, error=ValueError, **parameters) -> None:
    """The notebook raises an error whose message has these parts, in this order and on a line of its own."""
    with pytest.raises(error) as caught:
        run_notebook(notebook, **parameters)
    assert re.search(message, str(caught.value)), str(caught.value)


def parameters(folder: Path, dataset: str = "cub", **others) -> dict:
    """Of a cheap run on a made-up data set."""
    given = {"dataset": dataset, "profile": "paper", "data_root": str(folder / "data"), **CHEAP}
    return given | {"results": str(folder / "results")} | others


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights") / "small.safetensors", models.SmallVGG(), "features.")


# The data, read by notebook 01.


@pytest.mark.parametrize(
    ("layout", "file", "spoil", "message"),
    [
        ("cub", "images.txt", Path.unlink, r"data/images\.txt: no such file; DATA_ROOT must be the folder that holds "
         r"images\.txt \(notebook 01 says how to get the data\)"),
        ("cub", "images/001.Bird_0/Bird_0_0002.jpg", Path.unlink,
         r"Bird_0_0002\.jpg: missing image, listed in .*images\.txt:3.*unpack the data set again"),
        ("cub", "bounding_boxes.txt", lambda file: replace_line(file, 3, None),
         rf"images\.txt:3: image 3 has no line in bounding_boxes\.txt; {UNPACK}"),
        ("ilsvrc", f"{VAL}/ILSVRC2012_val_00000001.JPEG", lambda file: file.write_bytes(file.read_bytes()[:400]),
         rf"an image that does not decode \(.+\), listed in .*LOC_val_solution\.csv:2.*; {UNPACK}"),
        ("ilsvrc", "LOC_val_solution.csv", lambda file: replace_line(file, 3, "ILSVRC2012_val_00000002,"),
         rf"LOC_val_solution\.csv:3: an image without a box, .*; {UNPACK}"),
        ("tiny_imagenet", "val/val_annotations.txt",
         lambda file: replace_line(file, 1, "val_0.JPEG\tn00000000\t9\t9\t8\t30"),
         rf"val_annotations\.txt:1: a box of no area: .*; {UNPACK}"),
        ("tiny_imagenet", "val/val_annotations.txt",
         lambda file: replace_line(file, 1, "val_0.JPEG\tn00000000\t4000\t10\t5000\t30"),
         rf"val_annotations\.txt:1.*: box 1, .*, lies outside its image .*val_0\.JPEG of 64 x 64 .*; {UNPACK}"),
    ],
    ids=["no list", "no image", "no line of a box", "image cut short", "no box", "box of no area", "box outside"],
)  # fmt: skip
def test_bad_data(tmp_path, layout, file, spoil, message):
    LAYOUTS[layout](tmp_path / "data")
    spoil(tmp_path / "data" / file)
    stops(message, "01_dataset_preparation", **parameters(tmp_path, layout))
    assert not (tmp_path / "results").exists(), "a table was written of bad data"


# The weights, read by notebook 02.


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_weights):
    """(parameters, results folder) of a run up to notebook 04, which went on with the networks that it found."""
    folder = tmp_path_factory.mktemp("finished")
    cub(folder / "data")
    given = parameters(folder, weights=str(small_weights))
    run_road(last="03", **given)
    found = run_notebook("04_threshold_selection", **given | {"poolings": "tap"})["found"]
    assert set(found) == {(0, "cam", "gap"), (0, "cam", "wgap")}
    return given, folder / "results" / "paper" / "cub"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"weights": "squeezenet"}, ValueError, r"squeezenet\.safetensors holds the weights of another network than "
         r"small_vgg: .*; give WEIGHTS with small_vgg's own keys, or change BACKBONE"),
        ({"weights": "cut"}, ValueError,
         r"cut\.safetensors is not a whole safetensors file \(.+\): copy it again from where it came"),
        ({"weights": "nowhere"}, FileNotFoundError,
         r"nowhere\.safetensors does not exist; give a safetensors state dict of small_vgg"),
        ({"weights": "imagenet"}, ValueError, "small_vgg has no ImageNet weights; give a safetensors file"),
        ({"batch_size": 64}, ValueError, "batch_size 64 is larger than the train split of 4 images"),
    ],
    ids=["another network", "cut short", "no file", "no ImageNet weights", "large batch"],
)  # fmt: skip
def test_bad_weights(finished, tmp_path, small_weights, given, error, message):
    weights_file(tmp_path / "squeezenet.safetensors", torchvision.models.squeezenet1_1())
    (tmp_path / "cut.safetensors").write_bytes(small_weights.read_bytes()[:-100])
    files = {name: str(tmp_path / f"{name}.safetensors") for name in ("squeezenet", "cut", "nowhere")}
    given = {name: files.get(value, value) for name, value in given.items()}
    stops(message, "02_finetune_wgap", error, **finished[0] | given)


# Names and values, in every notebook of the road.


@pytest.mark.parametrize("notebook", ROAD)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, r"unknown parameter 'epoch' \(did you mean 'epochs'\?\); choose one of dataset, profile, "),
        ({"epochs": "many", "rules": "otsu,otsi"}, r"epochs cannot be 'many': .*; unknown threshold rule 'otsi'"),
    ],
    ids=["name", "values"],
)
def test_unknown_name_or_value(tmp_path, notebook, given, message):
    stops(message, notebook, **parameters(tmp_path) | given)
    assert not (tmp_path / "results").exists()


# The order of the notebooks.


@pytest.mark.parametrize(
    ("notebook", "file", "first"),
    [  # the file that is not there yet, and the notebook that writes it
        ("02_finetune_wgap", "annotations.csv", "01_dataset_preparation"),
        ("03_cam_recombination", "annotations.csv", "01_dataset_preparation"),
        ("03_cam_recombination", "seed0/networks.csv", "02_finetune_wgap"),
        ("03_cam_recombination", "seed0/gap.safetensors", "02_finetune_wgap"),
        ("04_threshold_selection", "seed0/networks.csv", "02_finetune_wgap"),
        ("04_threshold_selection", "seed0/predictions_wgap", "03_cam_recombination"),
        ("04_threshold_selection", "seed0/recombination.csv", "03_cam_recombination"),
        ("05_tables", "seed0/recombination.csv", "03_cam_recombination"),
        ("05_tables", "seed0/thresholds.csv", "04_threshold_selection"),
        ("06_figures", "annotations.csv", "01_dataset_preparation"),
        ("06_figures", "seed0/networks.csv", "02_finetune_wgap"),
        ("06_figures", "seed0/predictions_gap", "03_cam_recombination"),
    ],
)
def test_later_notebook_before_an_earlier_one(finished, notebook, file, first):
    given, folder = finished
    (folder / file).rename(folder / "aside")
    try:
        stops(
            rf"paper/cub/{re.escape(file)} is missing: run notebooks/{first}\.ipynb first, with the same parameters "
            r"\(dataset='cub', profile='paper', ",
            notebook, FileNotFoundError, **given,
        )  # fmt: skip
    finally:
        (folder / "aside").rename(folder / file)


@pytest.mark.parametrize("notebook", ROAD[1:])
def test_any_later_notebook_on_a_fresh_clone(tmp_path, notebook):
    """With its defaults, as a reader opens it; what it names is an earlier notebook that exists."""
    with pytest.raises(FileNotFoundError) as caught:
        run_notebook(notebook, results=str(tmp_path / "results"))
    [first] = re.findall(r"run notebooks/(\w+)\.ipynb first", str(caught.value))
    assert first in ROAD and first < notebook


def test_another_seed_than_was_trained(finished):
    message = r"seed7/networks\.csv is missing: run notebooks/02_finetune_wgap\.ipynb first"
    stops(message, "03_cam_recombination", FileNotFoundError, **finished[0] | {"seeds": [0, 7]})


def test_papermill_by_hand(finished, tmp_path, monkeypatch):
    """As the README has it, from any folder."""
    given, folder = finished
    words = [word for name, value in given.items() for word in ("-p", name, str(value))]
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(papermill, [str(NOTEBOOKS / "05_tables.ipynb"), "out.ipynb", *words])
    assert run.exit_code == 0, run.output
    assert (folder / "metrics.csv").is_file() and (tmp_path / "out.ipynb").is_file()


# The overview.


def test_overview_names_the_file_it_lacks(tmp_path):
    stops(r"example\.npz", "00_overview", FileNotFoundError, example=str(tmp_path / "example.npz"))
