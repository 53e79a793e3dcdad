"""Bad input stops a notebook at once, with a message that names the file (and line) or the value, and the remedy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision
from layouts_on_disk import (
    LAYOUTS,
    NOTEBOOKS,
    ROAD,
    VAL,
    XML,
    cub,
    replace_line,
    run_notebook,
    run_road,
    voc,
    weights_file,
)

from wsol_utils import models

CHEAP = {
    "backbone": "small_vgg", "image_size": 32, "resize_size": 36, "batch_size": 4, "epochs": 1,
    "rules": "first_above_mean,argmax",
}  # fmt: skip
UNPACK = "correct it, or unpack the data set again"
WNID = "n00000000"


def stops(message: str, notebook: str, error=ValueError, **parameters) -> None:
    """The notebook raises an error whose message has these parts, in this order and on a line of its own."""
    with pytest.raises(error) as caught:
        run_notebook(notebook, **parameters)
    assert re.search(message, str(caught.value)), str(caught.value)


def parameters(tmp_path: Path, dataset: str = "cub", **others) -> dict:
    """Of a cheap run on a made-up data set."""
    given = {"dataset": dataset, "profile": "paper", "data_root": str(tmp_path / "data"), **CHEAP}
    return given | {"results": str(tmp_path / "results")} | others


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights") / "small.safetensors", models.SmallVGG(), "features.")


# The data, read by notebook 01.


@pytest.mark.parametrize(
    ("dataset", "index"), [("cub", "images.txt"), ("ilsvrc", "LOC_val_solution.csv"), ("tiny_imagenet", "wnids.txt")]
)
def test_missing_data_folder(tmp_path, dataset, index):
    remedy = rf"DATA_ROOT must be the folder that holds {index} \(notebook 01 says how to get the data\)"
    stops(
        rf"data/{index}: no such folder; {remedy}", "01_dataset_preparation",
        **parameters(tmp_path, dataset),
    )  # fmt: skip
    (tmp_path / "data").mkdir()
    stops(rf"data/{index}: no such file; {remedy}", "01_dataset_preparation", **parameters(tmp_path, dataset))


def bad_data(layout: str, fault: str, root: Path) -> str:
    """Spoil a data set, and return what the message must say of the file and the line."""
    image = {
        "cub": "images/001.Bird_0/Bird_0_0002.jpg", "ilsvrc": f"{VAL}/ILSVRC2012_val_00000001.JPEG",
        "tiny_imagenet": "val/images/val_0.JPEG",
    }[layout]  # fmt: skip
    boxes = {
        "cub": "bounding_boxes.txt:3", "ilsvrc": f"{XML}/ILSVRC2012_val_00000001.xml",
        "tiny_imagenet": "val/val_annotations.txt:1",
    }[layout]  # fmt: skip
    listed = {"cub": r"images\.txt:3", "ilsvrc": r"LOC_val_solution\.csv:2", "tiny_imagenet": re.escape(boxes)}[layout]
    if fault == "missing image":
        (root / image).unlink()
        return rf"{re.escape(image)}: missing image, listed in .*{listed}.*unpack the data set again"
    if fault == "image cut short":
        (root / image).write_bytes((root / image).read_bytes()[:400])
        return rf"{re.escape(image)}: an image that does not decode \(.+\), listed in .*{listed}.*; {UNPACK}"
    if fault == "image of something else":
        (root / image).write_text("<html>not found</html>")
        return rf"{re.escape(image)}: an image that does not decode \(.+\), listed in .*{listed}.*; {UNPACK}"
    file, _, line = boxes.partition(":")
    corners = {"no box": None, "box of no area": (9, 9, 8, 30), "box outside": (4000, 10, 5000, 30)}[fault]
    if layout == "cub":
        x0, y0, x1, y1 = corners or (0, 0, 0, 0)
        replace_line(root / file, int(line), corners and f"3 {x0} {y0} {x1 + 1 - x0} {y1 + 1 - y0}")
    elif layout == "ilsvrc":
        (root / file).write_text("\n".join(voc(WNID, [corners] if corners else [])))
    else:
        replace_line(root / file, int(line), "\t".join(["val_0.JPEG", WNID, *map(str, corners or ())]))
    if fault == "no box":
        return {
            "cub": rf"images\.txt:3: image 3 has no line in bounding_boxes\.txt; {UNPACK}",
            "ilsvrc": rf"{re.escape(file)} \({listed}\): a test image without a box, {re.escape(image)}; {UNPACK}",
            "tiny_imagenet": rf"{re.escape(boxes)}: expected 6 fields, found .*val_0\.JPEG.*; {UNPACK}",
        }[layout]
    if fault == "box of no area":
        return rf"{re.escape(boxes)}.*: a box of no area: .*; {UNPACK}"
    return (
        rf"{re.escape(boxes)}.*: box 1, .*, lies outside its image {re.escape(image)} of \d+ x \d+ pixels.*; {UNPACK}"
    )


@pytest.mark.parametrize(
    "fault",
    ["missing image", "image cut short", "image of something else", "no box", "box of no area", "box outside"],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_data(tmp_path, layout, fault):
    LAYOUTS[layout](tmp_path / "data")
    message = bad_data(layout, fault, tmp_path / "data")
    stops(message, "01_dataset_preparation", **parameters(tmp_path, layout))
    assert not (tmp_path / "results").exists(), "a table was written of bad data"


def test_validation_image_without_a_box_in_kaggles_list(tmp_path):
    LAYOUTS["ilsvrc"](tmp_path / "data")
    replace_line(tmp_path / "data" / "LOC_val_solution.csv", 3, "ILSVRC2012_val_00000002,")
    message = rf"LOC_val_solution\.csv:3: an image without a box, .*; {UNPACK}"
    stops(message, "01_dataset_preparation", **parameters(tmp_path, "ilsvrc"))


# The weights, read by notebook 02.


@pytest.fixture
def prepared(tmp_path):
    """The parameters of a run whose notebook 01 is done."""
    cub(tmp_path / "data")
    run_notebook("01_dataset_preparation", **parameters(tmp_path))
    return parameters(tmp_path)


def test_weights_of_another_network(tmp_path, prepared):
    squeezenet = weights_file(tmp_path / "squeezenet.safetensors", torchvision.models.squeezenet1_1())
    stops(
        r"squeezenet\.safetensors holds the weights of another network than small_vgg: 'features\.\S+' .*; "
        r"give WEIGHTS with small_vgg's torchvision keys, or change BACKBONE",
        "02_finetune_wgap", **prepared | {"weights": str(squeezenet)},
    )  # fmt: skip


def test_weights_cut_short(tmp_path, prepared, small_weights):
    (tmp_path / "cut.safetensors").write_bytes(small_weights.read_bytes()[:-100])
    message = r"cut\.safetensors is not a whole safetensors file \(.+\): copy it again from where it came"
    stops(message, "02_finetune_wgap", **prepared | {"weights": str(tmp_path / "cut.safetensors")})


def test_missing_weights_file(tmp_path, prepared):
    message = r"nowhere\.safetensors does not exist; give a safetensors state dict of small_vgg"
    stops(
        message, "02_finetune_wgap", FileNotFoundError, **prepared | {"weights": str(tmp_path / "nowhere.safetensors")}
    )


def test_imagenet_weights_of_a_network_that_has_none(prepared):
    message = "small_vgg has no ImageNet weights; give a safetensors file"
    stops(message, "02_finetune_wgap", **prepared | {"weights": "imagenet"})


def test_batch_larger_than_the_train_split(prepared, small_weights):
    message = "batch_size 64 is larger than the train split of 4 images"
    stops(message, "02_finetune_wgap", **prepared | {"weights": str(small_weights), "batch_size": 64})


# Names and values, in every notebook of the road.


@pytest.mark.parametrize("notebook", ROAD)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, r"unknown parameter 'epoch' \(did you mean 'epochs'\?\); there are dataset, profile, "),
        ({"dataset": "cup"}, r"unknown dataset of profile 'paper' 'cup' \(did you mean 'cub'\?\); choose one of cub, "),
        ({"dataset": "birds"}, r"unknown dataset of profile 'paper' 'birds'; choose one of cub, ilsvrc, tiny_imagenet"),
        ({"profile": "papers"}, r"unknown profile 'papers' \(did you mean 'paper'\?\); choose one of sample, light, "),
        ({"backbone": "vgg19"}, r"unknown backbone 'vgg19' \(did you mean 'vgg16'\?\); choose one of vgg16, "),
        ({"poolings": "gap,max"}, r"unknown pooling 'max'.*; choose one of gap, wgap, wgap_sum, tap"),
        ({"recombinations": ["negative"]}, r"unknown recombination 'negative'.*; choose one of signed, positive, "),
        ({"rules": "otsu,otsi"}, r"unknown threshold rule 'otsi' \(did you mean 'otsu'\?\); choose one of fixed, "),
        ({"protocol": "papr"}, r"unknown protocol 'papr'.*; choose one of paper"),
        ({"evaluate_on": "train"}, r"unknown evaluate_on 'train'; choose one of test, validation"),
        ({"optimizer": "adam"}, r"unknown optimizer 'adam'.*; choose one of sgd, adamw"),
        ({"epochs": "many"}, r"parameter epochs cannot be 'many': "),
        ({"seeds": "0;1"}, r"parameter seeds cannot be '0;1': "),
    ],
    ids=lambda value: next(iter(value.items()), "")[0] if isinstance(value, dict) else "",
)
def test_unknown_name_or_value(tmp_path, notebook, given, message):
    stops(message, notebook, **parameters(tmp_path) | given)
    assert not (tmp_path / "results").exists()


def test_input_larger_than_the_frame_it_is_cropped_from(tmp_path):
    message = "parameter resize_size cannot be 36: .* image_size 48"
    stops(message, "01_dataset_preparation", **parameters(tmp_path) | {"image_size": 48})


def test_values_of_the_profile_stand_where_a_parameter_is_empty(tmp_path):
    cub(tmp_path / "data")
    given = parameters(tmp_path) | {"weights": "", "backbone": "", "seeds": []}
    config = run_notebook("01_dataset_preparation", **given)["config"]
    assert (config.weights, config.backbone, config.seeds) == ("imagenet", "vgg16", (0,))


# The order of the notebooks.


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_weights):
    """(parameters, results folder) of a run that is done up to notebook 04."""
    folder = tmp_path_factory.mktemp("finished")
    cub(folder / "data")
    given = parameters(folder, weights=str(small_weights))
    run_road(last="04", **given)
    return given, folder / "results" / "paper" / "cub"


MISSING = [  # notebook, the file that is not there yet, the notebook that writes it
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
]


@pytest.mark.parametrize(("notebook", "file", "first"), MISSING)
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
    given, _ = finished
    message = r"seed7/networks\.csv is missing: run notebooks/02_finetune_wgap\.ipynb first"
    stops(message, "03_cam_recombination", FileNotFoundError, **given | {"seeds": [0, 7]})


def test_another_pooling_than_was_trained(finished):
    """Each notebook goes on with the networks that the one before it made."""
    given, _ = finished
    found = run_notebook("04_threshold_selection", **given | {"poolings": "tap"})["found"]
    assert set(found) == {(0, "cam", "gap"), (0, "cam", "wgap")}


def test_papermill_by_hand(finished, tmp_path):
    """As the README has it, from any folder."""
    given, folder = finished
    words = [word for name, value in given.items() for word in ("-p", name, str(value)) if name != "seeds"]
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS / "04_threshold_selection.ipynb"), "out.ipynb", *words]
    (folder / "seed0" / "thresholds.csv").unlink()
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (folder / "seed0" / "thresholds.csv").is_file() and (tmp_path / "out.ipynb").is_file()


# The overview.


def test_overview_names_the_file_it_lacks(tmp_path):
    stops(r"example\.npz", "00_overview", FileNotFoundError, example=str(tmp_path / "example.npz"))
