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
    arrays(np.float64, (2, 5, 3, 4), elements=st.floats(-100, 100)),
    arrays(np.float64, (2, 5), elements=st.floats(-3, 3)),
)
@quick
def test_eqs_2_and_3(features, weights):
    """After a ReLU, where no feature is negative, both sides of Eq. 3 are equal."""
    for given_, rectified in ((features, False), (np.maximum(features, 0), True)):
        for i in range(2):
            m_p, m_n = parts(given_[i], weights[i])
            expected = {"signed": m_p + m_n, "positive": m_p, "absolute": m_p - m_n}
            expected["absolute_maps"] = expected["absolute"] if rectified else m_p + np.abs(m_n)
            for name, answer in expected.items():
                np.testing.assert_allclose(cam.activation_map(given_, weights, name)[i], answer, atol=1e-9)
        whole = np.einsum("bc,bchw->bhw", weights, given_)  # Eq. 2
        np.testing.assert_allclose(cam.activation_map(given_, weights, "signed"), whole, atol=1e-9)
        magnitudes = np.einsum("bc,bchw->bhw", np.abs(weights), given_)  # Eq. 3, the right-hand side
        np.testing.assert_allclose(cam.activation_map(given_, weights), magnitudes, atol=1e-9)  # the default


def test_the_two_sides_of_eq_3_differ_for_signed_features():
    features = np.array([[[[1.0, -2.0]], [[3.0, -1.0]], [[-2.0, 1.0]]]])  # three channels of 1×2
    weights = np.array([[2.0, -1.0, -2.0]])
    # M_p = 2 · [1, -2]; M_n = -[3, -1] - 2 · [-2, 1] = [1, -1]
    expected = {"signed": [3, -5], "positive": [2, -4], "absolute": [2 - 1, -4 + 1], "absolute_maps": [2 + 1, -4 + 1]}
    assert {how: cam.activation_map(features, weights, how)[0, 0].tolist() for how in RECOMBINATIONS} == expected


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


NAN, FINE = np.full((1, 1, 2, 2), np.nan), np.ones((1, 1, 2, 2))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: cam.activation_map(NAN, FINE[:, 0, :1, 0]), "features must be floating point without NaN"),
        (lambda: cam.activation_map(FINE, NAN[:, 0, :1, 0]), "class_weights must be floating point without NaN"),
        (lambda: cam.normalize(NAN[0]), "maps must be floating point without NaN"),
        (lambda: cam.normalize(NAN[0], "minmax"), "maps must be floating point without NaN"),
        (lambda: cam.upsample(NAN[0], 4), "maps must be floating point without NaN"),
        (lambda: cam.activation_map(FINE, FINE[0, 0, :1, :1], "squared"), "unknown recombination 'squared'"),
        (lambda: cam.normalize(FINE[0], "mean"), "unknown normalization 'mean'"),
        (lambda: cam.upsample(FINE[0], 4, "cubic"), "unknown interpolation 'cubic'.*; choose one of bilinear, bicubic"),
        (lambda: cam.activation_map(np.ones((1, 3, 2, 2)), np.ones((1, 2))), "do not agree"),
        (lambda: cam.activation_map(np.ones((2, 3, 2, 2)), np.ones((1, 3))), "do not agree"),
        (lambda: cam.activation_map(np.ones((3, 2, 2)), np.ones((3, 2))), "do not agree"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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
