"""Spoilt files, thousands of them, for everything that parses: a valid result, or an error that names the file.

A plain loop: valid files are changed at random from a seed. FUZZ=20 in the environment tries twenty times as many.
"""

import io
import os
import pickle
import random
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from layouts_on_disk import LAYOUTS, XML, Trap, lines, table
from PIL import Image

from wsol_utils import boxes, checkpoints, datasets, layouts, loader, metadata, models, score_maps, thresholds, weights
from wsol_utils.data.images import decode
from wsol_utils.experiment.handover import read_arrays, write_arrays
from wsol_utils.maps.predictions import Predictions

INPUTS = 80  # for each parser
TIMES = float(os.environ.get("FUZZ", "1"))
SECONDS = 10  # of the processor, that one input may take at most: what hangs takes longer

TOKENS = [
    b"nan", b"-inf", b"1e300", b"-1", b"0", b"2147483648", b"9" * 400, b"1_0", b"1.5", "１２".encode(), b"true",
    b"", b" ", b"\t", b",", b",,", b"\r", b"\n", b"\0", b"\x1b[31m", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf",
    b"../../etc/passwd", b"/etc/passwd", b"a\\b", b"." * 300, b"n00000000", b"-9999999999999999999999",
    b"<", b"&a;", b"]]>", b"<!--", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b'"', b"'", b"[", b"{", b"[[0, 0, 1, 1]]",
    b"F64", b"<f8", b"|O", b"(1, 1)",
]  # fmt: skip


def spoil(data: bytes, rng: random.Random) -> bytes:
    """A few random changes; more than half of them near an end, where headers are."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        near = rng.random()
        at = rng.randrange((len(data) if near > 0.6 else min(len(data), 200)) + 1)
        data = rng.choice(CHANGES)(data, len(data) - at if near < 0.2 else at, rng)
    return data


def flip(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :]


def cut(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] if rng.random() < 0.5 else data[:at] + data[at + rng.randrange(1, 40) :]


def insert(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] + rng.choice((*TOKENS, rng.randbytes(8))) + data[at + rng.choice((0, 8)) :]


def repeat(data: bytes, at: int, rng: random.Random) -> bytes:
    return data[:at] + data[at : at + rng.randrange(1, 100)] * rng.choice((2, 30)) + data[at:]


def exchange_lines(data: bytes, at: int, rng: random.Random) -> bytes:
    rows = data.split(b"\n")
    rows[rng.randrange(len(rows))] = rng.choice((b"", *rows))
    return b"\n".join(rows)


def exchange_words(data: bytes, at: int, rng: random.Random) -> bytes:
    """A word or number becomes a token, or another word of the file."""
    words = list(re.finditer(rb"[\w.+-]+", data)) or [re.match(b"", data)]
    word, other = rng.choice(words), rng.choice((rng.choice(TOKENS), rng.choice(words)[0]))
    return data[: word.start()] + other + data[word.end() :]


CHANGES = (flip, cut, insert, repeat, exchange_lines, exchange_words, exchange_words)


# What makes a result valid.


def below(root: Path, path: str) -> bool:
    return path.isprintable() and (root / os.path.normpath(path)).resolve().is_relative_to(root.resolve())


def valid_table(found, root: Path) -> None:
    assert list(found.columns) == list(datasets.COLUMNS) and len(found)
    assert found["path"].is_unique and all(below(root, path) for path in found["path"])
    assert set(found["split"]) <= {"train", "test"} and found["label"].between(0, 9).all()
    for split, some in zip(found["split"], found["boxes"], strict=True):
        assert some or split == "train"
        assert all(np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3] for box in some)


def valid_metadata(root: Path) -> None:
    found = metadata.read_metadata(root)
    assert set(found.labels) == set(found.image_ids) == set(found.boxes or found.masks)
    assert len(found.image_ids) == len(found.labels) > 0 and all(below(root, image_id) for image_id in found.image_ids)
    for image_id, some in found.boxes.items():
        assert some.dtype == np.float64 and some.shape == (len(some), 4) and len(some)
        assert (some[:, :2] >= 0).all() and (some[:, 2:] <= np.add(found.sizes[image_id], 1)).all()
    assert all(below(root, path) for some in found.masks.values() for pair in some for path in pair if path)


def valid_predictions(root: Path) -> None:
    found = metadata.read_predicted(root / "predicted.txt", metadata.read_metadata(root))
    assert found.dtype == np.int64 and found.shape == (2,) and (found >= 0).all() and (found < 2**31).all()


def valid_map(root: Path) -> None:
    for file in root.iterdir():
        found = score_maps._map(root, file.name)
        assert found.dtype in (np.float32, np.float64) and found.ndim == 2 and found.size and np.isfinite(found).all()


def valid_arrays(root: Path) -> None:
    kept = Predictions.load(root / "predictions")
    for array in [*vars(kept).values(), *read_arrays(root / "kept.npz").values()]:
        array = np.asarray(array)
        assert not array.dtype.hasobject
        array.tobytes()  # every byte is there
    assert len(kept.image_id) == len(kept.scaled_maps) and len(kept.box) == len(kept.box_image)


NETWORK = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 2))
SHAPES = {key: value.shape for key, value in NETWORK.state_dict().items()}


def valid_weights(root: Path) -> None:
    found = models.read_metadata(root / "weights.safetensors")
    assert all(type(key) is type(value) is str for key, value in found.items())
    models.load_into(NETWORK, root / "weights.safetensors")
    assert {key: value.shape for key, value in NETWORK.state_dict().items()} == SHAPES


OPTIMIZER = torch.optim.AdamW(NETWORK.parameters())


def valid_checkpoint(root: Path) -> None:
    if checkpoints.go_on(root / "a.resume.pt", "a run", NETWORK, OPTIMIZER) is None:  # it is made again
        raise ValueError(f"{root} holds no checkpoint of this run")
    assert {key: value.shape for key, value in NETWORK.state_dict().items()} == SHAPES


def valid_annotations(root: Path) -> None:
    found = datasets.read_table(root / "annotations.csv")
    assert list(found.columns) == list(datasets.COLUMNS)
    assert all(len(box) == 4 and np.isfinite(box).all() for some in found["boxes"] for box in some)
    assert found["label"].dtype == np.int64 and set(found["split"]) <= {"train", "test"}


def valid_images(root: Path) -> None:
    for file in root.iterdir():
        size, image = decode(file)
        assert image.mode == "RGB" and image.size == size and np.asarray(image).dtype == np.uint8
        if (images := loader._by_torchvision([file], "cpu")) is not None:
            assert images[0].shape == (3, *size[::-1]) and images[0].dtype == torch.uint8


# Valid files to begin with.


def written_metadata(root: Path, localization: list[str]) -> None:
    lines(root / "image_ids.txt", ["val/a.jpg", "val/b.jpg"])
    lines(root / "class_labels.txt", ["val/a.jpg,3", "val/b.jpg,7"])
    lines(root / "image_sizes.txt", ["val/a.jpg,500,375", "val/b.jpg,64,48"])
    lines(root / "localization.txt", localization)
    lines(root / "predicted.txt", ["val/a.jpg,3", "val/b.jpg,7"])


BOXES = ["val/a.jpg,1,2,30,40", "val/a.jpg,5,6,7.5,8", "val/b.jpg,0,0,64,48"]
MASKS = ["val/a.jpg,m/a.png,m/i.png", "val/a.jpg,m/b.png,", "val/b.jpg,m/c.png,"]


def written_maps(root: Path) -> None:
    for dtype in ("f2", "f4", "f8", ">f4"):
        root.mkdir(exist_ok=True)
        np.save(root / f"{dtype.strip('>')}{len(dtype)}.npy", np.linspace(0, 1, 12).reshape(3, 4).astype(dtype))


def written_arrays(root: Path) -> None:
    two, none = np.arange(2), np.zeros((0, 4), np.float32)
    maps, scales, size = np.linspace(0, 1, 24, dtype="f2").reshape(2, 1, 3, 4), np.ones((2, 1), "f4"), np.ones((2, 2))
    kept = Predictions(np.array(["é", "ab"]), two, two, scales, np.array(["signed"]), maps, scales, none, none[:, 0],
                       two, size, "made of")  # fmt: skip
    kept.save(root / "predictions")
    write_arrays(root / "kept.npz", {"iou": size, "name": kept.image_id, "none": none})


def written_weights(root: Path) -> None:
    models.save(NETWORK, root / "weights.safetensors", {"identity": "a run", "history": "[1, 2]"})


def written_checkpoint(root: Path) -> None:
    NETWORK(torch.ones(2, 1, 2, 2)).sum().backward()
    OPTIMIZER.step()
    checkpoints.keep(root / "a.resume.pt", "a run", NETWORK, OPTIMIZER, {"step": 1, "sums": [0.5]})


def written_images(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    root.mkdir()
    for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        Image.fromarray(noise).save(root / form, format=form)
    Image.fromarray(noise).convert("CMYK").save(root / "CMYK", format="JPEG", progressive=True)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(root / "16 bits", format="PNG")


def layout(name: str) -> tuple[Callable, Callable, str]:
    def valid(root: Path) -> None:
        valid_table(layouts.READERS[name](root), root)

    return lambda root: LAYOUTS[name](root, train=1, test=2), valid, "*.[tc][xs][tv]"


PARSERS: dict[str, tuple[Callable, Callable, str]] = {  # how valid files are made, how they are read, which are spoilt
    **{name: layout(name) for name in LAYOUTS},
    "VOC XML": (*layout("ilsvrc")[:2], f"{XML}/*.xml"),
    "metadata with boxes": (lambda root: written_metadata(root, BOXES), valid_metadata, "[!p]*.txt"),
    "metadata with masks": (lambda root: written_metadata(root, MASKS), valid_metadata, "[!p]*.txt"),
    "predicted classes": (lambda root: written_metadata(root, BOXES), valid_predictions, "predicted.txt"),
    "score maps": (written_maps, valid_map, "*.npy"),
    "arrays": (written_arrays, valid_arrays, "*.np[yz]"),
    "weights": (written_weights, valid_weights, "*.safetensors"),
    "checkpoints": (written_checkpoint, valid_checkpoint, "*.pt"),
    "annotation tables": (
        lambda root: datasets.write_table(table(3), root / "annotations.csv"),
        valid_annotations,
        "annotations.csv",
    ),
    "images": (written_images, valid_images, "*"),
}  # fmt: skip


@pytest.mark.fault(
    "any file that is read, with bytes flipped, cut, repeated, or lines and fields exchanged at random",
    "a valid result, or an error that names the file; never another error, never without end",
)
@pytest.mark.parametrize("name", PARSERS)
def test_spoilt_files(tmp_path, monkeypatch, name):
    make, valid, pattern = PARSERS[name]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
    warnings.simplefilter("ignore")  # the parsers' own, about what they read
    root = tmp_path / "files"
    make(root)
    valid(root)
    files = {file: file.read_bytes() for file in sorted(root.rglob(pattern)) if file.is_file()}
    rng = random.Random(name)
    outcomes = {"used": 0, "refused": 0}
    for number in range(round(INPUTS * TIMES)):
        file = rng.choice(list(files))
        data = spoil(files[file], rng)
        file.write_bytes(data)
        start = time.process_time()
        try:
            valid(root)
            outcomes["used"] += 1
        except ValueError as error:
            message = str(error)
            assert str(root) in message, f"input {number}: {message}"
            assert len(message.splitlines()) == 1, f"input {number}: {message}"
            outcomes["refused"] += 1
        except Exception as error:  # those of `valid` too
            raise AssertionError(f"input {number} of {name}, {file.name}: {data[:300]!r}") from error
        assert time.process_time() - start < SECONDS, f"input {number} of {name}: {data[:300]!r}"
        file.write_bytes(files[file])
    print(name, outcomes)
    assert min(outcomes.values()) > 0  # else nothing was spoilt, or nothing but spoilt


# No pickle.


@pytest.mark.fault(
    "pickled objects in place of weights, a checkpoint, a score map or an archive",
    "refused unread: no pickle is loaded",
)
def test_nothing_is_unpickled(tmp_path):
    sprung, file, folder = tmp_path / "sprung", tmp_path / "x", tmp_path / "predictions"
    trap = Trap(sprung)

    def refused():
        raise ValueError(f"{file} counts as none")

    written_arrays(tmp_path)
    objects, zipped, torchs = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(objects, np.array([[trap]]), allow_pickle=True)
    np.savez(zipped, x=np.array([[trap]]))
    torch.save({"x": trap}, torchs)
    for data in (pickle.dumps(trap), objects.getvalue(), zipped.getvalue(), torchs.getvalue()):
        file.write_bytes(data)
        (folder / "label.npy").write_bytes(data)
        readers = (
            lambda: models.read_metadata(file),
            lambda: models.load_into(NETWORK, file),
            lambda: weights.unpickle(file),
            lambda: score_maps._map(tmp_path, "x"),
            lambda: read_arrays(file),
            lambda: Predictions.load(folder),
            lambda: checkpoints.go_on(file, "a run", NETWORK, OPTIMIZER) or refused(),
        )
        for read in readers:
            with pytest.raises(ValueError, match=f"{file}|{folder}"):
                read()
        assert not sprung.exists()
    pickle.loads(pickle.dumps(trap)).close()
    assert sprung.exists()  # the trap works


# Any numbers whatever in maps: extremes, denormals, zeros of both signs, constants, and whatever lies between.


@st.composite
def any_map(draw) -> np.ndarray:
    limits = np.finfo(draw(st.sampled_from([np.float16, np.float32, np.float64])))
    tiny = float(limits.smallest_subnormal)
    ends = (0.0, -0.0, float(limits.max), float(limits.min), float(limits.tiny), tiny, -tiny, 1.0, float(limits.eps))
    between = st.floats(width=limits.bits, allow_nan=False, allow_infinity=False)
    shape = array_shapes(min_dims=2, max_dims=2, max_side=6) | st.sampled_from([(1, 40), (40, 1)])
    return draw(arrays(limits.dtype, shape, elements=st.sampled_from(ends) | between))


etas = st.lists(st.sampled_from(thresholds.PAPER_GRID) | st.floats(-2, 2) | st.just(1e300), min_size=1, max_size=6)
several = settings(deadline=None, max_examples=round(30 * TIMES))


@several
@given(any_map(), etas, st.sampled_from(boxes.COMPONENTS))
def test_boxes_of_any_map_frame_what_is_above(image, eta, component):
    with np.errstate(all="ignore"):
        cuts = np.array(eta).astype(image.dtype) * image.max()
    found = boxes.largest_boxes(image[None], eta, component)[0]
    for (x0, y0, x1, y1), level in zip(found.tolist(), cuts, strict=True):
        mask = image > level
        if not mask.any():
            assert (x0, y0, x1, y1) == (0, 0, 0, 0)
        else:
            assert 0 <= x0 < x1 <= image.shape[1] and 0 <= y0 < y1 <= image.shape[0]
            inside = mask[y0:y1, x0:x1]  # each side touches the component
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@several
@given(any_map(), st.sampled_from(thresholds.RULES), st.sampled_from(thresholds.BOUNDARIES))
def test_the_threshold_of_any_map_is_a_fraction(image, rule, boundary):
    v = thresholds.boundary_means(image[None], boundary=boundary)[0]
    assert (np.isnan(v) | ((v >= 0) & (v <= 1))).all() and (image.max() > 0 or np.isnan(v).all())
    assert 0 <= thresholds.select(image[None], rule, boundary=boundary)[0] <= 1
