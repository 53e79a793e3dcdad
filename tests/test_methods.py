"""The compared methods: what holds for all of them, and what each says of itself in its paper."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsol_utils import checkpoints, method, models

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY = method.names()
BACKBONES = ("small_vgg", "squeezenet1_1")


def network(name, backbone="small_vgg", pooling="gap", classes=4, seed=0, **options):
    torch.manual_seed(seed)
    return models.build(backbone, classes, pooling, None, name, options)


def pictures(count, side=48, seed=0):
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(seed))


def step(model, images, labels, seed=0, epoch=0):
    """The loss of a training step, as `training` takes it."""
    keys = [(seed, epoch, image) for image in range(len(images))]
    images, targets = model.method.batch(images, labels, keys)
    return model.method.loss(model(images, targets), targets, 0.0)


# All of them.


def test_names_begin_with_plain_fine_tuning():
    assert EVERY[0] == "cam" and {"has", "acol"} <= set(EVERY)
    assert list(EVERY[1:]) == sorted(EVERY[1:])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", EVERY)
def test_a_few_images_are_learnt(name, backbone):
    model = network(name, backbone, classes=2).train()
    labels = torch.arange(8) % 2
    images = pictures(8, 64) + (4.0 * labels - 2)[:, None, None, None]  # dark ones and bright ones
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for epoch in range(12):
        losses.append(step(model, images, labels, epoch=epoch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert torch.stack(losses).isfinite().all()
    assert min(losses[-3:]) < 0.9 * losses[0]


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_of_the_method_learns_with_the_head(name):
    model, images, labels = network(name).train(), pictures(4), torch.arange(4)
    before = images.clone()
    step(model, images, labels).backward()
    assert torch.equal(images, before) and labels.tolist() == [0, 1, 2, 3]  # they are left as they were
    assert all(p.grad is not None for p in model.parameters())  # else several processes would wait for each other
    new = {id(p) for p in model.new_parameters()}
    assert {id(p) for p in (*model.head.parameters(), *model.method.parameters())} <= new
    assert not new & {id(p) for p in model.backbone.parameters()}


@pytest.mark.parametrize("name", EVERY)
def test_evaluation_needs_no_labels_and_draws_nothing(name):
    model, images, classes = network(name).eval(), pictures(3), torch.tensor([0, 3, 1])
    state = torch.get_rng_state()
    with torch.inference_mode():
        first, again = model(images), model(images)
        assert torch.equal(first.logits, again.logits) and not first.extra
        if not model.method.linear:
            maps = model.method.maps(model, images, classes)
            assert maps.shape == (3, *first.features.shape[2:])
            assert torch.equal(maps, model.method.maps(model, images, classes))
            one = model.method.maps(model, images[1:2], classes[1:2])
            torch.testing.assert_close(one[0], maps[1])  # whatever else is in the batch
    assert torch.equal(torch.get_rng_state(), state)
    assert model.class_weights.shape == (4, first.features.shape[1])


@pytest.mark.parametrize("name", EVERY)
def test_checkpoints_hold_all_of_it(name, tmp_path):
    model, other = network(name), network(name, seed=1)
    optimizers = [torch.optim.AdamW(one.parameters()) for one in (model, other)]
    step(model, pictures(4), torch.arange(4)).backward()
    optimizers[0].step()
    checkpoints.keep(tmp_path / "resume.pt", "a run", model, optimizers[0], {})
    checkpoints.go_on(tmp_path / "resume.pt", "a run", other, optimizers[1])
    models.save(model, tmp_path / "network.safetensors", {})
    third = models.load_into(network(name, seed=2), tmp_path / "network.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value) and torch.equal(third.state_dict()[key], value), key


@pytest.mark.parametrize("name", EVERY)
def test_an_epoch_shows_every_image_once(name):
    labels = [0, 0, 1, 1] * 5
    order, again, other = (method.build(name).order(labels, 1, epoch, 4, 2) for epoch in (2, 2, 3))
    assert sorted(order) == list(range(20)) and order == again and order != other


def test_plain_fine_tuning_is_the_network_alone():
    model, images, labels = network("cam").train(), pictures(4), torch.arange(4)
    features = model.backbone(images)
    expected = functional.cross_entropy(model.head(features.mean(dim=(2, 3))), labels)
    assert torch.equal(step(copy.deepcopy(model), images, labels), expected)
    own = {f"backbone.{key}" for key in model.backbone.state_dict()}
    assert set(model.state_dict()) == own | {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("hide", {}, "unknown method 'hide'.*cam, "),
        ("cam", {"side": 3}, "unknown option 'side' of method 'cam'; there is none"),
        ("has", {"sides": 3}, "unknown option 'sides' of method 'has'; there is side, probability"),
        ("has", {"probability": 1.5}, "probability from 0 to 1"),
        ("has", {"side": -1}, "side must be 0 or more"),
        ("acol", {"delta": 0}, "must be positive"),
        ("acol", {"width": "64 "}, "of method 'acol' are of a wrong type"),
    ],
)
def test_what_is_wrong_with_a_method_is_said(name, options, problem):
    with pytest.raises(ValueError, match=problem):
        method.build(name, options)


def test_options_have_defaults():
    for name in EVERY[1:]:
        for option in inspect.signature(method.get(name)).parameters.values():
            assert option.default is not option.empty, (name, option)


# Hide-and-Seek.


def hidden(images, keys=None, **options):
    """(B, H, W) bool, which pixels are hidden, and the batch."""
    keys = keys or [(0, 0, image) for image in range(len(images))]
    found, _ = method.build("has", options).batch(images, torch.zeros(len(images), dtype=torch.int64), keys)
    return (found == 0).all(dim=1), found


@pytest.mark.parametrize("side, cells", [(0, 7), (12, 4), (20, 3)])  # 0: a seventh of 48, 7; the last cell is cut
def test_hidden_cells_are_whole_and_aligned(side, cells):
    images = pictures(200)
    where, found = hidden(images, side=side)
    step = side or 7
    each = where[:, ::step, ::step]  # the first pixel of every cell
    assert each.shape[1:] == (cells, cells)
    assert torch.equal(each.repeat_interleave(step, 1).repeat_interleave(step, 2)[:, :48, :48], where)
    n = each.numel()
    assert abs(int(each.sum()) - n / 2) < 4 * (n / 4) ** 0.5  # four deviations of a binomial draw
    shown = ~where[:, None].expand_as(found)
    assert torch.equal(found[shown], images[shown])


def test_what_is_hidden_depends_on_the_images_own_key():
    images = pictures(3)
    together, _ = hidden(images, [(0, 1, 5), (0, 1, 6), (0, 1, 7)])
    alone, _ = hidden(images[1:2], [(0, 1, 6)])
    assert torch.equal(together[1], alone[0]) and not torch.equal(together[0], together[1])
    for other in ((1, 1, 6), (0, 2, 6)):  # another seed, another epoch
        assert not torch.equal(hidden(images[1:2], [other])[0][0], alone[0])


def test_nothing_or_everything_is_hidden():
    assert not hidden(pictures(2), probability=0)[0].any() and hidden(pictures(2), probability=1)[0].all()
    with torch.inference_mode():  # it evaluates as plain fine-tuning
        a, b = (network(name).eval()(pictures(2)) for name in ("cam", "has"))
    assert torch.equal(a.logits, b.logits)


# Adversarial complementary learning.


def seen_by_b(model, images, labels):
    """What goes into branch B (B, C, H, W), branch A's map of the labels, stretched, and the smoothed features."""
    seen = []
    hook = model.method.branch_b.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _, targets = model.method.batch(images, labels, [])
    model(images, targets)
    hook.remove()
    smooth = functional.avg_pool2d(model.backbone(images), 3, stride=1, padding=1)
    found = model.method.branch_a(smooth)
    a = (found * model.head.weight[labels][:, :, None, None]).sum(dim=1)
    low, high = a.amin(dim=(1, 2), keepdim=True), a.amax(dim=(1, 2), keepdim=True)
    return seen[0], (a - low) / (high - low), smooth


def test_branch_b_sees_what_branch_a_left():
    model = network("acol").eval()
    seen, stretched, smooth = seen_by_b(model, pictures(3), torch.tensor([0, 3, 1]))
    erased = (stretched >= 0.6)[:, None].expand_as(seen)
    assert 0 < erased.float().mean() < 1
    assert not seen[erased].any()
    torch.testing.assert_close(seen[~erased], smooth[~erased])


def test_branch_b_teaches_the_backbone_and_not_branch_a():
    model = network("acol").train()
    images, labels = pictures(3), torch.tensor([0, 3, 1])
    _, targets = model.method.batch(images, labels, [])
    functional.cross_entropy(model(images, targets).extra["other"], labels).backward()
    of_a = (*model.method.branch_a.parameters(), *model.head.parameters())
    assert all(p.grad is None or not p.grad.any() for p in of_a)
    assert all(p.grad is not None and p.grad.any() for p in model.backbone.parameters() if p.ndim == 4)


def test_equal_branches_lose_equally_where_nothing_is_erased():
    model = network("acol", delta=1.5).train()
    model.method.branch_b.load_state_dict(model.method.branch_a.state_dict())
    model.method.head_b.load_state_dict(model.head.state_dict())
    _, targets = model.method.batch(pictures(3), torch.tensor([0, 3, 1]), [])
    found = model(pictures(3), targets)
    torch.testing.assert_close(found.logits, found.extra["other"])
    expected = 2 * functional.cross_entropy(found.logits, targets.labels)
    torch.testing.assert_close(model.method.loss(found, targets, 0.0), expected)


def test_the_map_is_the_larger_of_both_branches():
    model, images, classes = network("acol").eval(), pictures(3), torch.tensor([0, 3, 1])
    with torch.inference_mode():
        seen, a, _ = seen_by_b(model, images, classes)
        found = model.method.branch_b(seen)
        b = torch.einsum("bc,bchw->bhw", model.method.head_b.weight[classes], found)
        b = (b - b.amin(dim=(1, 2), keepdim=True)) / (b.amax(dim=(1, 2)) - b.amin(dim=(1, 2)))[:, None, None]
        maps = model.method.maps(model, images, classes)
    torch.testing.assert_close(maps, torch.maximum(a, b))
    assert maps.min() >= 0 and maps.max() == 1


def test_constant_maps_are_zero():
    model = network("acol").eval()
    for parameter in model.method.parameters():
        nn.init.zeros_(parameter)
    with torch.inference_mode():
        assert not model.method.maps(model, pictures(2), torch.tensor([0, 1])).any()
