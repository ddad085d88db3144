"""Ordinary convolutions at several widths with a shared BatchNormalization."""

from __future__ import annotations

import keras

from awn_keras.baselines.sliced import SlicedModel


@keras.saving.register_keras_serializable(package="awn_keras")
class SharedBN(SlicedModel):
    """Ordinary convolutions sliced to a width, with standard BatchNormalization.

    All widths share the factors and the moving statistics, which fit no width well.
    This model shows why the other models are needed. See `SlicedModel` for the
    arguments, and `AnyWidthModel` for the methods.

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.1 and figure 2.
    """
