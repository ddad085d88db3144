"""Random functional graphs of layers that can be converted."""

from functools import partial

import keras
import numpy as np
from hypothesis import strategies as st

from tests.conftest import HAS_ADAPTIVE_POOLING, newer
from tests.stock import backwards

L = keras.layers


def random_graph(draw, max_steps=7):
    """Draws a plain functional model of images with branches and one or two readouts.

    Args:
        draw: `data.draw` of hypothesis. Call this function in the body of a test, not
            in a strategy: Keras draws random seeds while it builds layers, and a
            strategy must not draw them.
        max_steps: Largest number of steps between stem and readout.
    """
    return _Builder(draw).model(draw(st.integers(1, max_steps)))


def random_sequences(draw, max_steps=3):
    """Draws a plain functional model of sequences with recurrent layers.

    Args:
        draw: As for `random_graph`.
        max_steps: Largest number of layers. It is small, because an unrolled recurrent
            layer has operations for each step of the sequence.
    """
    return _Recurrent(draw).model(draw(st.integers(1, max_steps)))


class _Recurrent:
    """Draws a model of sequences `(batch, 3, channels)`."""

    def __init__(self, draw):
        self.draw = draw

    def model(self, count):
        inputs = keras.Input((3, self.draw(st.sampled_from((1, 2)))), name="series")
        x = L.Dense(self.channels())(inputs) if self.flag() else inputs
        for _ in range(count):
            kinds = (self.layer, self.both, self.residual, self.convolution)
            x = self.draw(st.sampled_from(kinds))(x)
        if self.flag():
            x = self.layer(x, last=True)
        else:
            x = self.draw(st.sampled_from((L.Flatten(), L.GlobalMaxPooling1D())))(x)
        # At least one layer must have a number of channels that depends on the width.
        return keras.Model(inputs, L.Dense(2)(L.Dense(4, activation="relu")(x)))

    def channels(self):
        return self.draw(st.sampled_from((1, 2, 3, 4, 6, 8)))

    def flag(self):
        return self.draw(st.booleans())

    def recurrent(self, units, last=False, go_backwards=False):
        """Draws a layer that returns sequences or, if `last`, only the last state."""
        kinds = (
            *(L.LSTM, L.SimpleRNN),
            *(partial(L.GRU, reset_after=after) for after in (True, False)),
        )
        return self.draw(st.sampled_from(kinds))(
            units,
            return_sequences=not last,
            use_bias=self.flag(),
            go_backwards=go_backwards,
            unroll=self.flag(),
        )

    def layer(self, x, last=False):
        return self.recurrent(self.channels(), last, self.flag())(x)

    def both(self, x):
        mode = self.draw(st.sampled_from(("concat", "sum", "mul", "ave")))
        return L.Bidirectional(self.recurrent(self.channels()), merge_mode=mode)(x)

    def residual(self, x):
        x = self.layer(x)
        return L.Add()([x, self.recurrent(x.shape[-1])(x)])

    def convolution(self, x):
        x = L.Conv1D(self.channels(), 2, padding="causal")(x)
        return L.ReLU()(L.BatchNormalization()(x))


class _Builder:
    """Draws a graph. The next layer may read any of `tensors`."""

    def __init__(self, draw):
        self.draw = draw
        self.tensors = []
        self.stem_kinds = (self.convolution, self.separable, self.transposed)

    def channels(self):
        return self.draw(st.sampled_from((1, 2, 3, 4, 6, 8, 11)))

    def flag(self):
        return self.draw(st.booleans())

    def read(self):
        return self.draw(st.sampled_from(self.tensors))

    def model(self, steps):
        inputs = keras.Input((6, 6, self.draw(st.sampled_from((1, 3)))), name="image")
        x = L.Rescaling(0.5)(inputs) if self.flag() else inputs
        self.tensors = [self.draw(st.sampled_from(self.stem_kinds))(x)]
        kinds = (
            *self.stem_kinds,
            *(self.dense, self.depthwise, self.normalization, self.activation),
            *(self.spatial, self.residual, self.concatenation, self.squeeze_excite),
            *(
                self.grouped,
                self.shared,
                self.operators,
                self.gate,
                self.decoder,
                self.parts,
                self.attention,
            ),
        )
        for _ in range(steps):
            self.tensors.append(self.draw(st.sampled_from(kinds))(self.read()))
        # Nothing reads the newest tensor yet, so the first readout reads it.
        outputs = [self.readout(self.tensors[-1], "first")]
        if self.flag():
            outputs.append(self.readout(self.read(), "second"))
        return keras.Model(inputs, outputs)

    def readout(self, x, name):
        if self.flag():
            return L.Conv2D(2, 1, name=name)(x)
        x = self.draw(
            st.sampled_from(
                (L.Flatten(), L.GlobalAveragePooling2D(), L.GlobalMaxPooling2D())
            )
        )(x)
        if self.flag():
            x = L.Dense(self.channels(), activation="tanh")(x)
        x = L.Dense(3, name=name)(x)
        return L.Softmax()(x) if self.flag() else x

    def convolution(self, x, channels=None):
        return L.Conv2D(
            channels or self.channels(),
            self.draw(st.sampled_from((1, 3))),
            strides=self.draw(st.sampled_from((1, 2))) if channels is None else 1,
            padding="same",
            use_bias=self.flag(),
        )(x)

    def separable(self, x, channels=None):
        return L.SeparableConv2D(
            channels or self.channels(),
            3,
            padding="same",
            depth_multiplier=self.draw(st.sampled_from((1, 2))),
        )(x)

    def transposed(self, x, channels=None):
        strides = 2 if channels is None and x.shape[1] <= 3 else 1
        return L.Conv2DTranspose(
            channels or self.channels(), 3, strides=strides, padding="same"
        )(x)

    def dense(self, x, channels=None):
        units = channels or self.channels()
        if self.flag():
            equation = self.draw(st.sampled_from(("...c,cd->...d", "...c,dc->...d")))
            bias = self.draw(st.sampled_from((None, "d")))
            return L.EinsumDense(equation, units, bias_axes=bias)(x)
        return L.Dense(units, activation="swish")(x)

    def attention(self, x):
        """Adds attention of positions to each other, or to another branch."""
        ops, shape = keras.ops, x.shape
        x = ops.reshape(x, (-1, shape[1] * shape[2], shape[3]))
        looked_at = [x, self.dense(x, shape[3])][self.flag()]
        if self.flag():
            heads = self.draw(st.sampled_from((1, 2, 3)))
            repeats = self.draw(st.sampled_from((1, 2)))
            layer = L.GroupQueryAttention(2, heads * repeats, heads)
        else:
            layer = L.MultiHeadAttention(
                self.draw(st.sampled_from((1, 2, 3, 4))),
                2,
                use_bias=self.flag(),
                output_shape=self.draw(st.sampled_from((None, self.channels()))),
                **newer(L.MultiHeadAttention, use_gate=self.flag()),
            )
        y = layer(x, looked_at, use_causal_mask=self.flag())
        y = x + y if y.shape == x.shape and self.flag() else y
        return ops.reshape(y, (-1, *shape[1:3], y.shape[-1]))

    def depthwise(self, x):
        multiplier = self.draw(st.sampled_from((1, 2))) if x.shape[-1] < 16 else 1
        channels = x.shape[-1]
        if self.flag() and channels > 1:
            filters = channels * multiplier
            return L.Conv2D(filters, 3, padding="same", groups=channels)(x)
        return L.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier)(x)

    def normalization(self, x):
        if self.flag():
            if self.flag():
                return L.RMSNormalization()(x)
            return L.LayerNormalization(scale=self.flag(), center=self.flag())(x)
        if self.flag():
            return L.GroupNormalization(-1, scale=self.flag(), center=self.flag())(x)
        return L.BatchNormalization(scale=self.flag(), center=self.flag())(x)

    def activation(self, x):
        kinds = (L.ReLU(6.0), L.PReLU(shared_axes=[1, 2]), L.PReLU(), L.Dropout(0.0))
        return self.draw(st.sampled_from((*kinds, L.Activation("gelu"))))(x)

    def spatial(self, x):
        kinds = [
            *(L.ZeroPadding2D(1), L.MaxPooling2D(2, padding="same")),
            *(L.CenterCrop(2, 2), L.Softmax((1, 2))),
        ]
        if HAS_ADAPTIVE_POOLING:
            kinds += [L.AdaptiveAveragePooling2D(2), L.AdaptiveMaxPooling2D(3)]
        if x.shape[1] <= 3:
            kinds += [L.UpSampling2D()]
        else:
            kinds += [L.Cropping2D(1), L.AveragePooling2D(2)]
        return self.draw(st.sampled_from(kinds))(x)

    def branch(self, x):
        """Makes another tensor with the shape of `x`."""
        kinds = (self.convolution, self.separable, self.transposed, self.dense)
        return self.draw(st.sampled_from(kinds))(x, x.shape[-1])

    def residual(self, x):
        joins = (L.Add(), L.Maximum(), L.Subtract(), L.Average())
        return self.draw(st.sampled_from(joins))([x, self.branch(x)])

    def concatenation(self, x):
        if x.shape[-1] > 16:
            return self.normalization(x)
        same = [y for y in self.tensors if y.shape[1] == x.shape[1]]
        return L.Concatenate()([x, self.draw(st.sampled_from(same))])

    def squeeze_excite(self, x):
        channels = x.shape[-1]
        squeezed = L.GlobalAveragePooling2D()(x)
        if self.flag():
            squeezed = L.Reshape((1, 1, channels))(squeezed)
            squeezed = L.Conv2D(self.channels(), 1, activation="relu")(squeezed)
            squeezed = L.Conv2D(channels, 1, activation="sigmoid")(squeezed)
        else:
            squeezed = L.Dense(self.channels(), activation="relu")(squeezed)
            squeezed = L.Dense(channels, activation="sigmoid")(squeezed)
            squeezed = L.Reshape((1, 1, channels))(squeezed)
        return L.Multiply()([x, squeezed])

    def decoder(self, x):
        """Makes feature maps from features, with or without normalization."""
        channels = self.channels()
        x = L.Dense(9 * max(channels, 2))(L.GlobalAveragePooling2D()(x))
        x = L.BatchNormalization()(x) if self.flag() else x
        return L.Reshape((3, 3, max(channels, 2)))(x)

    def shared(self, x):
        layer = L.Conv2D(x.shape[-1], 3, padding="same")
        return layer(L.ReLU()(layer(x)))

    def operators(self, x):
        ops = keras.ops
        kinds = (
            lambda x: ops.relu(x + 1.0) * 0.5,
            lambda x: ops.tanh(x) ** 2 + ops.rsqrt(x**2 + 1),
            lambda x: ops.flip(ops.transpose(x, (0, 2, 1, 3)), axis=1),
            lambda x: ops.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0))),
            # Subtracts only a part of the mean. At a single position, the difference
            # to the whole mean would be 0, or a rounding error with a random sign.
            lambda x: x - ops.sum(x, axis=(1, 2), keepdims=True) / 144,
            lambda x: ops.softmax(x, axis=1),
            lambda x: ops.reshape(
                ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3])),
                (-1, *x.shape[1:]),
            ),
        )
        return self.draw(st.sampled_from(kinds))(x)

    def grouped(self, x):
        """Adds a convolution in groups of more than one channel."""
        groups = [g for g in (1, 2, 3, 4) if x.shape[-1] % g == 0 and x.shape[-1] > g]
        groups = self.draw(st.sampled_from(groups or [1]))
        filters = groups * self.draw(st.integers(1, 4))
        return L.Conv2D(filters, 3, padding="same", groups=groups)(x)

    def parts(self, x):
        """Treats some channels differently from others."""
        channels, ops = x.shape[-1], keras.ops
        if channels % 2:
            beside = [(0, 0), (0, 0), (0, 0), (1, 2)]
            kinds = (lambda x: ops.flip(x, -1), lambda x: ops.pad(x, beside))
            return self.draw(st.sampled_from(kinds))(x)
        half = channels // 2
        kinds = (
            lambda x: ops.glu(x),
            lambda x: x[..., ::2] + self.branch(x[..., 1::2]),
            lambda x: ops.concatenate([self.branch(x[..., :half]), x[..., half:]], -1),
            lambda x: ops.take(x, np.arange(channels).reshape(2, half).T.ravel(), -1),
            lambda x: ops.subtract(*ops.split(x, 2, axis=-1)),
            lambda x: backwards(ops.concatenate(ops.array_split(x, 2, -1), -1), 2),
            lambda x: self.branch(
                ops.pad(x[..., half:], [(0, 0), (0, 0), (0, 0), (half, 0)])
            ),
            lambda x: (
                ops.pad(x, [(0, 0), (0, 0), (0, 0), (0, half)])
                + self.convolution(x, channels + half)
            ),
            lambda x: ops.depth_to_space(self.dense(x, 4 * half + 4), 2),
        )
        return self.draw(st.sampled_from(kinds))(x)

    def gate(self, x):
        """Multiplies all channels by one channel."""
        return x * L.Conv2D(1, 1, activation="sigmoid")(x)
