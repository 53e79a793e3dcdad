"""Eqs. 2 and 3, normalisation and upsampling, against loops and answers worked out by hand."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsol_utils import cam

KINDS = [np.asarray, torch.tensor]
RECOMBINATIONS = ["signed", "positive", "absolute", "absolute_maps"]
quick = settings(max_examples=40, deadline=None, database=None, derandomize=True)


def parts(features, weights):
    """M_p and M_n of Eq. 2: (C, H, W), (C,) -> two (H, W), channel by channel."""
    positive, negative = np.zeros(features.shape[1:]), np.zeros(features.shape[1:])
    for channel, weight in zip(features, weights, strict=True):
        if weight > 0:
            positive += weight * channel
        else:
            negative += weight * channel
    return positive, negative


@given(
    arrays(np.float64, (2, 5, 3, 4), elements=st.floats(0, 100)),
    arrays(np.float64, (2, 5), elements=st.floats(-3, 3)),
)
@quick
def test_eqs_2_and_3_after_a_relu(features, weights):
    for i in range(2):
        m_p, m_n = parts(features[i], weights[i])
        expected = {"signed": m_p + m_n, "positive": m_p, "absolute": m_p + np.abs(m_n)}
        expected["absolute_maps"] = expected["absolute"]  # Eq. 3: both sides are equal where no feature is negative
        for name, answer in expected.items():
            np.testing.assert_allclose(cam.activation_map(features, weights, name)[i], answer, atol=1e-9)


def test_the_two_sides_of_eq_3_differ_for_signed_features():
    features = np.array([[[[1.0, -2.0]], [[3.0, -1.0]], [[-2.0, 1.0]]]])  # three channels of 1×2
    weights = np.array([[2.0, -1.0, -2.0]])
    # M_p = 2 · [1, -2]; M_n = -[3, -1] - 2 · [-2, 1] = [1, -1]
    expected = {"signed": [3, -5], "positive": [2, -4], "absolute": [2 - 1, -4 + 1], "absolute_maps": [2 + 1, -4 + 1]}
    assert {how: cam.activation_map(features, weights, how)[0, 0].tolist() for how in RECOMBINATIONS} == expected
    # the right-hand side is the sum of |w_k| times channel k: 2 · 1 + 3 + 2 · -2, 2 · -2 - 1 + 2 · 1


@given(
    arrays(np.float64, (2, 5, 3, 4), elements=st.floats(-100, 100)),
    arrays(np.float64, (2, 5), elements=st.floats(-3, 3)),
)
@quick
def test_parts_of_signed_features(features, weights):
    m_p, m_n = cam.parts(torch.tensor(features), torch.tensor(weights))
    for i in range(2):
        by_channel = parts(features[i], weights[i])
        np.testing.assert_allclose(m_p[i], by_channel[0], atol=1e-9)
        np.testing.assert_allclose(m_n[i], by_channel[1], atol=1e-9)
    whole = np.einsum("bc,bchw->bhw", weights, features)  # Eq. 2
    np.testing.assert_allclose(m_p + m_n, whole, atol=1e-9)
    np.testing.assert_allclose(cam.activation_map(features, weights, "signed"), whole, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "recombination, expected",
    [("signed", [-1, 3]), ("positive", [2, 4]), ("absolute", [5, 5]), ("absolute_maps", [5, 5])],
)
def test_by_hand(kind, recombination, expected):
    features = kind([[[[1.0, 2.0]], [[3.0, 1.0]]]])  # two channels of 1×2
    maps = cam.activation_map(features, kind([[2.0, -1.0]]), recombination)
    assert maps.tolist() == [[expected]]


def test_absolute_is_the_default():
    features, weights = torch.ones(1, 2, 1, 1), torch.tensor([[1.0, -4.0]])
    assert cam.activation_map(features, weights).item() == 5


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "function",
    [
        *[lambda x, how=how: cam.activation_map(x[:, None], x[:, 0, :1], how) for how in RECOMBINATIONS],
        lambda x: cam.normalize(x),
        lambda x: cam.normalize(x, "minmax"),
        lambda x: cam.upsample(x, 7),
        lambda x: cam.upsample(x, 7, "bicubic"),
    ],
)
def test_kind_and_dtype_are_kept(function, dtype):
    maps = np.random.default_rng(0).uniform(size=(2, 3, 4)).astype(dtype)
    array, tensor = function(maps), function(torch.tensor(maps))
    assert isinstance(array, np.ndarray) and array.dtype == dtype
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == getattr(torch, dtype)
    assert np.array_equal(array, tensor.numpy())
    assert len(function(maps[:0])) == 0  # an empty batch


@pytest.mark.parametrize("function", [cam.normalize, lambda x: cam.upsample(x, 5)])
def test_any_memory_layout(function):
    maps = np.random.default_rng(0).uniform(size=(4, 3, 4))
    frozen = maps.copy()
    frozen.flags.writeable = False
    for view in (maps[:, ::-1], maps[::2], maps.transpose(0, 2, 1), frozen):
        assert np.array_equal(function(view), function(view.copy()))
        assert np.array_equal(cam.activation_map(view[:, None], np.ones((len(view), 1))), view)


def test_nothing_is_changed_in_place():
    maps = np.array([[[1.0, 4.0], [-2.0, 0.0]]])
    before = maps.copy()
    for result in (cam.normalize(maps), cam.normalize(maps, "minmax"), cam.upsample(maps, 2)):
        result += 1
    assert np.array_equal(maps, before)


def test_refuses_what_is_not_finite():
    maps, fine = np.full((1, 2, 2), np.nan), np.ones((1, 1, 1, 1))
    calls = [
        lambda: cam.activation_map(maps[:, None], fine[:, 0, 0]),
        lambda: cam.activation_map(fine, maps[:, 1, 1:]),
        lambda: cam.normalize(maps),
        lambda: cam.normalize(maps, "minmax"),
        lambda: cam.upsample(maps, 4),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="floating point"):
            call()


def test_refuses_unknown_names():
    with pytest.raises(ValueError, match="recombination 'squared'"):
        cam.activation_map(torch.ones(1, 1, 2, 2), torch.ones(1, 1), "squared")
    with pytest.raises(ValueError, match="normalization 'mean'"):
        cam.normalize(torch.ones(1, 2, 2), "mean")
    with pytest.raises(ValueError, match=r"unknown interpolation 'cubic'.*; choose one of bilinear, bicubic"):
        cam.upsample(torch.ones(1, 2, 2), 4, "cubic")


@pytest.mark.parametrize("shape, weights", [((1, 3, 2, 2), (1, 2)), ((2, 3, 2, 2), (1, 3)), ((3, 2, 2), (3, 2))])
def test_refuses_shapes_that_disagree(shape, weights):
    with pytest.raises(ValueError, match="do not agree"):
        cam.activation_map(torch.ones(shape), torch.ones(weights))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how, given, expected",
    [
        ("max", [[-2, 0], [1, 4]], [[-0.5, 0], [0.25, 1]]),
        ("minmax", [[-2, 0], [1, 4]], [[0, 1 / 3], [0.5, 1]]),
        ("max", [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ("max", [[-2, -1], [-1, 0]], [[0, 0], [0, 0]]),
        ("max", [[-2, -1], [-1, -3]], [[0, 0], [0, 0]]),
        ("max", [[3, 3], [3, 3]], [[1, 1], [1, 1]]),
        ("minmax", [[3, 3], [3, 3]], [[0, 0], [0, 0]]),
        ("minmax", [[-3, -3], [-3, -3]], [[0, 0], [0, 0]]),
        ("minmax", [[-2, -1], [-1, -3]], [[0.5, 1], [1, 0]]),
    ],
)
def test_normalize_by_hand(kind, how, given, expected):
    beside = [[0.0, 1.0], [0.0, 2.0]]  # each map by itself: this one must not matter
    maps = cam.normalize(kind([np.array(given, dtype=float).tolist(), beside]), how)
    np.testing.assert_allclose(np.asarray(maps[0]), expected)
    assert maps[1].tolist() == [[0, 0.5], [0, 1]]


@pytest.mark.parametrize("size", [6e4, 1.0, 2.0**-23])
def test_minmax_over_the_whole_range_of_float16(size):
    maps = np.array([[[-size, 0, size]]], dtype=np.float16)
    assert cam.normalize(maps, "minmax").tolist() == [[[0, 0.5, 1]]]
    assert cam.normalize(maps, "max").tolist() == [[[-1, 0, 1]]]


@pytest.mark.parametrize("kind", KINDS)
def test_upsample_by_hand(kind):
    at = np.array([0, 0.25, 0.75, 1])  # where the centres of 4 pixels fall between the centres of 2
    corners = kind([[[0.0, 1.0], [2.0, 3.0]]])  # 2y + x
    np.testing.assert_allclose(np.asarray(cam.upsample(corners, 4))[0], 2 * at[:, None] + at)
    np.testing.assert_allclose(np.asarray(cam.upsample(corners, (2, 4)))[0], [at, 2 + at])
    np.testing.assert_allclose(np.asarray(cam.upsample(corners, (4, 2)))[0], np.stack([2 * at, 2 * at + 1], 1))
    assert cam.upsample(corners, np.int64(4)).shape == (1, 4, 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interpolation, code", [("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)])
@pytest.mark.parametrize("size", [(224, 224), (30, 50), (13, 14)])
def test_upsample_is_opencvs(kind, interpolation, code, size):
    maps = np.random.default_rng(0).normal(size=(3, 13, 14)).astype(np.float32)
    expected = [cv2.resize(image, size[::-1], interpolation=code) for image in maps]  # width first
    np.testing.assert_allclose(cam.upsample(kind(maps), size, interpolation), expected, rtol=0, atol=1e-4)


def test_bicubic_can_leave_the_range_of_the_map():
    edge = np.array([[[0.0, 0.0, 1.0, 1.0]]])
    # at 1/4 from the second centre to the third, a = -3/4: the two nearest weigh 0.8789 and 0.2617, those around
    # them -0.1055 and -0.0352: 0.2617 - 0.0352; three quarters on it is 1 less that
    found = cam.upsample(edge, (1, 8), "bicubic")[0, 0]
    assert found[3] == pytest.approx(0.2617 - 0.0352, abs=1e-4) and found[4] == pytest.approx(1 - found[3])
    assert found.min() < 0 and found.max() > 1
    assert cam.upsample(edge, (1, 8)).min() == 0


@pytest.mark.parametrize("value", [1.7, -3e-5, 2.6e7])
def test_a_constant_map_stays_constant_under_bicubic_upsampling(value):
    larger = cam.upsample(np.full((1, 14, 14), value, np.float32), 224, "bicubic")  # with noise in the last digits
    assert not cam.normalize(larger, "minmax").any()
    steps = np.array([[[1.7, 1.7 + 1e-4]]], np.float32)
    assert cam.normalize(steps, "minmax").tolist() == [[[0, 1]]]  # a small range is none
