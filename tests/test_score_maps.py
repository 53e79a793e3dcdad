"""Score maps of any network: figures worked out by hand, the two reference codes told a second time, other packages."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from layouts_on_disk import cub, lines
from PIL import Image
from plain_references import contours, inclusive_iou

from wsol_utils import cam, datasets, evaluation, metrics, models, protocols, score_maps
from wsol_utils.__main__ import main
from wsol_utils.data.layouts import DatasetError
from wsol_utils.maps.extract import predict

PAPER, CHOE, BAE = protocols.PROTOCOLS.values()
ALL = ("fixed", "first_above_mean", "best_fixed", "oracle")


def on_disk(folder, images, maps):
    """Text files of {id: (label, (width, height), boxes)} and a file for each map; the folder of the maps, metadata."""
    lines(folder / "metadata/image_ids.txt", list(images))
    lines(folder / "metadata/class_labels.txt", [f"{key},{label}" for key, (label, _, _) in images.items()])
    lines(folder / "metadata/image_sizes.txt", [f"{key},{w},{h}" for key, (_, (w, h), _) in images.items()])
    rows = [f"{key},{','.join(map(str, box))}" for key, (_, _, boxes) in images.items() for box in boxes]
    lines(folder / "metadata/localization.txt", rows)
    for key, scores in zip(images, maps, strict=True):
        file = folder / "maps" / f"{key}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, scores)
    return folder / "maps", score_maps.read_metadata(folder / "metadata")


def patch(x0, y0, x1, y1):
    """A map of 224×224, 1 on the half-open rectangle and 0 elsewhere."""
    scores = np.zeros((224, 224), dtype=np.float32)
    scores[y0:y1, x0:x1] = 1
    return scores


def smooth(seed, count, side):
    """Random hills."""
    noise = np.random.default_rng(seed).random((count, 8, 8)).astype(np.float32)
    return np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in noise])


def random_images(seed, count):
    """Sizes, labels and one to three boxes in whole numbers, which the crop of rethinkingCAM does not cut off."""
    rng, images = np.random.default_rng(seed), {}
    for i in range(count):
        size, boxes = rng.integers(100, 600, 2), []
        for _ in range(rng.integers(1, 4)):
            low, high = (np.floor(size * rng.uniform(*share, 2)).astype(int) for share in ((0.1, 0.3), (0.5, 0.9)))
            boxes.append(tuple(map(int, (*low, *high))))
        images[f"val/{i % 3}/{i}.JPEG"] = (int(rng.integers(0, 5)), tuple(map(int, size)), boxes)
    return images


# By hand. Whether the box of each image is a hit, under each protocol.

BY_HAND = {
    # The file says x 100 to 319 of 2240, y 10 to 20 of 224; the map says [10, 20) both ways.
    # paper: [10, 31.9): 10 of 21.9 pixels wide, 0.46.
    # wsolevaluation: 31.9 is cut to 31; 10 to 20 is 11 pixels, 10 to 31 is 22: 11 / 22, a hit. Uncut it is 11 / 22.9.
    # rethinkingCAM: the frame is 256, of which 16 are cut: y from 10 * 256 / 224 - 16 < 0 to 6.9: above the box.
    "cut to integers": (patch(10, 10, 20, 20), (2240, 224), [(100, 10, 319, 20)], (0, 1, 0)),
    # The corner of 256×256. paper: 50 * 224 / 256 = 43.75: 30² / 43.75² = 0.47. wsolevaluation: 31² / 44² = 0.496.
    # rethinkingCAM: -16 to 49 - 16, clipped to 0 to 33: 31² / 34² = 0.83; unclipped it is 31² / 50² = 0.38.
    "clipped by the crop": (patch(0, 0, 30, 30), (256, 256), [(0, 0, 50, 50)], (0, 0, 1)),
    # Nothing is found. The whole image is 225² pixels for rethinkingCAM, the object 0 to 183, 0 to 223: 0.81 of them.
    "an empty map": (patch(0, 0, 0, 0), (256, 256), [(16, 16, 200, 256)], (0, 0, 1)),
    # The second is right, the first is not. rethinkingCAM: 100 and 149 become 98 and 154: 51² / 57² = 0.80.
    "several boxes": (patch(100, 100, 150, 150), (224, 224), [(0, 0, 20, 20), (100, 100, 150, 150)], (1, 1, 1)),
    # At the right border. paper: 10 of 20 pixels. wsolevaluation: x1 = 224 is clipped to 223: 10 of 204 to 224, 21.
    # rethinkingCAM: x 217 to 223 of 214 to 224, y 98 to 108 against 100 to 110: 63 / (121 + 77 - 63) = 0.47.
    "at the border": (patch(214, 100, 224, 110), (224, 224), [(204, 100, 224, 110)], (1, 0, 0)),
}


def worked_out(folder):
    images = {f"val/{i}.jpg": (i, size, boxes) for i, (_, size, boxes, _) in enumerate(BY_HAND.values())}
    return on_disk(folder, images, [scores for scores, *_ in BY_HAND.values()])


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_by_hand(tmp_path, protocol):
    folder, metadata = worked_out(tmp_path)
    some = score_maps.read(folder, metadata, protocols.get(protocol))
    hits = [of[-1][list(protocols.PROTOCOLS).index(protocol)] for of in BY_HAND.values()]
    [(_, overlap)] = evaluation.overlaps(some, "maps", protocols.get(protocol), ["fixed"]).values()
    assert (overlap >= 0.5).tolist() == [bool(hit) for hit in hits]
    found = score_maps.evaluate(folder, metadata, protocol, ALL)
    assert list(found.columns) == score_maps.COLUMNS and found["threshold_rule"].tolist() == list(ALL)
    assert found["gt_known"].tolist() == [20 * sum(hits)] * 4 and found["max_box_acc"].tolist() == [20 * sum(hits)] * 4
    assert found["uses_ground_truth"].tolist() == [False, False, True, True]
    assert found["n_images"].tolist() == [5] * 4
    assert found["p_value"].tolist() == [1] * 4  # no rule differs from the fixed threshold
    assert found[["top1_cls", "top1_loc", "pxap"]].isna().all(axis=None)
    assert found["max_box_acc_v2"].isna().all() == (protocol == "paper")


# The reference codes' box scores, told a second time, threshold by threshold and box by box.


def boxes_above(scores, eta):
    """Area and box of every contour of a map of 8 bits."""
    levels = (255 * scores.astype(np.float64)).astype(np.uint8)
    return [(area, box) for area, box, _ in contours(levels > int(eta * levels.max()))]


def choe(scores, size, boxes, eta):
    """wsolevaluation: IoU of the largest contour's box, and the best of any contour's."""
    true = [[int(value * 224.0 / size[i % 2]) for i, value in enumerate(box)] for box in boxes]
    found = boxes_above(scores, eta) or [(0, (0, 0, 0, 0))]
    overlap = [max(inclusive_iou([min(v, 223) for v in box], other) for other in true) for _, box in found]
    return overlap[np.argmax([area for area, _ in found])], max(overlap)


def bae(scores, size, boxes, eta, behind):
    """rethinkingCAM: IoU of the largest contour's box; `behind`: how far the corners are from the last pixel."""
    true = []
    for x0, y0, x1, y1 in boxes:
        low = [max(int(v / side * 256 - 16), 0) for v, side in zip((x0, y0), size, strict=True)]
        high = [min(int((v - behind) / side * 256 - 16), 223) for v, side in zip((x1, y1), size, strict=True)]
        true.append((*low, *high))
    _, box = max(boxes_above(scores, eta), key=lambda found: found[0])
    return max(inclusive_iou(box, other) for other in true)


@pytest.mark.parametrize("corners", ["half-open", "inclusive"])
def test_both_codes_to_equality_from_both_kinds_of_files(tmp_path, corners):
    images, raw = random_images(15, 8), smooth(15, 8, 28)
    raw[3] = 0  # one that finds nothing
    folder, _ = on_disk(tmp_path, images, raw)
    metadata = score_maps.read_metadata(tmp_path / "metadata", corners)
    maps = cam.normalize(cam.upsample(raw, 224, "bicubic"), "minmax")
    some = score_maps.read(folder, metadata, BAE)
    grid = np.delete(evaluation.iou_on_grid(some, "maps", BAE)[:, [2, 4, 12]], 3, axis=0)  # of 0, 0.05, ...
    assert grid.tolist() == [
        [bae(one, *of[1:], eta, behind=corners == "half-open") for eta in (0.1, 0.2, 0.6)]
        for i, (one, of) in enumerate(zip(maps, images.values(), strict=True)) if i != 3
    ]  # fmt: skip
    # wsolevaluation takes what stands in the file, whatever it names
    etas = np.arange(0, 1, 0.001)[::50]
    expected = [[choe(one, *of[1:], eta) for eta in etas] for one, of in zip(maps, images.values(), strict=True)]
    some = score_maps.read(folder, metadata, CHOE)
    found = np.stack(evaluation.iou_of_contours(some, "maps", CHOE), axis=-1)  # (8, 1000, 2)
    assert found[:, ::50].tolist() == [[list(pair) for pair in several] for several in expected]
    (row,) = score_maps.evaluate(folder, metadata, "wsolevaluation", ["best_fixed"]).to_dict("records")
    assert row["max_box_acc"] == row["gt_known"] == 100 * (found[..., 0] >= 0.5).mean(axis=0).max()
    largest, v2 = (
        np.mean([100 * (found[..., i] >= iou).mean(axis=0).max() for iou in metrics.V2_IOUS]) for i in (0, 1)
    )
    assert row["max_box_acc_v2"] == pytest.approx(v2, abs=1e-12) and v2 > largest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beside", [-1, None, 1])
def test_wsolevaluations_conversion_to_uint8_is_exact(tmp_path, dtype, beside):
    # k / 255, or the numbers next to it: where it is hardest to say whether 255 times them reaches k.
    scores = (np.arange(256).reshape(16, 16) / 255).astype(dtype)
    if beside is not None:
        scores = np.where((scores > 0) & (scores < 1), np.nextafter(scores, dtype(beside)), scores)
    folder, metadata = on_disk(tmp_path, {"0.jpg": (0, (16, 16), [(2, 3, 9, 9)])}, [scores])
    some = score_maps.read(folder, metadata, CHOE, 16)
    ((levels,),) = evaluation.prepared_kind(some, "maps", CHOE)
    np.testing.assert_array_equal(levels, (scores * 255).astype(np.uint8))


# Reading maps.


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_maps_of_several_shapes_are_as_each_alone(tmp_path, monkeypatch, protocol):
    shapes, convention = (7, 14, 96, 40), protocols.get(protocol)
    folder, metadata = on_disk(tmp_path, random_images(3, 4), [smooth(i, 1, side)[0] for i, side in enumerate(shapes)])
    some = score_maps.read(folder, metadata, convention, 96)
    assert some.maps("maps").shape == (4, 96, 96) and some.maps("maps", slice(0, 1)).shape == (1, 7, 7)
    together = evaluation.iou_on_grid(some, "maps", convention)
    monkeypatch.setattr(evaluation, "CHUNK", 1)
    np.testing.assert_array_equal(together, evaluation.iou_on_grid(some, "maps", convention))


def several(file):
    with open(file, "wb") as opened:
        np.savez(opened, maps=np.ones((4, 4)))


BROKEN = {
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-8]), "no whole .npy file"),
    "several arrays": (several, "not .* of floating point but NpzFile"),
    "bytes": (lambda file: np.save(file, np.ones((4, 4), np.uint8)), r"but \(4, 4\) of uint8"),
    "three dimensions": (lambda file: np.save(file, np.ones((1, 4, 4))), r"not \(height, width\) .* but \(1, 4, 4\)"),
    "no pixel": (lambda file: np.save(file, np.ones((0, 4))), r"but \(0, 4\) of float64"),
    "NaN and infinity": (lambda file: np.save(file, np.array([[0, np.nan, np.inf]])), "2 values NaN or infinite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_map_is_named(tmp_path, name):
    folder, metadata = on_disk(tmp_path, random_images(5, 2), np.ones((2, 4, 4)))
    spoil, message = BROKEN[name]
    spoil(folder / f"{metadata.image_ids[1]}.npy")
    with pytest.raises(DatasetError, match=message) as caught:
        score_maps.evaluate(folder, metadata, "paper", ["fixed"], 4)
    assert str(caught.value).startswith(f"{folder}/{metadata.image_ids[1]}.npy: ")
    assert str(caught.value).endswith("as numpy.save writes it")


def test_missing_maps_are_refused_before_any_is_read(tmp_path, monkeypatch):
    folder, metadata = on_disk(tmp_path, random_images(5, 5), np.ones((5, 4, 4)))
    monkeypatch.setattr(score_maps, "_map", lambda *_: pytest.fail("one was read"))
    for name in ("val/2/2.JPEG", "val/1/4.JPEG"):
        (folder / f"{name}.npy").unlink()
    (folder / "val/1/4.JPEG.npy.part").touch()  # of an interrupted `write_maps`: no map
    with pytest.raises(DatasetError, match=r"val/1/4\.JPEG\.npy: 2 maps missing, this one first; give a map"):
        score_maps.evaluate(folder, metadata)


@pytest.mark.parametrize("dtype", [">f4", "float16", "float64", "longdouble"])
def test_floating_point_of_every_kind(tmp_path, dtype):
    scores = np.array([[0, 0.25, 0.5], [0.5, 1, 0]]).astype(dtype, order="F")
    folder, metadata = on_disk(tmp_path, random_images(6, 1), [scores])
    found = score_maps.read(folder, metadata, PAPER).maps("maps")
    assert found.tolist() == [[[0, 0.25, 0.5], [0.5, 1, 0]]]
    assert found.dtype == (np.float32 if dtype in (">f4", "float16") else np.float64)


# Maps that were made here, and by other packages.


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Three photographs of each of two classes, their table, and a small VGG that has learnt nothing."""
    root = tmp_path_factory.mktemp("cub")
    cub(root, train=0, test=3)
    torch.manual_seed(0)
    return root, datasets.check(datasets.read_cub(root), root), models.build("small_vgg", 2, "gap").eval()


@pytest.mark.parametrize("protocol", ["paper", "rethinkingcam"])
def test_our_maps_written_and_read_give_the_same_figures(birds, tmp_path, protocol):
    root, table, network = birds
    convention = protocols.get(protocol)
    transform = datasets.test_transform(64, protocols.frame_side(64, convention))
    sizes = table[["width", "height"]].to_numpy()
    found = predict(network, datasets.ImageDataset(table, root, transform), sizes)
    score_maps.write_metadata(tmp_path / "metadata", table)
    score_maps.write_maps(tmp_path / "maps", found.image_id, found.maps("signed"))
    assert not list(tmp_path.rglob("*.part"))
    again = score_maps.read_metadata(tmp_path / "metadata")
    listed = score_maps.evaluate(tmp_path / "maps", again, protocol, score_maps.RULES, 64, found.predicted)
    direct = evaluation.bounds(found, "signed", convention)
    direct |= evaluation.overlaps(found, "signed", convention, score_maps.RULES[:-2])
    expected = pd.DataFrame(evaluation.rows(found, {rule: direct[rule] for rule in score_maps.RULES}, convention))
    expected = expected.drop(columns=["iou", "class_is_right"])  # of each image: no figures of a table
    pd.testing.assert_frame_equal(listed[expected.columns], expected)
    assert listed["threshold"].nunique() > 5


def test_maps_are_written_as_wsolevaluation_names_them(tmp_path):
    score_maps.write_maps(tmp_path, ["val2/995/0.jpeg"], torch.ones(1, 2, 3))
    scores = np.load(tmp_path / "val2/995/0.jpeg.npy")
    assert scores.dtype == np.float32 and scores.shape == (2, 3)
    with pytest.raises(ValueError, match="no path below a folder"):
        score_maps.write_maps(tmp_path / "maps", ["a/../../x"], np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="zip"):
        score_maps.write_maps(tmp_path, ["a", "b"], np.ones((1, 2, 2)))


class Logits(torch.nn.Module):
    """A network that gives its logits alone, as other packages expect it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


def test_maps_of_other_packages_are_those_of_eq_2(birds):
    """Upsampled and stretched to [0, 1], as they write them."""
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is a check from outside, not needed")
    torchcam = pytest.importorskip("torchcam.methods", reason="torchcam is a check from outside, not needed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    root, table, network = birds
    images, labels, _ = datasets.collate([*datasets.ImageDataset(table, root, datasets.test_transform(64))])
    with torch.inference_mode():
        ours = cam.activation_map(network(images).features, network.class_weights.detach()[labels], "signed")
    model = Logits(network).eval()
    with grad_cam.GradCAM(model, [network.backbone[-1]]) as explain:
        theirs = explain(images, [ClassifierOutputTarget(int(label)) for label in labels])
    # after global average pooling, Grad-CAM is the ReLU of Eq. 2
    expected = cam.normalize(cam.upsample(ours.clamp(min=0), 64), "minmax").numpy()
    np.testing.assert_allclose(theirs, expected, atol=1e-4)
    with torchcam.CAM(model, "model.backbone", "model.head") as explain, torch.inference_mode():
        model(images)
        (theirs,) = explain(labels.tolist())
    np.testing.assert_allclose(theirs, cam.normalize(ours, "minmax"), atol=1e-4)


# The command.


def command(capsys, *arguments):
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments)])
    return stopped.value.code, *capsys.readouterr()


@pytest.fixture
def folders(tmp_path):
    """The images that were worked out by hand; arguments of the command."""
    worked_out(tmp_path)
    return ["--maps", tmp_path / "maps", "--metadata", tmp_path / "metadata"]


def test_the_command_prints_a_table(folders, capsys):
    code, out, err = command(capsys, *folders)
    assert (code, err) == (0, "")
    table = out.splitlines()
    assert table[0].split() == [
        "threshold_rule", "threshold", "threshold_sd", "uses_ground_truth", "n_images",
        "gt_known", "gt_known_low", "gt_known_high", "p_value",
    ]  # fmt: skip
    assert [row.split()[0] for row in table[1:-1]] == list(ALL)
    assert table[1].split() == ["fixed", "0.160", "0.080", "False", "5", "40.0", "0.0", "80.0", "1"]  # 0 for no map
    assert table[-1] == "max_box_acc 40.0"


def test_the_commands_options(folders, tmp_path, capsys):
    lines(tmp_path / "guess.txt", [f"val/{i}.jpg,{label}" for i, label in enumerate([0, 1, 7, 3, 7])])
    for i in range(5):
        file = tmp_path / "segmentations" / "val" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(file)
    more = ["--protocol", "wsolevaluation", "--rule", "fixed", "--rule", "oracle", "--size", 224]
    more += ["--predicted", tmp_path / "guess.txt", "--masks", tmp_path / "segmentations", "--out", tmp_path / "a.csv"]
    code, out, err = command(capsys, *folders, *more)
    assert (code, err) == (0, "")
    # IoU 0.5, 0.496, 0, 1 and 0.476: 4 hits of 5 at 0.3, 2 at 0.5, 1 at 0.7
    parts = "max_box_acc_v2_30 80.0, max_box_acc_v2_50 40.0, max_box_acc_v2_70 20.0"
    assert out.splitlines()[-1] == f"max_box_acc 40.0, max_box_acc_v2 46.7, {parts}, pxap 100.0"
    written = pd.read_csv(tmp_path / "a.csv")
    assert list(written.columns) == score_maps.COLUMNS
    assert written["threshold_rule"].tolist() == ["fixed", "oracle"]
    # of the classes 0 to 4 three are right, and with them the boxes that are hits
    assert written[["top1_cls", "top1_loc", "pxap"]].to_numpy().tolist() == [[60, 40, 100]] * 2


@pytest.mark.parametrize(("corners", "hit"), [("half-open", 0), ("inclusive", 100)])  # IoU 4 / 9, or 1
def test_the_command_takes_corners_and_counts_what_it_clips(tmp_path, capsys, corners, hit):
    """The object is 3 pixels wide, the last of which the file names; the other box leaves the image."""
    images = {"0.jpg": (0, (224, 224), [(10, 10, 12, 12), (200, 200, 210, 250)])}
    on_disk(tmp_path, images, [patch(10, 10, 13, 13)])
    given = ["--maps", tmp_path / "maps", "--metadata", tmp_path / "metadata", "--corners", corners]
    code, _, err = command(capsys, *given, "--out", tmp_path / "a.csv")
    assert code == 0 and err.endswith("metadata: boxes that leave their image, clipped to it: 1\n")
    assert pd.read_csv(tmp_path / "a.csv")["gt_known"].tolist() == [hit] * 4


def test_the_command_on_openimages(tmp_path, capsys):
    on_disk(tmp_path, {"0.jpg": (0, (2, 2), [(0, 0, 1, 1)])}, [np.array([[1, 0.5], [0, 0]])])
    lines(tmp_path / "metadata/localization.txt", ["0.jpg,m/0.png,"])
    (tmp_path / "m").mkdir()
    Image.fromarray(np.array([[0, 255], [0, 0]], np.uint8)).save(tmp_path / "m/0.png")
    folders = ["--maps", tmp_path / "maps", "--metadata", tmp_path / "metadata", "--size", 2]
    code, out, _ = command(capsys, *folders, "--masks", tmp_path)
    assert (code, out.split()) == (0, ["n_images", "1", "pxap", "50.0"])
    code, out, err = command(capsys, *folders)
    assert (code, out) == (1, "") and err == "Error: these metadata name masks instead of boxes: give the masks\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--protocol", "papers"], "unknown protocol 'papers' (did you mean 'paper'?); choose one of paper"),
        (["--rule", "otso"], "unknown threshold rule 'otso' (did you mean 'otsu'?); choose one of fixed"),
        (["--corners", "closed"], "unknown corners 'closed'; choose one of half-open, inclusive"),
        (["--metadata", "nowhere"], "nowhere/image_ids.txt: no such file"),
        (["--maps", "nowhere"], "nowhere/val/0.jpg.npy: 5 maps missing, this one first"),
        (["--predicted", "nowhere/guess.txt"], "nowhere/guess.txt: no such file"),
        (["--masks", "nowhere"], "val/0.png: no such file"),
        (["--out", "image_ids.txt/a.csv"], "image_ids.txt"),  # below a file
    ],
)
def test_the_command_fails_in_one_line(folders, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path / "metadata")
    code, out, err = command(capsys, *folders, "--rule", "fixed", *change)
    assert code == 1 and out == ""
    assert err.startswith("Error: ") and message in err
    assert err.count("\n") == 1
