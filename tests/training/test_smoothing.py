import keras
import numpy as np
import pytest

from awn_keras.training.losses import is_stock_loss
from awn_keras.training.smoothing import SmoothedCrossentropy
from tests.conftest import eagerly, small_dense

pytestmark = [eagerly, pytest.mark.backends]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3)], ids=["classes", "positions"])
def test_it_is_keras_loss_of_one_hot_labels(share, shape):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, shape).astype("float32")
    y = rng.integers(0, 3, shape[:-1])
    weight = rng.uniform(size=shape[0]).astype("float32")
    stock = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=share
    )
    if len(shape) == 3:
        weight = weight[:, None]
    expected = stock(keras.utils.to_categorical(y, 3), logits, weight)
    got = SmoothedCrossentropy(share)(y, logits, weight)
    # Two ways to round a sum of a few float32.
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(got), keras.ops.convert_to_numpy(expected), rtol=1e-5
    )
    column = SmoothedCrossentropy(share)(y[..., None], logits, weight)
    assert float(column) == float(got)


def test_a_model_is_saved_with_it(tmp_path):
    model = small_dense()
    model.compile("sgd", SmoothedCrossentropy(0.2))
    model.save(tmp_path / "model.keras")
    loss = keras.saving.load_model(tmp_path / "model.keras").loss
    assert type(loss) is SmoothedCrossentropy
    assert (loss.label_smoothing, loss.from_logits) == (0.2, True)


def test_it_is_taken_for_a_stock_loss():
    # So that its labels are checked, and PyTorch computes all widths at once.
    assert is_stock_loss(SmoothedCrossentropy())


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\)"):
        SmoothedCrossentropy(share)
