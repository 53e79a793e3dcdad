"""What a run does with a configuration: splits, networks, hand-over files, and what counts as the same training."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import cub, lines, weights_file
from PIL import Image

from wsol_utils import datasets, experiments, models, runs, training
from wsol_utils.predictions import Predictions
from wsol_utils.protocols import PROTOCOLS, to_input
from wsol_utils.training import Recipe


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv("WSOL_RESULTS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "photographs").mkdir()
    for i in range(6):
        (tmp_path / "photographs" / f"{i}.png").write_bytes(b"a picture")
    places = {"data_root": str(tmp_path / "photographs"), "results": str(tmp_path / "results")}
    return experiments.configure("birds", seeds="0,1", device="cpu", **places)


def table(n=6, split="train"):
    return pd.DataFrame(
        {"image_id": [str(i) for i in range(n)], "path": [f"{i}.png" for i in range(n)], "split": split,
         "label": [i % 2 for i in range(n)], "class_name": [f"c{i % 2}" for i in range(n)], "width": 8, "height": 8,
         "boxes": [[(0.0, 0.0, 4.0, 4.0)] for _ in range(n)], "source": "list.txt:1"}
    )[list(datasets.COLUMNS)]  # fmt: skip


def draw(root, names):
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name, format="PNG")


# What a user finds in metrics.csv, first of all.
METRICS_COLUMNS = [
    "dataset", "profile", "backbone", "pooling", "temperature", "recombination", "normalization", "resolution",
    "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images", "top1_cls", "top1_loc",
    "gt_known", "gt_known_low", "gt_known_high",
]  # fmt: skip

# Files that one notebook hands to the next.


def test_a_later_notebook_names_the_one_before_it(config):
    for call, file, notebook in (
        (lambda: runs.annotations(config), "annotations.csv", "01_dataset_preparation"),
        (lambda: runs.networks(config), "seed0/networks.csv", "02_finetune_wgap"),
        (lambda: runs.predictions(config, 1, "gap"), "seed1/predictions_gap.npz", "03_cam_recombination"),
        (lambda: runs.seed_csv(config, "x.csv", "04_threshold_selection"), "seed0/x.csv", "04_threshold_selection"),
    ):
        with pytest.raises(
            FileNotFoundError, match=rf"sample/birds/{file} is missing: run notebooks/{notebook}\.ipynb"
        ):
            call()


def test_annotations(config):
    datasets.write_table(table(), config.folder / "annotations.csv")
    pd.testing.assert_frame_equal(runs.annotations(config), table())


def one_image(name):
    return Predictions(
        np.array([name]), np.array([1]), np.array([0]), np.zeros((1, 2), np.float16), np.array(["signed"]),
        np.zeros((1, 1, 2, 2), np.float16), np.zeros((1, 1), np.float32), np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64), np.array([8, 8]), np.array([[8, 8]]),
    )  # fmt: skip


def test_predictions(config):
    one_image("a").save(config.seed_folder(1) / "predictions_wgap.npz")
    assert runs.predictions(config, 1, "wgap").image_id.tolist() == ["a"]


def test_a_crop_of_the_images_is_another_pass(config):
    files = {name: runs.prediction_file(config, 1, "wgap", row) for name, row in PROTOCOLS.items()}
    assert files["paper"] == files["wsolevaluation"] == config.seed_folder(1) / "predictions_wgap.npz"
    assert files["rethinkingcam"] == config.seed_folder(1) / "predictions_wgap_cropped.npz"
    for name in ("paper", "rethinkingcam"):
        one_image(name).save(files[name])
    bae = experiments.replace(config, protocol="rethinkingcam")
    assert runs.predictions(bae, 1, "wgap").image_id.tolist() == ["rethinkingcam"]  # the run's own geometry
    assert runs.predictions(bae, 1, "wgap", PROTOCOLS["paper"]).image_id.tolist() == ["paper"]
    assert runs.predictions(config, 1, "wgap", PROTOCOLS["rethinkingcam"]).image_id.tolist() == ["rethinkingcam"]
    files["rethinkingcam"].unlink()
    with pytest.raises(FileNotFoundError, match=r"predictions_wgap_cropped\.npz is missing: run notebooks/03_"):
        runs.predictions(bae, 1, "wgap")


def test_tables_of_several_seeds(config, capsys):
    rows = pd.DataFrame({"seed": [0, 1, 0, 1], "gt_known": [1 / 3, 2.0, 3.0, 4.0]})
    runs.write_seed_csv(config, rows, "thresholds.csv")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["wrote", "wrote"]
    assert pd.read_csv(config.seed_folder(1) / "thresholds.csv")["gt_known"].tolist() == [2, 4]
    again = runs.seed_csv(config, "thresholds.csv", "04_threshold_selection")
    assert again.to_numpy().tolist() == [[0, 1 / 3], [0, 3], [1, 2], [1, 4]]  # to the last bit
    assert list(again.index) == [0, 1, 2, 3]
    (config.seed_folder(1) / "thresholds.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"seed1/thresholds\.csv is missing"):
        runs.seed_csv(config, "thresholds.csv", "04_threshold_selection")


def test_an_interrupted_csv_leaves_the_old_file(tmp_path, monkeypatch):
    runs.write_csv(table(2)[["path"]], tmp_path / "a.csv")

    def cut_off(self, path, **_):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", cut_off)
    with pytest.raises(KeyboardInterrupt):
        runs.write_csv(table(3)[["path"]], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "path\n0.png\n1.png\n"


def test_described_rows_have_the_columns_of_metrics_csv(config):
    kinds = ["gap", "wgap", "wgap_sum", "tap"]
    rows = pd.DataFrame({"pooling": kinds, "seed": 0, "recombination": "absolute", "threshold_rule": "fixed",
                         "threshold": 0.2, "threshold_sd": 0.0, "uses_ground_truth": False, "n_images": 3,
                         "top1_cls": 1.0, "top1_loc": 1.0, "gt_known": 1.0, "gt_known_low": 0.0, "gt_known_high": 2.0,
                         "p_value": 1.0, "extra": 9})  # fmt: skip
    found = runs.described(config, rows)
    assert list(found.columns) == runs.METRICS_COLUMNS
    assert list(found.columns[:19]) == METRICS_COLUMNS and found.columns.is_unique
    assert found.drop(columns="temperature").notna().all(axis=None)
    words = ["dataset", "profile", "backbone", "features", "protocol", *experiments.CONVENTIONS, "candidates"]
    assert found.loc[0, words].tolist() == [
        "birds", "sample", "small_vgg", "plain", "paper", "max", "input", "bilinear", "pixels", "8-neighbours", 21,
    ]  # fmt: skip
    own = {"features": "weighted", "protocol": "wsolevaluation", "normalization": "max", "resolution": "map",
           "boundary": "contour", "candidates": 11}  # fmt: skip
    found = runs.described(experiments.replace(config, temperature=0.5, **own), rows)
    assert found.loc[0, words].tolist() == [
        "birds", "sample", "small_vgg", "weighted", "wsolevaluation", "max", "map", "bicubic", "contour", "contour", 11,
    ]  # fmt: skip
    assert found["temperature"].fillna(-1).tolist() == [-1, 0.5, 0.5, -1]
    found = runs.described(config, rows)
    assert found["temperature"].fillna(-1).tolist() == [-1, 1, 1, -1]  # a cell that does not apply is empty
    assert found["pooling"].tolist() == kinds


def test_panels(tmp_path):
    columns = [
        {"image": np.full((2, 2, 3), i, np.uint8), "truth": np.zeros((i % 3, 4)), "cam_map": np.full((1, 2), i / 7)}
        for i in range(12)
    ]
    runs.save_panels(tmp_path / "deep" / "panels.npz", columns)
    again = runs.load_panels(tmp_path / "deep" / "panels.npz")
    assert len(again) == 12  # in their order, 10 after 9
    for kept, read in zip(columns, again, strict=True):
        assert list(read) == ["image", "truth", "cam_map"]
        for key in kept:
            np.testing.assert_array_equal(read[key], kept[key])
            assert read[key].dtype == kept[key].dtype
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["panels.npz"]


# Splits and networks.


def test_device(monkeypatch):
    assert runs.device(experiments.configure(device="cuda")) == "cuda"
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert runs.device(experiments.configure("cub", "light")) == expected
        assert runs.device(experiments.configure("birds")) == "cpu"  # where the sample's bands were measured


def test_workers(monkeypatch):
    assert runs.workers(experiments.configure("cub", "light", device="cpu")) == 0
    assert 1 <= runs.workers(experiments.configure("cub", "light", device="cuda")) <= 16
    assert runs.workers(experiments.configure("cub", "light", device="cuda", workers=3)) == 3


def test_split(config):
    both = pd.concat([table(10), table(4, "test")], ignore_index=True)
    assert runs.split(config, both, "train")["image_id"].tolist() == [str(i) for i in range(10)]
    test = runs.split(config, both, "test")
    assert list(test.index) == [0, 1, 2, 3] and set(test["split"]) == {"test"}


def test_a_validation_part_is_held_out_of_the_train_split(tmp_path):
    config = experiments.configure(results=str(tmp_path), evaluate_on="validation")
    both = pd.concat([table(10), table(4, "test").assign(image_id="never")], ignore_index=True)
    train, held = runs.split(config, both, "train"), runs.split(config, both, "test")
    assert len(train) == 8 and len(held) == 2  # a fifth of each class
    assert sorted([*train["image_id"], *held["image_id"]]) == [str(i) for i in range(10)]


def test_photographs_in_the_geometry_of_a_protocol(config):
    """An image whose left and right eighths are black: the crop of 110 pixels to 96 leaves 1 pixel of each less."""
    pixels = np.full((110, 110, 3), 255, np.uint8)
    pixels[:, :8] = pixels[:, -8:] = 0
    Image.fromarray(pixels).save(config.root / "0.png")
    test = table(1, "test").assign(boxes=[[(8.0, 0.0, 102.0, 110.0)]])
    cropped, _, box = runs.test_set(config, test, PROTOCOLS["rethinkingcam"])[0]
    assert cropped.shape == (3, 96, 96) and box.tolist() == [[1, 0, 95, 96]]
    whole, _, box = runs.test_set(config, test, PROTOCOLS["paper"])[0]
    assert whole.shape == (3, 96, 96)
    np.testing.assert_allclose(box, [[8 * 96 / 110, 0, 102 * 96 / 110, 96]], rtol=1e-6)
    (seen,) = runs.pictures(experiments.replace(config, protocol="rethinkingcam"), test, [0])
    assert seen.shape == (96, 96, 3) and seen.dtype == np.uint8
    assert (seen[:, [0, 95]] == 0).all() and (seen[:, 1:95] == 255).all()
    (seen,) = runs.pictures(config, test, [0])
    assert (seen[:, [0, 5, 90, 95]] == 0).all() and (seen[:, 9:87] == 255).all()


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
    model = runs.network(config, "wgap", 2, False)
    train = table.assign(split="train", path="nowhere.jpg", width=1)  # never looked at
    both = pd.concat([train, table], ignore_index=True)
    found = runs.predict_test(config, model, both, PROTOCOLS[protocol])
    assert found.image_id.tolist() == table["image_id"].tolist() and found.label.tolist() == table["label"].tolist()
    assert found.size.tolist() == [48, 48]
    assert found.image_size.tolist() == table[["width", "height"]].to_numpy().tolist()
    assert len({tuple(size) for size in found.image_size}) == 6
    sides = [Image.open(config.root / path).size for path in table["path"]]
    assert found.image_size.tolist() == [list(side) for side in sides]
    for row, boxes in zip(table.itertuples(), found.true_boxes(), strict=True):
        expected = to_input(row.boxes, (row.width, row.height), 48, PROTOCOLS[protocol])
        np.testing.assert_allclose(boxes, expected, atol=1e-3)
    images, _, _ = datasets.collate([*runs.test_set(config, table, PROTOCOLS[protocol])])
    with torch.inference_mode():
        np.testing.assert_allclose(found.logits, model(images).logits, rtol=1e-2, atol=1e-4)


def test_ours_is_wgap_where_it_was_trained(config):
    for names, expected in ((["gap", "wgap", "tap"], "wgap"), (["gap", "wgap_sum"], "wgap_sum"), (["gap"], "gap")):
        for seed in config.seeds:
            rows = pd.DataFrame({"seed": seed, "pooling": names})
            runs.write_csv(rows, config.seed_folder(seed) / "networks.csv")
        assert runs.ours(config) == expected


def test_network(config):
    hot = experiments.configure(temperature=0.5)
    assert runs.network(hot, "wgap", 3, False).pool.temperature == 0.5
    assert runs.network(config, "wgap", 3, False).pool.divide_by_area
    assert not runs.network(config, "wgap_sum", 3, False).pool.divide_by_area
    assert runs.network(config, "gap", 3, False).class_weights.shape == (3, 128)


def test_network_as_it_stands(config, tmp_path):
    ilsvrc = experiments.configure("ilsvrc", "light", data_root=str(tmp_path))
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"n{i:08d} thing\n" for i in range(1000)))
    model = runs.network(ilsvrc, "gap", 3, True)
    assert isinstance(model, models.ConvolutionalHeadLocalizer) and model.class_weights.shape == (1000, 512)
    with pytest.raises(ValueError, match=r"birds has no train split.*ImageNet's 1000 classes alone.*DATA_ROOT"):
        runs.network(config, "gap", 3, True)
    (tmp_path / "LOC_synset_mapping.txt").write_text("n00000001 thing\n")  # labels would be shifted
    with pytest.raises(ValueError, match=r"ilsvrc has no train split.*1000 lines"):
        runs.network(ilsvrc, "gap", 3, True)


# What counts as the same training.


def test_finetune_hands_on_the_runs_values(config, tmp_path, monkeypatch):
    seen = {}

    def fit(model, dataset, recipe, checkpoint, **rest):
        seen.update(rest, dataset=dataset, recipe=recipe, checkpoint=checkpoint)
        return ["history"]

    monkeypatch.setattr(training, "fit", fit)
    model, recipe = runs.network(config, "wgap", 2, False), config.recipe("wgap")
    assert runs.finetune(config, model, table(), recipe, tmp_path / "w.safetensors", 7, "scratch") == ["history"]
    assert (seen["seed"], seen["device"], seen["workers"]) == (7, "cpu", 0)
    assert seen["recipe"] is recipe and seen["checkpoint"] == tmp_path / "w.safetensors"
    assert seen["dataset"].root == config.root and seen["dataset"].seed == 7 and len(seen["dataset"]) == 6


def test_the_fingerprint_tells_runs_apart(config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, fingerprint, **__: fingerprint)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")

    def identity(rows=None, start=str(weights), pool="gap", **values):
        changed = experiments.replace(config, **values)
        model = runs.network(changed, pool, 2, False)
        rows = table() if rows is None else rows
        return runs.finetune(changed, model, rows, config.recipe(pool), tmp_path / "c", 0, start)

    usual = identity()
    assert identity() == usual
    assert identity(rows=table().assign(boxes=[[]] * 6)) == usual  # no box is seen in training
    assert identity(results="elsewhere") == usual
    others = [
        identity(rows=table(5)), identity(rows=table().assign(label=0)), identity(rows=table().iloc[::-1]),
        identity(pool="wgap"), identity(pool="wgap", temperature=2.0), identity(start="scratch"),
        identity(image_size=config.image_size - 8), identity(resize_size=config.resize_size + 8),
    ]  # fmt: skip
    weights.write_bytes(b"two")
    others.append(identity())
    (config.root / "0.png").write_bytes(b"another picture of the same name")
    others.append(identity())
    monkeypatch.setattr(torch, "__version__", "0.0")
    others.append(identity())
    assert len({usual, *others}) == 12


def test_the_fingerprint_tells_the_code_apart(tmp_path, monkeypatch):
    (tmp_path / "wsol_utils").mkdir()
    for name in ("datasets", "models", "pooling", "training"):
        (tmp_path / "wsol_utils" / f"{name}.py").write_text("x = 1\n")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    before = runs.fingerprint("a", "b")
    assert runs.fingerprint("a", "b") == before != runs.fingerprint("a", "c")
    assert runs.fingerprint("ab", "") != before
    (tmp_path / "wsol_utils" / "pooling.py").write_text("x = 2\n")
    assert runs.fingerprint("a", "b") != before


# The sample's own pre-training.


def test_given_weights_are_where_fine_tuning_starts(tmp_path):
    assert runs.starting_weights(experiments.configure("cub", "paper"), 0) == "imagenet"
    relative = experiments.configure("cub", "light", weights="w/a.safetensors")
    assert runs.starting_weights(relative, 0) == str(experiments.ROOT / "w" / "a.safetensors")
    whole = experiments.configure("birds", weights=str(tmp_path / "b.safetensors"))
    assert runs.starting_weights(whole, 0) == str(tmp_path / "b.safetensors")


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
    monkeypatch.setattr(runs, "PRETRAINING", Recipe(1, 2, 1e-3, 1.0, 0.0, "adamw"))
    return root


def test_the_samples_network_starts_from_things(things, config, monkeypatch):
    first = runs.starting_weights(config, 0)
    folder = config.folder.parent / "things" / "seed0"
    assert first == str(folder / "backbone.safetensors")
    (epoch,) = json.loads(models.read_metadata(folder / "pretraining.safetensors")["history"])
    assert epoch["epoch"] == 1
    model = runs.network(config, "wgap", 10, False, first)
    state = models.load_into(models.build("small_vgg", 2, "gap"), folder / "pretraining.safetensors").state_dict()
    assert all(torch.equal(value, state[f"backbone.{key}"]) for key, value in model.backbone.state_dict().items())

    content = (folder / "backbone.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", lambda *_: pytest.fail("trained again"))
        assert runs.starting_weights(config, 0) == first
        assert runs.starting_weights(experiments.replace(config, dataset="things"), 0) == first  # for both data sets
    assert (folder / "backbone.safetensors").read_bytes() == content
    other = runs.starting_weights(config, 1)
    assert "seed1" in other and Path(other).read_bytes() != content


def test_things_are_held_out_where_things_are_evaluated(things, config, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda model, dataset, *_, **__: seen.append(len(dataset)))
    for dataset, part in (("birds", "validation"), ("things", "test"), ("things", "validation")):
        runs.starting_weights(experiments.configure(dataset, results=config.results, evaluate_on=part), 0)
    assert seen == [10, 10, 8]


# Rates of the head.


@pytest.fixture
def small_cub(tmp_path):
    """Ten train images and four test images of two classes, and weights to start from."""
    cub(tmp_path / "cub", train=5, test=2)
    torch.manual_seed(0)
    weights_file(tmp_path / "small.safetensors", models.SmallVGG(), "features.")

    def configured(results="results", **values):
        usual = {"backbone": "small_vgg", "image_size": 32, "resize_size": 36, "batch_size": 4, "epochs": 1, "lr": 1e-3}
        places = {"data_root": str(tmp_path / "cub"), "weights": str(tmp_path / "small.safetensors"), "device": "cpu"}
        return experiments.configure(
            "cub", "paper", evaluate_on="validation", results=str(tmp_path / results), **places, **usual | values
        )

    return configured


def test_head_rates(small_cub):
    config = small_cub()
    found = runs.head_rates(config, 0, {"gap": [1, 100], "wgap": [1000.0]})
    assert found[["pooling", "head_multiplier", "n_images"]].to_numpy().tolist() == [
        ["gap", 1, 2], ["gap", 100, 2], ["wgap", 1000, 2],
    ]  # fmt: skip
    held = datasets.hold_out(datasets.read_cub(config.root)).query("split == 'test'")
    images = datasets.ImageDataset(held, config.root, datasets.test_transform(32))
    images, labels, _ = datasets.collate([images[i] for i in range(2)])
    for pooling, rate, loss, accuracy in found.drop(columns="n_images").itertuples(index=False):
        file = config.seed_folder(0) / "head_rates" / f"{pooling}_{rate:g}.safetensors"
        model = models.load_into(models.build("small_vgg", 2, pooling), file).eval()
        with torch.inference_mode():
            logits = model(images).logits
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-3)
        assert accuracy == 100 * (logits.argmax(dim=1) == labels).double().mean()
    assert found["loss"].nunique() == 3  # the rates were used


def test_head_rates_look_at_no_test_image_and_at_no_box(small_cub):
    rates = {"gap": [1.0], "wgap": [100.0]}
    config = small_cub()
    expected = runs.head_rates(config, 0, rates)
    table = datasets.read_cub(config.root)
    for path in table.loc[table["split"] == "test", "path"]:
        (config.root / path).unlink()
    boxes = (config.root / "bounding_boxes.txt").read_text().splitlines()
    lines(config.root / "bounding_boxes.txt", [f"{line.split()[0]} 1.0 1.0 2.0 2.0" for line in boxes])
    pd.testing.assert_frame_equal(runs.head_rates(small_cub("again"), 0, rates), expected, check_exact=True)
    with pytest.raises(datasets.DatasetError):  # an image that is looked at is missed
        (config.root / table.loc[table["split"] == "train", "path"].iloc[0]).write_bytes(b"")
        runs.head_rates(small_cub("once more"), 0, rates)


def test_head_rates_are_not_chosen_on_the_test_split(small_cub):
    with pytest.raises(ValueError, match="evaluate_on='validation'"):
        runs.head_rates(experiments.replace(small_cub(), evaluate_on="test"), 0, {"gap": [1.0]})


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    "values, rate", [({"epochs": 3, "lr": 1e30}, 1.0), ({"batch_size": 8, "lr": 1e30}, 1.0), ({"batch_size": 8}, 1e20)]
)
def test_a_rate_that_diverges_has_no_figure(small_cub, values, rate):
    """While it trains; in the very last step; or to logits that float16 cannot hold."""
    found = runs.head_rates(small_cub(**values), 0, {"gap": [rate]})
    assert list(found.columns) == ["pooling", "head_multiplier", "n_images", "loss", "top1_cls"]
    assert found["n_images"].tolist() == [2] and found[["loss", "top1_cls"]].isna().all(axis=None)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_the_next_rate_is_tried_all_the_same(small_cub):
    found = runs.head_rates(small_cub(), 0, {"gap": [1e20, 1.0]})
    assert found["loss"].isna().tolist() == [True, False] == found["top1_cls"].isna().tolist()
