"""Fine-tuning and prediction of a run: networks, what counts as the same training, the heads' rates."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts_on_disk import ilsvrc, lines, table
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


# Networks.


def test_network(config, tmp_path):
    hot = experiments.replace(config, temperature=0.5)
    assert stages.network(hot, "wgap", 3, False).pool.temperature == 0.5
    assert not stages.network(config, "wgap_sum", 3, False).pool.divide_by_area
    assert stages.network(config, "gap", 3, False).class_weights.shape == (3, 128)
    with pytest.raises(ValueError, match=r"birds has no train split.*ImageNet's 1000 classes.*DATA_ROOT"):
        stages.network(config, "gap", 3, True)
    given = experiments.configure("ilsvrc", "light", data_root=str(tmp_path))
    mapping = tmp_path / "LOC_synset_mapping.txt"
    mapping.write_text("".join(f"n{i:08d} thing\n" for i in range(1000)))
    model = stages.network(given, "gap", 3, True)
    assert isinstance(model, models.ConvolutionalHeadLocalizer) and model.class_weights.shape == (1000, 512)
    with pytest.raises(ValueError, match="ilsvrc has no train split, and the head of trained WEIGHTS"):
        stages.network(given, "gap", 3, True, "scratch")
    mapping.write_text("n00000001 thing\n")  # labels would be shifted
    with pytest.raises(ValueError, match=r"ilsvrc has no train split.*1000 lines"):
        stages.network(given, "gap", 3, True)


def test_a_network_that_stands_as_it_is_is_kept_untrained(config, monkeypatch):
    own = models.build("small_vgg", 3, "gap")
    monkeypatch.setattr(stages, "network", lambda config, name, classes, own_head, *_: own if own_head else None)
    assert stages.train(config, table(4, "test"), 0, "gap", "imagenet") == []
    kept = models.load_into(models.build("small_vgg", 3, "gap"), handover.checkpoint(config, 0, "gap"))
    assert torch.equal(kept.class_weights, own.class_weights)
    about = json.loads(models.read_metadata(handover.checkpoint(config, 0, "gap"))["network"])
    assert about["own_head"] and about["class_names"] == ["c0", "c1", ""]  # a class without an image


# What counts as the same training.


def test_finetune_hands_on_the_runs_values(config, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(training, "fit", lambda _, loader, *rest, **named: seen.update(named, loader=loader, rest=rest))
    config = experiments.replace(config, cache_gb=0.5, compiled=True, checkpoint_steps=9)
    model, recipe, path = stages.network(config, "wgap", 2, False), config.recipe("wgap"), tmp_path / "w.safetensors"
    stages.finetune(config, model, table(), recipe, path, 7, "scratch")
    assert (seen["seed"], seen["keep_every"], seen["compiled"]) == (7, 9, False)  # nothing is compiled for a CPU
    loader = seen["loader"]
    assert (loader.device, loader.workers, loader.memory, loader.decoder) == ("cpu", 0, 500_000_000, "pillow")
    assert (loader.dataset.root, loader.dataset.seed, len(loader.dataset)) == (config.root, 7, 6)
    assert seen["rest"] == (recipe, path)


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
        return stages.fingerprint(stages.TRAINING_CODE, methods.Method, *parts)

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


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_predict_test(small_cub, protocol):
    """One pass: each test photograph as the protocol crops it, with its own box, class and original size."""
    config = small_cub(image_size=48, resize_size=52)
    table = datasets.check(datasets.read_cub(config.root), config.root)
    torch.manual_seed(0)
    model = stages.network(config, "wgap", 2, False)
    never = table.assign(path=table["path"].where(table["split"] == "test", "nowhere.jpg"))
    found, test = stages.predict_test(config, model, never, PROTOCOLS[protocol]), table[table["split"] == "test"]
    assert found.image_id.tolist() == test["image_id"].tolist() and found.label.tolist() == test["label"].tolist()
    assert found.size.tolist() == [48, 48]
    assert found.image_size.tolist() == [[*Image.open(config.root / path).size] for path in test["path"]]
    for row, boxes in zip(test.itertuples(), found.true_boxes(), strict=True):
        expected = to_input(row.boxes, (row.width, row.height), 48, PROTOCOLS[protocol])
        np.testing.assert_allclose(boxes, expected, atol=1e-3)
    images, _, _ = datasets.collate([*handover.test_set(config, table, PROTOCOLS[protocol])])
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model(images).logits, rtol=1e-2, atol=1e-4)


def test_a_compared_method_goes_the_whole_way(small_cub):
    """Training, the pass over the test split, and the network for one's own pictures; plain fine-tuning beside it."""
    config = small_cub(poolings="gap", methods="acol", method_options="acol.delta=0.5")
    table = preparation.prepare(config)
    for method, pooling in handover.trainings(config, table):
        assert len(stages.train(config, table, 0, pooling, config.weights, method)) == 1

    def predicted(method, **values):
        return stages.predicted(
            experiments.replace(config, **values), table, 0, "gap", False, config.conventions, method
        )

    found, plain = predicted("acol"), predicted("cam")
    assert "own" in found.kinds and "signed" in plain.kinds and len(found.label) == len(plain.label)
    assert not np.array_equal(found.logits, plain.logits)
    assert predicted("acol", method_options={}).identity != found.identity
    own = networks.load_network(checkpoint=handover.checkpoint(config, 0, "gap", "acol"))
    assert own.model.method.options == {"delta": 0.5} and own.name.endswith(", acol")
    first, second = (locate.look(own, config.root / table["path"].iloc[0], index) for index in (0, 1))
    assert first.given_map is not None and not np.array_equal(locate.activation(first), locate.activation(second))


def test_the_file_alone_is_enough_to_use_the_network(trained, monkeypatch):
    """Its header says what the configuration said, and another name of a class is another file."""
    config, table = trained
    path = handover.checkpoint(config, 0, "wgap")
    network, content = networks.load_network(path), path.read_bytes()
    assert (network.name, network.image_size) == ("small_vgg, wgap", 32)
    assert network.class_names == table.drop_duplicates("label").sort_values("label")["class_name"].tolist()
    stages.train(config, table.assign(class_name="bird"), 0, "wgap", config.weights)
    assert networks.load_network(path).class_names == ["bird", "bird"]
    stages.train(config, table, 0, "wgap", config.weights)
    assert path.read_bytes() == content
    monkeypatch.setattr(training._Run, "_epoch", lambda *_: pytest.fail("trained again"))
    assert len(stages.train(config, table, 0, "wgap", config.weights)) == 1


def test_a_pass_is_made_once_for_a_network_its_images_and_the_code(trained, monkeypatch):
    config, table = trained
    passes, picture = [], config.root / table.loc[table["split"] == "test", "path"].iloc[0]
    predict = stages.predict
    monkeypatch.setattr(
        stages, "predict", lambda *args, **keep: passes.append(keep["path"].name) or predict(*args, **keep)
    )

    def predicted(protocol="paper", rows=table, **values):
        return stages.predicted(experiments.replace(config, **values), rows, 0, "wgap", False, PROTOCOLS[protocol])

    first = predicted()
    again = predicted(processes=2)  # nothing to start processes for
    np.testing.assert_array_equal(first.maps("absolute"), again.maps("absolute"))
    assert passes == ["predictions_wgap"]
    for change in (
        lambda: predicted("rethinkingcam"),
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
    assert passes[1] == "predictions_wgap_cropped"


def test_processes_are_started_where_there_is_something_to_do(trained, monkeypatch):
    config, table = trained
    launched = []

    def launch(count, device, function, *arguments):
        launched.append((count, device, function.__name__))
        with monkeypatch.context() as patch:
            patch.setattr(processes, "launched", lambda: True)
            function(*arguments)  # as the processes would

    monkeypatch.setattr(processes, "launch", launch)
    several = experiments.replace(config, processes=3)
    found = stages.predicted(several, table, 0, "wgap", False, PROTOCOLS["paper"])
    assert launched == [(3, "cpu", "predicted")] and len(found.label) == 4
    for _ in range(2):  # the second time it is finished already
        assert len(stages.train(several, table, 1, "wgap", config.weights)) == 1
    assert launched[1:] == [(3, "cpu", "finetune")] and handover.checkpoint(config, 1, "wgap").is_file()


# Where fine-tuning starts.


def test_given_weights_are_where_fine_tuning_starts(tmp_path):
    for given, expected in (
        ("imagenet", "imagenet"), ("w/a.safetensors", str(experiments.ROOT / "w" / "a.safetensors")),
        (str(tmp_path / "b.safetensors"), str(tmp_path / "b.safetensors")),
    ):  # fmt: skip
        assert stages.starting_weights(experiments.configure("birds", weights=given), 0) == expected


def test_from_scratch_keeps_the_convolutions(small_cub):
    config = small_cub(weights="scratch")
    table = preparation.prepare(config)
    stages.train(config, table, 0, "gap", stages.starting_weights(config, 0))
    backbone = config.seed_folder(0) / "cub_gap_from_scratch.safetensors"
    assert models.read_metadata(backbone) == {"trained_on": "cub, from scratch"}
    next_one = stages.network(config, "wgap", 2, False, str(backbone))
    trained = models.load_into(stages.network(config, "gap", 2, False), handover.checkpoint(config, 0, "gap"))
    for a, b in zip(trained.backbone.parameters(), next_one.backbone.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def things(tmp_path, monkeypatch):
    """Ten images of two things, where the sample would lie, and one short epoch of pre-training."""
    ilsvrc(tmp_path / "things", train=5, test=1)
    row = {"layout": "ilsvrc", "data_root": str(tmp_path / "things"), "image_size": 16, "resize_size": 18, "epochs": 1}
    monkeypatch.setitem(experiments.DATASETS, ("sample", "things"), row)
    monkeypatch.setattr(stages, "PRETRAINING", Recipe(1, 2, 1e-3, 1.0, 0.0, "adamw"))


def test_the_samples_network_starts_from_things(things, config, monkeypatch):
    first = stages.starting_weights(config, 0)
    folder = config.folder.parent / "things" / "seed0"
    assert first == str(folder / "backbone.safetensors")
    model = stages.network(config, "wgap", 10, False, first)
    state = models.load_into(models.build("small_vgg", 2, "gap"), folder / "pretraining.safetensors").state_dict()
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in model.backbone.state_dict().items())
    content = (folder / "backbone.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_epoch", lambda *_: pytest.fail("trained again"))
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


# Rates of the head.


def test_head_rates(small_cub):
    """Each is tried with each rate of the network, on a validation part of the train split alone."""
    config = small_cub(evaluate_on="validation")
    table = datasets.read_cub(config.root)
    for path in table.loc[table["split"] == "test", "path"]:
        (config.root / path).unlink()  # no test image is looked at, and no box
    lines(config.root / "bounding_boxes.txt", [f"{i + 1} 1.0 1.0 2.0 2.0" for i in range(len(table))])
    found = stages.head_rates(config, 0, {"gap": [1, 100], "wgap": [1000.0]}, multipliers=[1, 0.125])
    assert found[["pooling", "lr_multiplier", "head_multiplier", "n_images"]].to_numpy().tolist() == [
        ["gap", 1, 1, 2], ["gap", 1, 100, 2], ["gap", 0.125, 1, 2], ["gap", 0.125, 100, 2], ["wgap", 1, 1000, 2],
        ["wgap", 0.125, 1000, 2],
    ]  # fmt: skip
    held = datasets.hold_out(table).query("split == 'test'")
    images = datasets.ImageDataset(held, config.root, datasets.test_transform(32))
    images, labels, _ = datasets.collate([images[i] for i in range(2)])
    for pooling, lr, rate, loss, accuracy in found.drop(columns="n_images").itertuples(index=False):
        file = config.seed_folder(0) / "head_rates" / f"{pooling}_{lr:g}_{rate:g}.safetensors"
        model = models.load_into(models.build("small_vgg", 2, pooling), file).eval()
        with torch.inference_mode():
            logits = model(images).logits
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-3)
        assert accuracy == 100 * (logits.argmax(dim=1) == labels).double().mean()
    assert found["loss"].nunique() == 6  # the rates were used
    slower = small_cub("slower", evaluate_on="validation", lr=1.25e-4)  # the same by another word
    assert stages.head_rates(slower, 0, {"gap": [100]})["loss"].item() == found["loss"].iloc[3]
    with pytest.raises(ValueError, match="evaluate_on='validation'"):
        stages.head_rates(small_cub(), 0, {"gap": [1.0]})


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    "values, rates",
    [({"epochs": 3, "lr": 1e30}, [1.0]), ({"batch_size": 8, "lr": 1e30}, [1.0]), ({"batch_size": 8}, [1e20, 1.0])],
)
def test_a_rate_that_diverges_has_no_figure(small_cub, values, rates):
    """While it trains; in the very last step; or to logits that float16 cannot hold. The next rate is tried."""
    found = stages.head_rates(small_cub(evaluate_on="validation", **values), 0, {"gap": rates})
    assert list(found.columns) == ["pooling", "lr_multiplier", "head_multiplier", "n_images", "loss", "top1_cls"]
    assert found["n_images"].tolist() == [2] * len(rates)
    assert found["loss"].isna().tolist() == [True, False][: len(rates)] == found["top1_cls"].isna().tolist()
