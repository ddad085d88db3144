import warnings

import numpy as np
import pytest

from awn_keras.deploy.calibration import check_scale, hold_out, warn_of_agreement
from awn_keras.deploy.interface import Interface
from awn_keras.deploy.verification import Verified
from tests.deploy.classifiers import classifier, of_pixels, pixels

NORMALIZED = {"normalization": {"mean": 120, "std": 60}}


def check(model, x, inputs=None, metadata=()):
    interface = Interface.of(model, inputs, "model", dict(metadata))
    check_scale(model, interface, [np.asarray(x, "float32")], "representative")


@pytest.mark.parametrize("inputs", [None, "uint8"])
def test_images_of_0_to_1_are_no_pixels(inputs):
    x = pixels(4)
    check(of_pixels(), x, inputs)
    with pytest.raises(
        ValueError, match=r"`representative` must be pixels.*from 0.* to 1"
    ):
        check(of_pixels(), x / x.max(), inputs)


@pytest.mark.parametrize("inputs", [None, "uint8"])
def test_pixels_are_not_normalized(inputs):
    x = pixels(4)
    check(classifier(), (x - 120.0) / 60, inputs, NORMALIZED)
    with pytest.raises(ValueError, match=r"from -2 to 2\.25.*to 255"):
        check(classifier(), x, inputs, NORMALIZED)


def test_black_images_and_models_that_say_nothing_are_left():
    check(of_pixels(), np.zeros((2, 12, 16, 3)))
    check(classifier(), pixels(4))


@pytest.mark.parametrize(("count", "held"), [(100, 20), (137, 27), (2000, 100)])
def test_of_many_samples_some_are_held_out(count, held):
    x = [np.arange(count), np.arange(count) + 0.5]
    compared, rest = hold_out(x)
    for whole, held_out, other in zip(x, compared, rest, strict=True):
        assert (len(held_out), len(other)) == (held, count - held)
        np.testing.assert_array_equal(np.sort([*held_out, *other]), whole)
        # From all over the set.
        assert held_out[0] == whole[0]
        assert held_out[-1] == whole[-1]


def test_of_few_samples_all_decide_ranges():
    compared, rest = hold_out([np.arange(99)])
    np.testing.assert_array_equal(compared[0], np.arange(16))
    np.testing.assert_array_equal(rest[0], np.arange(99))


def verified(*agreements):
    return [
        Verified(width, f"width_{i}", 0.1, agreement)
        for i, (width, agreement) in enumerate(zip((0.5, 1.0), agreements, strict=True))
    ]


def test_answers_that_differ_are_told_with_numbers():
    with pytest.warns(
        UserWarning, match=r"only 62\.5% at width_0 of 40 samples \(expected: 95% or"
    ):
        warn_of_agreement(verified(0.625, 0.95), 40, "int8")


@pytest.mark.parametrize(
    ("agreements", "count"), [((0.95, 1.0), 40), ((0.5, 0.5), 19), ((None, None), 40)]
)
def test_what_says_nothing_is_not_told(agreements, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_agreement(verified(*agreements), count, "int8")
