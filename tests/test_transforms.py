"""From photograph to input: the same pixels and boxes as torchvision's transforms give, one image at a time."""

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsol_utils import transforms
from wsol_utils.data.transforms import GREY, Transform, test_transform, train_transform

test_transform.__test__ = False  # a function of ours, not a test

NORMALISED = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(transforms.IMAGENET_MEAN, transforms.IMAGENET_STD)]


def photographs(count):
    """(image (3, h, w) uint8, boxes (2, 4)) of sizes of their own."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        height, width = rng.integers(20, 120, 2)
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
        yield image, torch.tensor([[1.5, 2.0, 15.0, 16.0], [3.0, 0.0, width / 2, float(height)]])


def by_torchvision(steps, image, boxes, key):
    """What v2 makes of an image and its boxes, its generator seeded as `crop` seeds its own."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    canvas = tuple(image.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(state[0]))
        image, boxes = v2.Compose([*steps, *NORMALISED])(
            tv_tensors.Image(image), tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas)
        )
    return image.as_subclass(torch.Tensor), boxes.as_subclass(torch.Tensor)


def assert_same(transform, steps, count=24):
    given = list(photographs(count))
    keys = [[3, 2, i] for i in range(count)]
    frames, boxes = zip(*(transform.resize(*one) for one in given), strict=True)
    crops = [transform.crop(key) for key in keys]
    images, boxes = transform.finish(torch.stack(frames), boxes, crops)
    expected = [by_torchvision(steps, *one, key) for one, key in zip(given, keys, strict=True)]
    assert torch.equal(images, torch.stack([image for image, _ in expected]))  # to the bit
    for ours, (_, theirs) in zip(boxes, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    return crops


@pytest.mark.parametrize("resize, crop, padding", [(64, 48, 0), (40, 40, 6), (40, 40, 0), (33, 20, 3)])
def test_augmented(resize, crop, padding):
    cropped = v2.RandomCrop(crop, padding=padding or None, fill=GREY)
    steps = [v2.Resize((resize, resize)), cropped, v2.RandomHorizontalFlip()]
    crops = assert_same(train_transform(resize, crop, padding), steps)
    room = resize - crop + 2 * padding
    assert all(0 <= place <= room for top, left, _ in crops for place in (top, left))
    assert len({crop[:2] for crop in crops}) > 1 or not room
    assert 4 < sum(flip for _, _, flip in crops) < 20


@pytest.mark.parametrize("size, resize", [(48, 0), (48, 64), (20, 33)])
def test_not_augmented(size, resize):
    frame = resize or size
    assert_same(test_transform(size, resize), [v2.Resize((frame, frame)), v2.CenterCrop(size)])


def test_crop_and_flip_by_hand():
    boxes = torch.tensor([[10.0, 8.0, 30.0, 32.0], [0.0, 0.0, 4.0, 40.0], [0.0, 0.0, 40.0, 40.0]])
    frame = torch.arange(40, dtype=torch.uint8).expand(1, 3, 40, 40)
    (image,), (found,) = Transform(40, 20).finish(frame, [boxes], [(10, 12, True)])
    # less 12 in x and 10 in y, clamped to 20; then x -> 20 - x
    assert found.tolist() == [[2, 0, 20, 20], [20, 0, 20, 20], [0, 0, 20, 20]]  # the second left the crop: no area
    columns = (image[0, 0] * 0.229 + 0.485) * 255
    torch.testing.assert_close(columns, torch.arange(31.0, 11, -1))


def test_the_margin_is_grey():
    (image,), (box,) = Transform(4, 4, padding=2, augmented=True).finish(
        torch.full((1, 3, 4, 4), 255, dtype=torch.uint8), [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], [(0, 4, False)]
    )
    pixels = transforms.denormalize(image)
    assert (pixels[2:, :2] == 255).all() and (pixels[:2] == GREY).all() and (pixels[:, 2:] == GREY).all()
    assert box.tolist() == [[0, 2, 2, 4]]


def test_a_crop_depends_on_its_key_alone():
    transform = train_transform(64, 32)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    crops = [transform.crop([0, 0, i]) for i in range(50)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert [transform.crop([0, 0, i]) for i in range(50)] == crops
    assert len(set(crops)) > 40
    assert len({transform.crop(key) for key in ([0, 0, 1], [0, 1, 0], [1, 0, 0])}) == 3
