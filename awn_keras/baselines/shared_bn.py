"""Ordinary convolutions at several widths with one BatchNormalization."""

from __future__ import annotations

import keras

from awn_keras.baselines.sliced import SlicedModel


@keras.saving.register_keras_serializable(package="awn_keras")
class SharedBN(SlicedModel):
    """Ordinary convolutions sliced to a width, standard BatchNormalization.

    All widths share factors and moving statistics, which none of them fits: the
    system that shows why the others are needed. See `SlicedModel` for the arguments
    and `AnyWidthModel` for what can be done with it.

    Reference:
        Vu et al., Any-Width Networks (2020), section 3.1 and figure 2.
    """
