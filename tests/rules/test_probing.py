import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, TriDense, slim
from tests.conftest import at_width, inputs_of

pytestmark = pytest.mark.backends

L, ops = keras.layers, keras.ops


def with_tail(operation):
    """A model of which an operation is behind the readout, which gives `(4, 6)`."""
    inputs = keras.Input((4, 3))
    x = TriDense(8)(L.Dense(8)(inputs))
    return AnyWidthModel(inputs, operation(L.Dense(6, name="readout")(x)))


#: What only looks at samples one by one.
ALONE = {
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "reshape": lambda x: ops.reshape(x, (-1, 24)),
    "transpose": lambda x: ops.transpose(x, (0, 2, 1)),
    "slice": lambda x: x[:, 1:, ::2],
    "cast": lambda x: ops.cast(x, "int32"),
    "top_k": lambda x: ops.top_k(x, 2)[0],
    "sum": lambda x: ops.sum(x, axis=(1, 2)),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 1), (0, 0))),
    "matmul": lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))),
    "weights": lambda x: ops.matmul(x, np.ones((6, 2), "float32")),
    "einsum": lambda x: ops.einsum("bij,bkj->bik", x, x),
    "split": lambda x: ops.split(x, 3, axis=-1)[1],
    "normalize": lambda x: ops.normalize(x, axis=-1),
    "resize": lambda x: ops.image.resize(
        x[..., None], (2, 2), data_format="channels_last"
    ),
    "power": lambda x: x**3,
    "where": lambda x: ops.where(x > 0, x, x * np.arange(6, dtype="float32")),
}  # fmt: skip


def test_operations_that_leave_samples_apart_stand_after_a_readout():
    model = with_tail(lambda x: [operation(x) for operation in ALONE.values()])
    x = inputs_of(model)
    for width in (0.25, 0.5, 1.0):
        expected = slim(model, width)(x)
        for name, got, wanted in zip(
            ALONE, at_width(model, width, x), expected, strict=True
        ):
            # The same sums in another order.
            np.testing.assert_allclose(
                got, ops.convert_to_numpy(wanted), rtol=1e-4, atol=1e-5, err_msg=name
            )


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: ops.softmax(x, axis=0),
        lambda x: ops.mean(x, axis=0),
        lambda x: ops.max(x, axis=0, keepdims=True),
        lambda x: ops.flip(x, axis=0),
        lambda x: ops.cumsum(x, axis=0),
        lambda x: ops.sort(x, axis=0),
        lambda x: ops.reshape(x, (-1, 6)),
        lambda x: ops.argmax(x),
    ],
    ids=["softmax", "mean", "max", "flip", "cumsum", "sort", "reshape", "all"],
)
def test_an_operation_that_mixes_samples_is_refused_after_a_readout(operation):
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        with_tail(operation)


def test_an_operation_that_cannot_be_tried_is_refused():
    with pytest.raises(ValueError, match="fails on a trial batch of 3 samples"):
        with_tail(lambda x: ops.reshape(x, (8, 4, 6)))
