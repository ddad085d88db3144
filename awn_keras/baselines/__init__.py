"""The models that the paper compares with: ordinary convolutions, sliced to a width.

These models have the interface of `AnyWidthModel`, and consist of stock layers:

    plain = keras.Model(inputs, outputs)
    model = USNet(plain.input, plain.output, min_width=0.25)
    model.compile("sgd", loss, metrics=["accuracy"])
    model.fit(x, y)
    model.calibrate(x, widths=20)
    curve = trade_off_curve(model, x_test, y_test)
"""

from awn_keras.baselines.nested_net import NestedNet, NestedPruning
from awn_keras.baselines.s_net import SNet
from awn_keras.baselines.shared_bn import SharedBN
from awn_keras.baselines.us_net import USNet

__all__ = ["NestedNet", "NestedPruning", "SNet", "SharedBN", "USNet"]
