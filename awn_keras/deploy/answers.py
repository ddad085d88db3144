"""Turns scores of classes into probabilities and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Probabilities that are rounded to 8 bits do not add up to exactly 1.
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
        scores: Outputs of a network for one sample, `(classes,)`.
        labels: Names of the classes. If the number of names is not the number of
            classes, the names are the numbers of the classes.
        k: Largest number of classes to return.
        kind: `"probabilities"` or `"logits"`. `None` if not known: then scores that are
            not negative and add up to 1 count as probabilities.

    Returns:
        A list of `(label, probability)`, the most likely class first.
    """
    scores = np.asarray(scores, "float32")
    if kind is None:
        adds_up = abs(float(scores.sum()) - 1) <= _ABOUT_ONE
        kind = "probabilities" if scores.min() >= 0 and adds_up else "logits"
    if kind == "logits":
        scores = softmax(scores)
    names = labels if len(labels) == len(scores) else list(map(str, range(len(scores))))
    # A stable sort keeps the order of classes with equal scores.
    order = np.argsort(-scores, kind="stable")[:k]
    return [(names[index], float(scores[index])) for index in order]
