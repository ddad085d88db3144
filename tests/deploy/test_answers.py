import numpy as np
import pytest

from awn_keras.deploy.answers import ranked, softmax
from tests.deploy import classifiers


def test_softmax_is_that_of_the_definition():
    x = np.random.default_rng(0).normal(size=(5, 7)) * 10
    # float32.
    np.testing.assert_allclose(softmax(x), classifiers.softmax(x), rtol=1e-4, atol=1e-7)
    assert softmax(np.array([1000.0, 0.0])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("kind", ["probabilities", None])
def test_probabilities_are_named_as_they_are(kind):
    scores = np.array([0.1, 0.6, 0.3])
    answers = ranked(scores, ["a", "b", "c"], 2, kind)
    assert [name for name, _ in answers] == ["b", "c"]
    np.testing.assert_allclose([value for _, value in answers], [0.6, 0.3], rtol=1e-6)


@pytest.mark.parametrize("kind", ["logits", None])
def test_logits_are_turned_into_probabilities(kind):
    scores = np.array([-1.0, 2.0, 0.5])
    answers = ranked(scores, ["a", "b", "c"], 5, kind)
    assert [name for name, _ in answers] == ["b", "c", "a"]
    wanted = classifiers.softmax(scores)[[1, 2, 0]]
    np.testing.assert_allclose([value for _, value in answers], wanted, rtol=1e-5)


def test_what_is_known_is_not_guessed():
    # Sigmoids of several classes that may all be there, and logits that add up to 1.
    ((_, sigmoid),) = ranked(np.array([0.9, 0.8]), [], 1, "probabilities")
    assert sigmoid == pytest.approx(0.9)
    ((_, likely),) = ranked(np.array([1.0, 0.0]), [], 1, "logits")
    assert likely == pytest.approx(1 / (1 + np.exp(-1)))


def test_without_fitting_names_classes_are_numbers():
    for labels in ([], ["a"], ["a", "b", "c"]):
        assert [name for name, _ in ranked(np.array([0.2, 0.8]), labels, 5)] == [
            "1",
            "0",
        ]


def test_of_equal_scores_the_first_class_comes_first():
    scores = np.full(4, 0.25)
    assert [name for name, _ in ranked(scores, list("abcd"), 4)] == list("abcd")
