"""Every map of a batch, against `cam` and against answers worked out by hand."""

import math

import pytest
import torch

from wsol_utils import cam, models, pooling
from wsol_utils.maps.extract import _before_last_relu, maps_of
from wsol_utils.maps.predictions import kind

GAP = pooling.build("gap")
OF_FEATURES = ["signed", "positive", "absolute", "weighted_signed", "weighted_positive", "weighted_absolute"]
BEFORE_RELU = [f"unrectified_{name}" for name in ("signed", "positive", "absolute", "absolute_maps")]
OF_PREDICTED = ["predicted_signed", "predicted_positive", "predicted_absolute"]
STRONGEST = ["strongest_positive", "strongest_negative"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_map_is_that_of_its_features(memory_format):
    """Of signed features, as of a network that ends without a ReLU, "absolute" is the sum of |w_k| times channel k."""
    torch.manual_seed(0)
    features, before, weights = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4), torch.randn(2, 5)
    stacks = [stack.contiguous(memory_format=memory_format) for stack in (features, before)]
    maps = maps_of(stacks[0], weights, pooling.build("wgap"), stacks[1], predicted=-weights)
    assert list(maps) == [*OF_FEATURES[:3], *OF_PREDICTED, *OF_FEATURES[3:], *BEFORE_RELU, *STRONGEST]
    weighted = features * features.flatten(2).softmax(2).view_as(features) * 12  # S⊙P, times H·W
    made_of = {"plain": features, "weighted": weighted, "unrectified": before, "predicted": features}
    for name, stack in made_of.items():
        for how in ("signed", "positive", "absolute", *(["absolute_maps"] if name == "unrectified" else [])):
            expected = cam.activation_map(stack, -weights if name == "predicted" else weights, how)
            torch.testing.assert_close(maps[kind(how, name)], expected)
    assert kind("absolute_maps") == "absolute" and kind("absolute_maps", "weighted") == "weighted_absolute"
    torch.testing.assert_close(stacks, [features, before])  # they are left as they were
    assert list(maps_of(features, weights, GAP)) == [*OF_FEATURES, *STRONGEST]


def test_strongest_channels_by_hand():
    features = torch.zeros(2, 4, 1, 2)
    features[0, :, 0] = torch.tensor([[4.0, 0.0], [1.0, 1.0], [3.0, 3.0], [0.0, 8.0]])  # means 2, 1, 3, 4
    features[1, :, 0] = torch.tensor([[1.0, 2.0], [5.0, 5.0], [0.0, 0.0], [7.0, 9.0]])
    weights = torch.tensor([[1.0, 3.0, -1.0, -0.5], [-1.0, -9.0, -99.0, 0.1]])
    # w · mean(F): 2, 3, -3, -2 and -1.5, -45, 0, 0.8: neither the largest weight nor the largest mean decides
    maps = maps_of(features, weights, GAP)
    assert maps["strongest_positive"].tolist() == [[[1, 1]], [[7, 9]]]
    assert maps["strongest_negative"].tolist() == [[[3, 3]], [[5, 5]]]
    # Weighted by its own softmax a peak counts nearly in full, 4 · 0.982 and 8 · 0.9997: 3.93, 3, -3, -4.00 in the
    # first image; the second stays. Division by the area changes no order, and a temperature of 100 is nearly the mean.
    for pool in (pooling.build("wgap"), pooling.build("wgap_sum"), pooling.build("tap")):
        peaked = maps_of(features, weights, pool)
        assert peaked["strongest_positive"].tolist() == [[[4, 0]], [[7, 9]]]
        assert peaked["strongest_negative"].tolist() == [[[0, 8]], [[5, 5]]]
        torch.testing.assert_close(peaked["signed"], maps["signed"])
    even = maps_of(features, weights, pooling.build("wgap", 100.0))
    assert all(torch.equal(even[name], maps[name]) for name in STRONGEST)


def test_softmax_weighted_maps_by_hand():
    # exp of the first channel: 1, 1, 1, 3, so S is 1/6, 1/6, 1/6, 1/2; times H·W, 2/3 and 2. The second is constant.
    features = torch.tensor([[[[0.0, 0.0], [0.0, math.log(3)]], [[5.0, 5.0], [5.0, 5.0]]]])
    maps, hot = maps_of(features, torch.tensor([[1.0, -2.0]]), GAP), 2 * math.log(3)
    expected = {"weighted_signed": [[-10, -10], [-10, hot - 10]], "weighted_positive": [[0, 0], [0, hot]],
                "weighted_absolute": [[10, 10], [10, 10 + hot]]}  # fmt: skip
    for name, answer in expected.items():
        torch.testing.assert_close(maps[name], torch.tensor([answer], dtype=torch.float32))
    # at a temperature of 1/2: exp of twice that is 9, so S is 9 / 12, times 4
    cooler = maps_of(features, torch.tensor([[1.0, -2.0]]), pooling.build("wgap", 0.5))
    assert cooler["weighted_positive"][0, 1, 1].item() == pytest.approx(3 * math.log(3))
    torch.testing.assert_close(cooler["signed"], maps["signed"])


def test_weighted_maps_are_made_of_what_wgap_pools():
    """Their mean over the positions is the logit of the sum form, without the bias."""
    features, weights = torch.rand(2, 5, 3, 4), torch.randn(2, 5)
    for temperature in (1.0, 0.3):
        pool = pooling.build("wgap_sum", temperature)
        means = maps_of(features, weights, pool)["weighted_signed"].mean(dim=(1, 2))
        torch.testing.assert_close(means, (weights * pool(features)).sum(dim=1))


@pytest.mark.parametrize(
    "build", [lambda name: models.build(name, 3, "gap"), models.build_as_it_stands], ids=["a new head", "its own head"]
)
def test_squeezenets_features_are_the_relu_of_both_halves_together(build):
    torch.manual_seed(0)
    network = build("squeezenet1_1").eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode(), _before_last_relu(network) as seen:
        features = network(images).features
    small, large = seen  # of the 1×1 and of the 3×3 convolution
    assert small.shape == large.shape == (2, 256, 3, 3) and features.shape == (2, 512, 3, 3)
    assert (small < 0).any() and (large < 0).any()
    assert torch.equal(torch.cat(seen, dim=1).relu(), features)
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    assert network.backbone[-1].expand1x1_activation.inplace and network.backbone[-1].expand3x3_activation.inplace
    with torch.inference_mode():
        assert torch.equal(network(images).features, features)
