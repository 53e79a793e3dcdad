"""Sec. 4.1: Eq. 1 and the poolings it is compared with, against answers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsol_utils import pooling
from wsol_utils.network.pooling import GlobalAveragePool, ThresholdedAveragePool, WeightedGlobalAveragePool

quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def features(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def eq1(channel, temperature=1.0):
    """Eq. 1 of one channel (H, W) by loops, with the `exp` in the denominator."""
    a = [value for row in channel.tolist() for value in row]
    total = sum(math.exp(value / temperature) for value in a)
    return sum(value * math.exp(value / temperature) / total for value in a) / len(a)


def test_one_hot_map():
    maps = torch.tensor([[[[math.log(3), 0.0], [0.0, 0.0]]]])  # exp gives 3, 1, 1, 1: S = 1/2 at the hot pixel
    assert WeightedGlobalAveragePool(divide_by_area=False)(maps).item() == pytest.approx(math.log(3) / 2)
    assert WeightedGlobalAveragePool()(maps).item() == pytest.approx(math.log(3) / 8)
    assert GlobalAveragePool()(maps).item() == pytest.approx(math.log(3) / 4)


TEMPERATURES = st.floats(0.2, 5)


@given(st.integers(1, 6), st.integers(1, 6), st.data(), st.floats(-20, 20), st.floats(-20, 20), TEMPERATURES)
@quick
def test_wgap_of_any_constant_and_any_one_hot_map(height, width, data, value, ground, temperature):
    n = height * width
    maps = torch.full((2, 1, n), ground, dtype=torch.float64)
    maps[1, 0, data.draw(st.integers(0, n - 1))] += value
    constant, hot = WeightedGlobalAveragePool(temperature)(maps.view(2, 1, height, width)).flatten().tolist()
    assert constant == pytest.approx(ground / n, abs=1e-12)  # S is 1 / (W·H) everywhere, whatever the value
    heat = math.exp(value / temperature)  # the others' is 1
    assert hot == pytest.approx((ground + value * heat / (heat + n - 1)) / n, abs=1e-12)


@given(arrays(np.float64, (2, 3, 4, 5), elements=st.floats(-20, 20)), TEMPERATURES, st.randoms(use_true_random=False))
@quick
def test_wgap_of_any_map(values, temperature, random):
    maps, pool = torch.tensor(values), WeightedGlobalAveragePool(temperature)
    weighted = maps * (maps / temperature).flatten(2).softmax(2).view_as(maps)  # average pooling of P · softmax(P)
    torch.testing.assert_close(pool(maps), GlobalAveragePool()(weighted))
    order = random.sample(range(20), 20)
    torch.testing.assert_close(pool(maps.flatten(2)[:, :, order].view(2, 3, 5, 4)), pool(maps))  # of the pixels
    low, high = maps.amin(dim=(2, 3)) / 20, maps.amax(dim=(2, 3)) / 20
    assert (pool(maps) >= low - 1e-9).all() and (pool(maps) <= high + 1e-9).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_wgap_is_eq1(temperature):
    maps = features(2, 3, 4, 5)
    by_loops = torch.tensor([[eq1(channel, temperature) for channel in image] for image in maps]).double()
    torch.testing.assert_close(WeightedGlobalAveragePool(temperature)(maps), by_loops)
    torch.testing.assert_close(WeightedGlobalAveragePool(temperature, divide_by_area=False)(maps), 20 * by_loops)


def test_wgap_is_not_gap():
    maps = features(2, 3, 4, 5)
    gap = GlobalAveragePool()(maps)
    assert (WeightedGlobalAveragePool(divide_by_area=False)(maps) > gap).all()  # a softmax favours what is high
    assert not torch.isclose(WeightedGlobalAveragePool()(maps), gap).any()


def test_temperature_limits():
    maps = features(2, 3, 4, 5)
    hot, cold = (WeightedGlobalAveragePool(t, divide_by_area=False)(maps) for t in (1e6, 1e-4))
    torch.testing.assert_close(hot, maps.mean(dim=(2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(cold, maps.amax(dim=(2, 3)))
    for temperature in (0, -1, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            WeightedGlobalAveragePool(temperature)


@pytest.mark.fault(
    "features of up to 6e4 in float16", "WGAP's softmax is taken in float32: its value is finite, and right"
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [1e-3, 0.5, 1.0, 2.0, 1e4])
@pytest.mark.parametrize("highest", [6e4, -6e4])
def test_wgap_at_the_end_of_float16(dtype, temperature, highest):
    maps = torch.linspace(0, highest, 2 * 3 * 196, dtype=torch.float64).view(2, 3, 14, 14).to(dtype)
    maps[0, 0] = highest  # a channel that is as high everywhere
    for divide in (True, False):
        expected = WeightedGlobalAveragePool(temperature, divide)(maps.double())
        pool = WeightedGlobalAveragePool(temperature, divide).requires_grad_()
        pooled = pool(maps)
        assert pooled.dtype == dtype and pooled.isfinite().all()
        torch.testing.assert_close(pooled.double(), expected, rtol=2e-2 if dtype == torch.bfloat16 else 2e-3, atol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert pool(maps).isfinite().all()
    leaf = maps.float().requires_grad_()
    WeightedGlobalAveragePool(temperature)(leaf.to(dtype)).float().sum().backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", ["gap", "wgap", "wgap_sum", "tap"])
class TestEveryPooling:
    def test_order_of_pixels_does_not_matter(self, name):
        maps = features(2, 3, 4, 5)
        mixed = maps.flatten(2)[:, :, torch.randperm(20)].view(2, 3, 5, 4)
        torch.testing.assert_close(pooling.build(name)(mixed), pooling.build(name)(maps))

    def test_gradient(self, name):
        """Against finite differences, in float64."""
        assert torch.autograd.gradcheck(pooling.build(name, 0.3), features(2, 2, 3, 4).requires_grad_())

    def test_dead_channel(self, name):
        maps = features(1, 2, 4, 5)
        maps[:, 1] = 0
        maps.requires_grad_()
        pooled = pooling.build(name)(maps)
        pooled.sum().backward()
        assert pooled[0, 1] == 0 and pooled[0, 0] != 0
        assert maps.grad.isfinite().all()

    def test_dtype_is_kept_and_float16_does_not_overflow(self, name):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            for batch in (2, 0):
                pooled = pooling.build(name)(features(batch, 3, 4, 5).to(dtype))
                assert pooled.dtype == dtype and pooled.shape == (batch, 3)
        maps = torch.full((1, 1, 14, 14), 6e4, dtype=torch.float16)  # the sum is 180 times float16's maximum
        expected = 6e4 / 196 if name == "wgap" else 6e4
        assert pooling.build(name)(maps).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "threshold, above",
    [(0, (10, 6, 1, 4)), (0.1, (10, 6, 4)), (0.4, (10, 6)), (0.39, (10, 6, 4)), (0.99, (10,))],  # strictly above
)
def test_tap_by_hand(threshold, above):
    maps = torch.tensor([[[[10.0, 6.0, 1.0], [4.0, 0.0, -3.0]]]])
    assert ThresholdedAveragePool(threshold)(maps).item() == pytest.approx(sum(above) / len(above))
    assert ThresholdedAveragePool().threshold == 0.1
    assert ThresholdedAveragePool()(torch.full((1, 1, 2, 2), -1.0)).item() == 0  # no positive value


def test_build_knows_the_names():
    maps = features(2, 3, 4, 5)
    assert torch.equal(pooling.build("wgap", 2.0)(maps), WeightedGlobalAveragePool(2.0)(maps))
    assert torch.equal(pooling.build("wgap_sum", 2.0)(maps), WeightedGlobalAveragePool(2.0, False)(maps))
    assert torch.equal(pooling.build("gap")(maps), GlobalAveragePool()(maps))
    assert torch.equal(pooling.build("tap")(maps), ThresholdedAveragePool()(maps))
    with pytest.raises(ValueError, match=r"unknown pooling 'max'.*wgap_sum"):
        pooling.build("max")
