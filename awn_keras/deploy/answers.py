"""Scores of classes to probabilities and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Rounded to 8 bits, probabilities of many classes do not add up to 1 exactly.
_ABOUT_ONE = 0.05


def softmax(scores: np.ndarray) -> np.ndarray:
    """Turns logits `(..., classes)` into probabilities, float32."""
    scores = np.asarray(scores, "float32")
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def ranked(
    scores: np.ndarray, labels: Sequence[str], k: int, kind: str | None = None
) -> list[tuple[str, float]]:
    """Names the most likely classes.

    Args:
        scores: What a network gives for one sample, `(classes,)`.
        labels: Names of the classes. Where there are others than classes, as none,
            classes are called by their numbers.
        k: How many to name, at most.
        kind: `"probabilities"` or `"logits"`. `None` if that is not known: what is
            not negative and adds up to 1 is taken for probabilities.

    Returns:
        `(label, probability)`, the most likely first.
    """
    scores = np.asarray(scores, "float32")
    if kind is None:
        adds_up = abs(float(scores.sum()) - 1) <= _ABOUT_ONE
        kind = "probabilities" if scores.min() >= 0 and adds_up else "logits"
    if kind == "logits":
        scores = softmax(scores)
    names = labels if len(labels) == len(scores) else list(map(str, range(len(scores))))
    # Of equal ones the first class comes first.
    order = np.argsort(-scores, kind="stable")[:k]
    return [(names[index], float(scores[index])) for index in order]
