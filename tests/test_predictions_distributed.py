"""Several processes predict what one does, to the last digit, and into the same files."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import multiprocessing

from wsol_utils import datasets, models
from wsol_utils.maps.extract import predict
from wsol_utils.maps.predictions import FILES, Predictions

BATCH = 4
COUNTS = [26, 3]  # images: seven batches, the last one of two; one batch, so that a process has none

pytestmark = pytest.mark.usefixtures("one_thread")


class Generated(datasets.ImageDataset):
    """Photographs that are drawn when they are asked for, and a list of those that were."""

    def frame(self, index):
        self.asked.append(index)
        noise = np.random.default_rng(index).integers(0, 256, (3, 32, 32), dtype=np.uint8)
        return torch.from_numpy(noise), self.true_boxes(index)


def images(count):
    ids = [f"{i:03}" for i in range(count)]
    boxes = [[(float(i % 9), 2.0, 20.0, 9.0 + k) for k in range(i % 3)] for i in range(count)]
    table = pd.DataFrame({"image_id": ids, "path": ids, "label": np.arange(count) % 3, "boxes": boxes})
    generated = Generated(table, ".", datasets.test_transform(32))
    generated.asked = []
    return generated


def predicted(drawn, path):
    torch.manual_seed(0)
    model = models.build("small_vgg", 3, "wgap")
    torch.nn.init.normal_(model.head.weight)
    sizes = np.arange(2 * len(drawn)).reshape(-1, 2)
    return predict(model, drawn, sizes, batch_size=BATCH, path=path, identity="the same")


def one_of_several(rank, folder):
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        with pytest.raises(ValueError, match="several processes hand their predictions on by files"):
            predicted(images(1), None)
        for count in COUNTS:
            drawn = images(count)
            found = predicted(drawn, folder / f"two_{count}")
            found.save(folder / f"seen_{count}_by{rank}")
            (folder / f"asked_{count}_by{rank}.json").write_text(json.dumps(drawn.asked))
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    multiprocessing.spawn(one_of_several, (folder,), nprocs=2)
    return folder


@pytest.mark.parametrize("count", COUNTS)
def test_two_processes_write_what_one_does(folder, count):
    one = predicted(images(count), folder / f"one_{count}")
    two = Predictions.load(folder / f"two_{count}")
    assert len(one.image_id) == count and one.scaled_maps.any()
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name), err_msg=name)
    for name in FILES:
        assert (folder / f"two_{count}" / name).read_bytes() == (folder / f"one_{count}" / name).read_bytes(), name
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("count", COUNTS)
def test_both_processes_return_what_is_in_the_files(folder, count):
    first, second = (Predictions.load(folder / f"seen_{count}_by{rank}") for rank in range(2))
    assert first.image_id.tolist() == second.image_id.tolist() == images(count).image_ids.tolist()
    np.testing.assert_array_equal(first.scaled_maps, second.scaled_maps)


@pytest.mark.parametrize("count", COUNTS)
def test_batches_are_dealt_out_in_turn(folder, count):
    asked = [json.loads((folder / f"asked_{count}_by{rank}.json").read_text()) for rank in range(2)]
    assert asked == [[i for i in range(count) if i // BATCH % 2 == rank] for rank in range(2)]
