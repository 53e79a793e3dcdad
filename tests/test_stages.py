"""Fine-tuning and prediction of a run: networks, what counts as the same training, the heads' rates."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import cub, lines, table, weights_file
from PIL import Image

from wsol_utils import (
    datasets,
    experiments,
    handover,
    imports,
    locate,
    models,
    networks,
    preparation,
    processes,
    stages,
    training,
)
from wsol_utils.network import method as methods
from wsol_utils.network.recipe import Recipe
from wsol_utils.scores.protocols import PROTOCOLS, to_input

pytestmark = pytest.mark.usefixtures("alone")

OPTIONS = {"has": {"side": 16}, "acol": {"delta": 0.5}}


def draw(root, names):
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name, format="PNG")


@pytest.fixture
def six_birds(tmp_path):
    """(configuration, annotations) of three test photographs of each of two classes, all of sizes of their own."""
    cub(tmp_path / "cub", train=0, test=3)
    config = experiments.configure(
        "cub", "paper", backbone="small_vgg", data_root=str(tmp_path / "cub"), results=str(tmp_path / "results"),
        image_size=48, resize_size=52, device="cpu",
    )  # fmt: skip
    return config, datasets.check(datasets.read_cub(config.root), config.root)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_predict_test(six_birds, protocol):
    """One pass: each photograph as the protocol crops it, with its own box, class and original size."""
    config, table = six_birds
    torch.manual_seed(0)
    model = stages.network(config, "wgap", 2, False)
    train = table.assign(split="train", path="nowhere.jpg", width=1)  # never looked at
    both = pd.concat([train, table], ignore_index=True)
    found = stages.predict_test(config, model, both, PROTOCOLS[protocol])
    assert found.image_id.tolist() == table["image_id"].tolist() and found.label.tolist() == table["label"].tolist()
    assert found.size.tolist() == [48, 48]
    assert found.image_size.tolist() == table[["width", "height"]].to_numpy().tolist()
    assert len({tuple(size) for size in found.image_size}) == 6
    sides = [Image.open(config.root / path).size for path in table["path"]]
    assert found.image_size.tolist() == [list(side) for side in sides]
    for row, boxes in zip(table.itertuples(), found.true_boxes(), strict=True):
        expected = to_input(row.boxes, (row.width, row.height), 48, PROTOCOLS[protocol])
        np.testing.assert_allclose(boxes, expected, atol=1e-3)
    images, _, _ = datasets.collate([*handover.test_set(config, table, PROTOCOLS[protocol])])
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model(images).logits, rtol=1e-2, atol=1e-4)


def test_network(config):
    hot = experiments.configure(temperature=0.5)
    assert stages.network(hot, "wgap", 3, False).pool.temperature == 0.5
    assert stages.network(config, "wgap", 3, False).pool.divide_by_area
    assert not stages.network(config, "wgap_sum", 3, False).pool.divide_by_area
    assert stages.network(config, "gap", 3, False).class_weights.shape == (3, 128)


def test_network_as_it_stands(config, tmp_path):
    ilsvrc = experiments.configure("ilsvrc", "light", data_root=str(tmp_path))
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"n{i:08d} thing\n" for i in range(1000)))
    model = stages.network(ilsvrc, "gap", 3, True)
    assert isinstance(model, models.ConvolutionalHeadLocalizer) and model.class_weights.shape == (1000, 512)
    with pytest.raises(ValueError, match=r"birds has no train split.*ImageNet's 1000 classes alone.*DATA_ROOT"):
        stages.network(config, "gap", 3, True)
    (tmp_path / "LOC_synset_mapping.txt").write_text("n00000001 thing\n")  # labels would be shifted
    with pytest.raises(ValueError, match=r"ilsvrc has no train split.*1000 lines"):
        stages.network(ilsvrc, "gap", 3, True)


# What counts as the same training.


def test_finetune_hands_on_the_runs_values(config, tmp_path, monkeypatch):
    seen = {}

    def fit(model, loader, recipe, checkpoint, **rest):
        seen.update(rest, loader=loader, recipe=recipe, checkpoint=checkpoint)
        return ["history"]

    monkeypatch.setattr(training, "fit", fit)
    config = experiments.replace(config, cache_gb=0.5, compiled=True, checkpoint_steps=9)
    model, recipe = stages.network(config, "wgap", 2, False), config.recipe("wgap")
    assert stages.finetune(config, model, table(), recipe, tmp_path / "w.safetensors", 7, "scratch") == ["history"]
    assert (seen["seed"], seen["keep_every"], seen["compiled"]) == (7, 9, False)  # nothing is compiled for a CPU
    assert seen["recipe"] is recipe and seen["checkpoint"] == tmp_path / "w.safetensors"
    loader = seen["loader"]
    assert (loader.device, loader.workers, loader.memory, loader.decoder) == ("cpu", 0, 500_000_000, "pillow")
    assert loader.dataset.root == config.root and loader.dataset.seed == 7 and len(loader.dataset) == 6


def test_the_fingerprint_tells_runs_apart(config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, fingerprint, **__: fingerprint)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")

    def identity(rows=None, start=str(weights), pool="gap", **values):
        changed = experiments.replace(config, **values)
        model = stages.network(changed, pool, 2, False, None, changed.methods[-1])
        rows = table() if rows is None else rows
        return stages.finetune(changed, model, rows, config.recipe(pool), tmp_path / "c", 0, start)

    usual = identity()
    assert identity() == usual
    assert identity(rows=table().assign(boxes=[[]] * 6)) == usual  # no box is seen in training
    assert identity(results="elsewhere") == usual
    others = [
        identity(rows=table(5)), identity(rows=table().assign(label=0)), identity(rows=table().iloc[::-1]),
        identity(pool="wgap"), identity(pool="wgap", temperature=2.0), identity(start="scratch"),
        identity(image_size=config.image_size - 8), identity(resize_size=config.resize_size + 8),
        identity(methods=("cam", "has")), identity(methods=("cam", "has"), method_options={"has": {"side": 8}}),
    ]  # fmt: skip
    weights.write_bytes(b"two")
    others.append(identity())
    (config.root / "0.png").write_bytes(b"another picture of the same name")
    others.append(identity())
    monkeypatch.setattr(torch, "__version__", "0.0")
    others.append(identity())
    has = tmp_path / "has.py"
    has.write_text("another text")
    monkeypatch.setattr(methods, "source", lambda cls: has)
    others.append(identity(methods=("cam", "has")))
    assert len({usual, *others}) == 15


def test_the_fingerprint_tells_the_code_apart(tmp_path, monkeypatch):
    """A module that is imported on the way counts, and no other."""
    (network := tmp_path / "wsol_utils" / "network").mkdir(parents=True)
    (network / "training.py").write_text("from wsol_utils.network import models\n")
    (network / "models.py").write_text("def build():\n    from wsol_utils.network.pooling import build\n")
    monkeypatch.setattr(stages, "ROOT", tmp_path)

    def fingerprint(pooling="x = 1\n", other="", parts=("a", "b")):
        (network / "pooling.py").write_text(pooling)
        (network / "plots.py").write_text(other)
        return stages.fingerprint(stages.TRAINING_CODE, *parts)

    usual = fingerprint()
    assert fingerprint(other="y = 1\n") == usual
    assert len({usual, fingerprint("x = 2\n"), fingerprint(parts=("a", "c")), fingerprint(parts=("ab", ""))}) == 4


@pytest.mark.parametrize("code", [stages.TRAINING_CODE, stages.PREDICTION_CODE])
def test_what_a_training_and_a_pass_are_computed_by(code):
    files = {path.relative_to(imports.ROOT).as_posix() for path in imports.of_modules(code)}
    needed = ("data/images", "data/transforms", "data/loader", "network/models", "network/pooling")
    assert {f"wsol_utils/{name}.py" for name in needed} < files
    assert {name.split("/")[1] for name in files} <= {"common", "data", "network", "maps"}  # no figure, no protocol


# The stages, as notebooks 02 and 03 and the command line call them.


@pytest.fixture
def trained(small_cub):
    """(configuration, annotations) after a step of fine-tuning with WGAP, judged on the test split."""
    config = experiments.replace(small_cub(), evaluate_on="test", poolings=("wgap",))
    table = preparation.prepare(config)
    history = stages.train(config, table, 0, "wgap", stages.starting_weights(config, 0))
    assert [epoch["epoch"] for epoch in history] == [1]
    return config, table


@pytest.mark.parametrize("name, kinds", [("has", "signed"), ("acol", "own")])
def test_a_compared_method_goes_the_whole_way(small_cub, name, kinds):
    """Training, the pass over the test split, and the network for one's own pictures; plain fine-tuning beside it."""
    config = experiments.replace(
        small_cub(), evaluate_on="test", poolings=("gap",), methods=("cam", name), method_options={name: OPTIONS[name]}
    )
    table, start = preparation.prepare(config), config.weights
    for method, pooling in handover.trainings(config, table):
        assert len(stages.train(config, table, 0, pooling, start, method)) == 1
    protocol = PROTOCOLS["paper"]
    found = stages.predicted(config, table, 0, "gap", False, protocol, name)
    plain = stages.predicted(config, table, 0, "gap", False, protocol)
    assert kinds in found.kinds and "signed" in plain.kinds and len(found.label) == len(plain.label)
    assert not np.array_equal(found.logits, plain.logits)
    again = stages.predicted(experiments.replace(config, method_options={}), table, 0, "gap", False, protocol, name)
    assert again.identity != found.identity  # of other options
    own = networks.load_network(checkpoint=handover.checkpoint(config, 0, "gap", name))
    assert own.model.method.options == OPTIONS[name] and own.name.endswith(f", {name}")
    picture = config.root / table["path"].iloc[0]
    first, second = (locate.look(own, picture, index) for index in (0, 1))
    assert (first.given_map is None) == (kinds == "signed")
    assert not np.array_equal(locate.activation(first), locate.activation(second))


def test_training_writes_the_network_and_is_not_done_twice(trained, monkeypatch):
    config, table = trained
    path = handover.checkpoint(config, 0, "wgap")
    assert path == config.seed_folder(0) / "wgap.safetensors" and path.is_file()
    monkeypatch.setattr(training._Run, "_epoch", lambda *_: pytest.fail("trained again"))
    assert len(stages.train(config, table, 0, "wgap", config.weights)) == 1


def test_the_file_alone_is_enough_to_use_the_network(trained):
    """Its header says what the configuration said, and another name of a class is another file."""
    config, table = trained
    path = handover.checkpoint(config, 0, "wgap")
    network = networks.load_network(path)
    assert (network.name, network.image_size) == ("small_vgg, wgap", 32)
    assert network.class_names == table.drop_duplicates("label").sort_values("label")["class_name"].tolist()
    content = path.read_bytes()
    stages.train(config, table.assign(class_name="bird"), 0, "wgap", config.weights)
    assert networks.load_network(path).class_names == ["bird", "bird"]
    stages.train(config, table, 0, "wgap", config.weights)
    assert path.read_bytes() == content


def test_a_class_without_an_image_has_no_name(config):
    about = stages.description(config, table().query("label == 1"), "wgap", 3)
    assert about["class_names"] == ["", "c1", ""] and not about["own_head"]


def test_a_network_that_stands_as_it_is_is_kept_untrained(tmp_path, monkeypatch):
    config = experiments.configure("ilsvrc", "light", data_root=str(tmp_path), results=str(tmp_path / "results"))
    own = models.build("small_vgg", 3, "gap")
    monkeypatch.setattr(stages, "network", lambda config, name, classes, own_head, *_: own if own_head else None)
    assert stages.train(config, table(4, "test"), 0, "gap", "imagenet") == []
    kept = models.load_into(models.build("small_vgg", 3, "gap"), handover.checkpoint(config, 0, "gap"))
    assert torch.equal(kept.class_weights, own.class_weights)
    about = json.loads(models.read_metadata(handover.checkpoint(config, 0, "gap"))["network"])
    assert about["own_head"] and about["class_names"] == ["c0", "c1", ""]


def test_a_pass_is_made_once_for_a_network_its_images_and_the_code(trained, monkeypatch, tmp_path):
    config, table = trained
    whole, cropped = PROTOCOLS["paper"], PROTOCOLS["rethinkingcam"]
    passes, picture = [], config.root / table.loc[table["split"] == "test", "path"].iloc[0]
    predict = stages.predict
    monkeypatch.setattr(
        stages, "predict", lambda *args, **keep: passes.append(keep["path"].name) or predict(*args, **keep)
    )

    def predicted(protocol=whole, rows=table, **values):
        return stages.predicted(experiments.replace(config, **values), rows, 0, "wgap", False, protocol)

    first = predicted()
    again = predicted(processes=2)  # nothing to start processes for
    assert passes == ["predictions_wgap"]
    np.testing.assert_array_equal(first.maps("absolute"), again.maps("absolute"))
    predicted(cropped)
    assert passes == ["predictions_wgap", "predictions_wgap_cropped"]
    for change in (
        lambda: predicted(rows=table.assign(label=1 - table["label"])),  # other maps
        lambda: predicted(temperature=0.5),
        lambda: predicted(decoder="torchvision"),
        lambda: Image.new("RGB", (40, 30)).save(picture) or predicted(),  # another picture of the same name
        lambda: stages.train(experiments.replace(config, epochs=2), table, 0, "wgap", config.weights) and predicted(),
        lambda: monkeypatch.setattr(torch, "__version__", "9.9.9") or predicted(),
    ):
        before = len(passes)
        change()
        assert len(passes) == before + 1


def test_processes_are_started_where_there_is_something_to_do(trained, monkeypatch):
    config, table = trained
    launched = []

    def launch(count, device, function, *arguments):
        launched.append((count, device, function.__name__))
        monkeypatch.setattr(processes, "launched", lambda: True)
        function(*arguments)  # as the processes would
        monkeypatch.setattr(processes, "launched", lambda: False)

    monkeypatch.setattr(processes, "launch", launch)
    several = experiments.replace(config, processes=3)
    found = stages.predicted(several, table, 0, "wgap", False, PROTOCOLS["paper"])
    assert launched == [(3, "cpu", "predicted")] and len(found.label) == 4
    stages.train(several, table, 1, "wgap", config.weights)
    assert launched[1:] == [(3, "cpu", "finetune")] and handover.checkpoint(config, 1, "wgap").is_file()
    assert len(stages.train(several, table, 1, "wgap", config.weights)) == 1 and len(launched) == 2  # finished already


# The sample's own pre-training.


def test_given_weights_are_where_fine_tuning_starts(tmp_path):
    assert stages.starting_weights(experiments.configure("cub", "paper"), 0) == "imagenet"
    relative = experiments.configure("cub", "light", weights="w/a.safetensors")
    assert stages.starting_weights(relative, 0) == str(experiments.ROOT / "w" / "a.safetensors")
    whole = experiments.configure("birds", weights=str(tmp_path / "b.safetensors"))
    assert stages.starting_weights(whole, 0) == str(tmp_path / "b.safetensors")


@pytest.fixture
def things(tmp_path, monkeypatch):
    """Ten tiny images of two things, where the sample would lie, and one short epoch of pre-training."""
    root, train = tmp_path / "things", "ILSVRC/Data/CLS-LOC/train"
    names = [f"{train}/n0{1 + i % 2}/n0{1 + i % 2}_{i}.JPEG" for i in range(10)]
    draw(root, [*names, "ILSVRC/Data/CLS-LOC/val/v1.JPEG"])
    (root / "LOC_synset_mapping.txt").write_text("n01 fish\nn02 bird\n")
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nv1,n01 1 1 3 3 \n")
    solution = "".join(f"{name.split('/')[-1][:-5]},n0{1 + i % 2} 1 1 3 3 \n" for i, name in enumerate(names))
    (root / "LOC_train_solution.csv").write_text("ImageId,PredictionString\n" + solution)
    row = experiments.DATASETS["sample", "things"] | {"data_root": str(root), "image_size": 16, "resize_size": 18}
    monkeypatch.setitem(experiments.DATASETS, ("sample", "things"), row)
    monkeypatch.setattr(stages, "PRETRAINING", Recipe(1, 2, 1e-3, 1.0, 0.0, "adamw"))
    return root


def test_the_samples_network_starts_from_things(things, config, monkeypatch):
    first = stages.starting_weights(config, 0)
    folder = config.folder.parent / "things" / "seed0"
    assert first == str(folder / "backbone.safetensors")
    (epoch,) = json.loads(models.read_metadata(folder / "pretraining.safetensors")["history"])
    assert epoch["epoch"] == 1
    model = stages.network(config, "wgap", 10, False, first)
    state = models.load_into(models.build("small_vgg", 2, "gap"), folder / "pretraining.safetensors").state_dict()
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in model.backbone.state_dict().items())

    content = (folder / "backbone.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_epoch", lambda *_: pytest.fail("trained again"))
        assert stages.starting_weights(config, 0) == first
        assert stages.starting_weights(experiments.replace(config, dataset="things"), 0) == first  # for both data sets
    assert (folder / "backbone.safetensors").read_bytes() == content
    other = stages.starting_weights(config, 1)
    assert "seed1" in other and Path(other).read_bytes() != content


def test_things_are_held_out_where_things_are_evaluated(things, config, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda model, loader, *_, **__: seen.append(len(loader.dataset)))
    for dataset, part in (("birds", "validation"), ("things", "test"), ("things", "validation")):
        stages.starting_weights(experiments.configure(dataset, results=config.results, evaluate_on=part), 0)
    assert seen == [10, 10, 8]


# From scratch.


def test_from_scratch_keeps_the_convolutions(small_cub):
    config = small_cub(weights="scratch", evaluate_on="test")
    table = preparation.prepare(config)
    stages.train(config, table, 0, "gap", stages.starting_weights(config, 0))
    backbone = config.seed_folder(0) / "cub_gap_from_scratch.safetensors"
    assert models.read_metadata(backbone) == {"trained_on": "cub, from scratch"}
    next_one = stages.network(config, "wgap", 2, False, str(backbone))
    trained = models.load_into(stages.network(config, "gap", 2, False), handover.checkpoint(config, 0, "gap"))
    for a, b in zip(trained.backbone.parameters(), next_one.backbone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_from_scratch_needs_a_train_split(small_cub):
    with pytest.raises(ValueError, match="no train split: weights='scratch' leave nothing to evaluate"):
        stages.network(small_cub(), "gap", 2, True, "scratch")


# Rates of the head.


@pytest.fixture
def small_cub(tmp_path):
    """Ten train images and four test images of two classes, and weights to start from."""
    cub(tmp_path / "cub", train=5, test=2)
    torch.manual_seed(0)
    weights_file(tmp_path / "small.safetensors", models.SmallVGG(), "features.")

    def configured(results="results", **values):
        usual = {"backbone": "small_vgg", "image_size": 32, "resize_size": 36, "batch_size": 4, "epochs": 1, "lr": 1e-3}
        usual |= {"data_root": str(tmp_path / "cub"), "weights": str(tmp_path / "small.safetensors"), "device": "cpu"}
        usual |= {"evaluate_on": "validation", "results": str(tmp_path / results)}
        return experiments.configure("cub", "paper", **usual | values)

    return configured


def test_head_rates(small_cub):
    config = small_cub()
    found = stages.head_rates(config, 0, {"gap": [1, 100], "wgap": [1000.0]})
    assert found[["pooling", "lr_multiplier", "head_multiplier", "n_images"]].to_numpy().tolist() == [
        ["gap", 1, 1, 2], ["gap", 1, 100, 2], ["wgap", 1, 1000, 2],
    ]  # fmt: skip
    held = datasets.hold_out(datasets.read_cub(config.root)).query("split == 'test'")
    images = datasets.ImageDataset(held, config.root, datasets.test_transform(32))
    images, labels, _ = datasets.collate([images[i] for i in range(2)])
    for pooling, lr, rate, loss, accuracy in found.drop(columns="n_images").itertuples(index=False):
        file = config.seed_folder(0) / "head_rates" / f"{pooling}_{lr:g}_{rate:g}.safetensors"
        model = models.load_into(models.build("small_vgg", 2, pooling), file).eval()
        with torch.inference_mode():
            logits = model(images).logits
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-3)
        assert accuracy == 100 * (logits.argmax(dim=1) == labels).double().mean()
    assert found["loss"].nunique() == 3  # the rates were used


def test_each_head_rate_is_tried_with_each_rate_of_the_network(small_cub):
    found = stages.head_rates(small_cub(), 0, {"gap": [1, 8]}, multipliers=[1, 0.125])
    assert found[["lr_multiplier", "head_multiplier"]].to_numpy().tolist() == [[1, 1], [1, 8], [0.125, 1], [0.125, 8]]
    assert found["loss"].nunique() == 4
    slower = stages.head_rates(small_cub("slower", lr=1.25e-4), 0, {"gap": [8]})  # the same by another word
    assert slower["loss"].item() == found["loss"].iloc[3]


def test_head_rates_look_at_no_test_image_and_at_no_box(small_cub):
    rates = {"gap": [1.0], "wgap": [100.0]}
    config = small_cub()
    expected = stages.head_rates(config, 0, rates)
    table = datasets.read_cub(config.root)
    for path in table.loc[table["split"] == "test", "path"]:
        (config.root / path).unlink()
    boxes = (config.root / "bounding_boxes.txt").read_text().splitlines()
    lines(config.root / "bounding_boxes.txt", [f"{line.split()[0]} 1.0 1.0 2.0 2.0" for line in boxes])
    pd.testing.assert_frame_equal(stages.head_rates(small_cub("again"), 0, rates), expected, check_exact=True)
    with pytest.raises(datasets.DatasetError):  # an image that is looked at is missed
        (config.root / table.loc[table["split"] == "train", "path"].iloc[0]).write_bytes(b"")
        stages.head_rates(small_cub("once more"), 0, rates)


def test_head_rates_are_not_chosen_on_the_test_split(small_cub):
    with pytest.raises(ValueError, match="evaluate_on='validation'"):
        stages.head_rates(experiments.replace(small_cub(), evaluate_on="test"), 0, {"gap": [1.0]})


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    "values, rate", [({"epochs": 3, "lr": 1e30}, 1.0), ({"batch_size": 8, "lr": 1e30}, 1.0), ({"batch_size": 8}, 1e20)]
)
def test_a_rate_that_diverges_has_no_figure(small_cub, values, rate):
    """While it trains; in the very last step; or to logits that float16 cannot hold."""
    found = stages.head_rates(small_cub(**values), 0, {"gap": [rate]})
    assert list(found.columns) == ["pooling", "lr_multiplier", "head_multiplier", "n_images", "loss", "top1_cls"]
    assert found["n_images"].tolist() == [2] and found[["loss", "top1_cls"]].isna().all(axis=None)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_the_next_rate_is_tried_all_the_same(small_cub):
    found = stages.head_rates(small_cub(), 0, {"gap": [1e20, 1.0]})
    assert found["loss"].isna().tolist() == [True, False] == found["top1_cls"].isna().tolist()
