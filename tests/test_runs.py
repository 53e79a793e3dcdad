"""What a run does with a configuration: splits, networks, hand-over files, and what counts as the same training."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wsol_utils import datasets, experiments, models, runs, training
from wsol_utils.predictions import KINDS, Predictions
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


def test_predictions(config):
    kept = Predictions(
        np.array(["a"]), np.array([1]), np.array([0]), np.zeros((1, 2), np.float16), np.array(KINDS),
        np.zeros((1, 5, 2, 2), np.float16), np.zeros((1, 5), np.float32), np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64), np.array([8, 8]),
    )  # fmt: skip
    kept.save(config.seed_folder(1) / "predictions_wgap.npz")
    assert runs.predictions(config, 1, "wgap").image_id.tolist() == ["a"]


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
                         "threshold": 0.2, "uses_ground_truth": False, "n_images": 3, "top1_cls": 1.0, "top1_loc": 1.0,
                         "gt_known": 1.0, "gt_known_low": 0.0, "gt_known_high": 2.0, "extra": 9})  # fmt: skip
    found = runs.described(config, rows)
    assert list(found.columns) == [
        "dataset", "profile", "backbone", "pooling", "temperature", "recombination", "normalization", "resolution",
        "protocol", "threshold_rule", "threshold", "uses_ground_truth", "seed", "n_images", "top1_cls", "top1_loc",
        "gt_known", "gt_known_low", "gt_known_high",
    ]  # fmt: skip
    assert found.loc[0, ["dataset", "profile", "backbone"]].tolist() == ["birds", "sample", "small_vgg"]
    assert found.loc[0, ["normalization", "resolution", "protocol"]].tolist() == ["max", "input", "paper"]
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
