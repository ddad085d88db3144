import json
from functools import partial

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from awn_keras import (
    AnyWidthModel,
    FixedWidths,
    SandwichWidths,
    TriConv2D,
    TriDense,
    UniformWidths,
    count_parameters,
    lenet_3c1l,
    slim,
)
from awn_keras.slices import active_slices
from awn_keras.training import backends
from awn_keras.training.metrics import area_under_curve
from benchmarks.loop import train_by_the_loop
from tests.conftest import (
    at_width,
    classification,
    eagerly,
    inputs_of,
    labelled,
    rich,
    small_conv,
    small_dense,
    stem_and_trunk,
)


def zero(y_true, y_pred):
    return 0.0 * y_pred[:, 0]


BACKEND = keras.backend.backend()

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def clone(model):
    """Returns an independent copy of a model with equal weights."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def arrays(tensors):
    """Copies of tensors or variables."""
    return [keras.ops.convert_to_numpy(tensor).copy() for tensor in tensors]


def gradients_of_a_step(
    model, x, y, sample_weight=None, class_weight=None, loop=False, **compile_arguments
):
    """Gradients that a training step applies: SGD with rate 1 subtracts them.

    Without the constraint, so that the forbidden half shows too.
    """
    model = clone(model)
    model.compile(keras.optimizers.SGD(1.0), **compile_arguments)
    if loop:
        train_by_the_loop(model)
    for weight in model.trainable_weights:
        weight.constraint = None
    before = arrays(model.trainable_weights)
    model.train_on_batch(x, y, sample_weight=sample_weight, class_weight=class_weight)
    after = arrays(model.trainable_weights)
    return [old - new for old, new in zip(before, after, strict=True)]


def assert_same_gradients(got, wanted):
    for gradient, other in zip(got, wanted, strict=True):
        # Relative 1e-4: float32 sums over batch, rows and cols in another order.
        np.testing.assert_allclose(
            gradient, other, rtol=1e-4, atol=1e-4 * max(np.abs(other).max(), 1e-3)
        )


# ---------------------------------------------------------------- one pass = n passes


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "widths",
    [
        FixedWidths([0.25, 0.4, 0.7, 1.0]),
        SandwichWidths(0.25, 1.0, num_widths=4, seed=1),
        UniformWidths(0.25, 1.0, num_widths=3, seed=2),
        SandwichWidths(0.25, 1.0, num_widths=4, expected=True),
    ],
    ids=lambda w: type(w).__name__ + "-expected" * w.expected,
)
@eagerly
def test_one_pass_gradients_equal_the_loops(widths, reduction):
    model = small_conv()
    x, y = labelled(model)
    arguments = {"loss": LOSS, "widths": widths, "width_reduction": reduction}
    one_pass = gradients_of_a_step(model, x, y, **arguments)
    loop = gradients_of_a_step(model, x, y, loop=True, **arguments)
    assert_same_gradients(one_pass, loop)
    assert all(np.abs(gradient).max() > 0 for gradient in one_pass)


@pytest.mark.backends
@eagerly
def test_one_pass_gradients_equal_the_loops_for_a_rich_graph():
    model = rich()
    x = inputs_of(model, 12)
    y = {
        "scores": np.random.default_rng(0).normal(size=(12, 3, 3, 2)),
        "classes": np.arange(12) % 6,
    }
    arguments = {
        "loss": {"scores": "mse", "classes": LOSS},
        "loss_weights": {"scores": 0.5, "classes": 2.0},
        "widths": FixedWidths([0.25, 0.6, 1.0]),
    }
    one_pass = gradients_of_a_step(model, x, y, **arguments)
    loop = gradients_of_a_step(model, x, y, loop=True, **arguments)
    assert_same_gradients(one_pass, loop)


@pytest.mark.backends
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@eagerly
def test_one_pass_gradients_equal_the_loops_with_weights_and_regularizers(reduction):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Flatten()(stem_and_trunk(inputs, kernel_regularizer="l2"))
    model = AnyWidthModel(inputs, keras.layers.Dense(3, kernel_regularizer="l1")(x))
    x, y = labelled(model)
    weights = np.random.default_rng(0).uniform(size=len(x))
    arguments = {
        "loss": LOSS,
        "widths": FixedWidths([0.25, 0.5, 1.0]),
        "width_reduction": reduction,
    }
    one_pass = gradients_of_a_step(model, x, y, weights, **arguments)
    loop = gradients_of_a_step(model, x, y, weights, loop=True, **arguments)
    assert_same_gradients(one_pass, loop)
    # The penalty counts once, however many widths there are and however they are
    # reduced.
    nothing = gradients_of_a_step(model, x, y, np.zeros(len(x)), **arguments)
    for weight, gradient in zip(model.trainable_weights, nothing, strict=True):
        value = keras.ops.convert_to_numpy(weight)
        penalty = getattr(weight.regularizer, "inner", weight.regularizer)
        name = type(penalty).__name__
        expected = {"L2": 0.02 * value, "L1": 0.01 * np.sign(value)}.get(name, 0)
        np.testing.assert_allclose(gradient, expected * np.ones_like(value), atol=1e-7)


@pytest.mark.backends
@eagerly
def test_reported_losses_hold_all_regularization():
    penalty = keras.regularizers.L2(0.1)
    inputs = keras.Input((6, 6, 2))
    x = stem_and_trunk(inputs, kernel_regularizer="l2", activity_regularizer=penalty)
    x = keras.layers.Dense(3, activity_regularizer=penalty)(keras.layers.Flatten()(x))
    model = classification(
        AnyWidthModel(inputs, x, widths_grid=[0.5, 1.0]), report_widths=[0.5, 1.0]
    )
    x, y = labelled(model, 16)
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    # At full width the model is a plain one.
    plain = classification(slim(model, 1.0))
    assert logs["loss"] == pytest.approx(plain.evaluate(x, y, verbose=0)[0], rel=1e-5)
    assert logs["loss_w100"] == pytest.approx(logs["loss"], rel=1e-5)
    model.width = 0.5
    loss = model.evaluate(x, y, verbose=0)[0]
    assert loss == pytest.approx(logs["loss_w050"], rel=1e-5)
    history = model.fit(x, y, epochs=2, verbose=0).history
    assert np.isfinite(history["loss_w050"]).all()


def loss_of_a_pass(network, x, y):
    logits = network(keras.ops.convert_to_tensor(x), training=True)
    return LOSS(keras.ops.convert_to_tensor(y), logits), None


def sliced_gradients(model, x, y, widths):
    """Algorithm 1 by slimmed networks: no masks, no shared trunk.

    Each runs in training mode on its own slices of the weights; the gradients of the
    slices are added up where they came from.
    """
    total = [np.zeros(weight.shape) for weight in model.trainable_weights]
    place = {
        id(weight): array
        for weight, array in zip(model.trainable_weights, total, strict=True)
    }
    nodes = {node.operation.name: node for node in model.propagation.nodes}
    for width in widths:
        small = slim(model, width)
        small.compile("sgd", LOSS)
        small.optimizer.build(small.trainable_variables)
        gradients, _ = backends.differentiate(
            small, partial(loss_of_a_pass, small, x, y)
        )
        by_weight = dict(zip(map(id, small.trainable_weights), gradients, strict=True))
        for layer in small.layers:
            if not layer.trainable_weights:
                continue
            node = nodes[layer.name]
            flow = model.propagation.flows[id(node)]
            indices = active_slices(node.operation, flow, width)
            for weight, full, index in zip(
                layer.weights, node.operation.weights, indices, strict=True
            ):
                if id(weight) in by_weight:
                    gradient = keras.ops.convert_to_numpy(by_weight[id(weight)])
                    place[id(full)][np.ix_(*index)] += gradient
    return [array / len(widths) for array in total]


def test_one_pass_gradients_equal_those_of_slimmed_networks():
    # Independent of the loop above, which shares masks and trunk with the one pass.
    model = small_conv()
    x, y = labelled(model)
    widths = list(model.distinct_widths)
    got = gradients_of_a_step(model, x, y, loss=LOSS, widths=FixedWidths(widths))
    wanted = sliced_gradients(model, x, y, widths)
    masks = {
        id(node.operation.weights[0]): node.operation.masks["kernel"]
        for node in model.propagation.nodes
        if isinstance(node.operation, TriConv2D)
    }
    for weight, array in zip(model.trainable_weights, wanted, strict=True):
        # A dense slice has gradients in its forbidden half, which the mask drops.
        array *= masks.get(id(weight), 1)
    assert_same_gradients(got, wanted)


@settings(max_examples=4)
@given(
    st.lists(st.floats(0.3, 1.0), min_size=1, max_size=3),
    st.sampled_from([1, 3]),
    st.booleans(),
)
@eagerly
def test_one_pass_gradients_equal_the_loops_for_any_widths(widths, divisor, grid):
    settings = {"widths_grid": [0.3, 0.55, 1.0]} if grid else {"min_width": 0.3}
    model = small_conv(**{"min_width": None, "divisor": divisor, **settings})
    x, y = labelled(model, 8)
    arguments = {"loss": LOSS, "widths": FixedWidths(widths), "report_widths": []}
    assert_same_gradients(
        gradients_of_a_step(model, x, y, **arguments),
        gradients_of_a_step(model, x, y, loop=True, **arguments),
    )


# ------------------------------------------------------------------------- widths


def test_distinct_widths_are_one_for_each_network():
    model = small_conv(0.2)
    counts = [count_parameters(model, width) for width in model.distinct_widths]
    assert len(set(counts)) == len(counts)
    # Widths between the distinct widths give no other networks.
    every = {count_parameters(model, width) for width in np.linspace(0.2, 1.0, 500)}
    assert every == set(counts)


def test_distinct_widths_of_one_channel_count_are_its_fractions():
    model = lenet_3c1l(staircase="paper")
    assert model.distinct_widths[0] == 0.25
    np.testing.assert_allclose(
        model.distinct_widths[1:], np.arange(12, 46) / 45, atol=1e-6
    )


def test_distinct_widths_of_a_grid_are_the_grid():
    model = small_conv(None, widths_grid=[0.3, 0.6, 1.0])
    assert model.min_width == 0.3
    assert model.distinct_widths == (0.3, 0.6, 1.0)
    x = inputs_of(model)
    # A width between two widths of the grid runs as the smaller width.
    np.testing.assert_array_equal(at_width(model, 0.59, x), at_width(model, 0.3, x))


@pytest.mark.backends
def test_width_decides_call_predict_and_evaluate_without_retracing():
    model = classification(small_conv())
    x, y = labelled(model)
    model.fit(x, y, verbose=0)
    traces = []
    original = model.call

    def counting_call(*args, **kwargs):
        traces.append(1)
        return original(*args, **kwargs)

    model.call = counting_call
    predicted = {}
    for width in (1.0, 0.5, 0.25, 1.0):
        model.width = width
        assert model.width == width
        predicted[width] = model.predict(x, verbose=0)
        small = classification(slim(model, width))
        # Sums in another order.
        np.testing.assert_allclose(
            predicted[width], small.predict(x, verbose=0), atol=1e-5
        )
        np.testing.assert_allclose(
            model.evaluate(x, y, verbose=0), small.evaluate(x, y, verbose=0), rtol=1e-5
        )
    # Batches of two sizes (32 and 8): two traces of `predict`. PyTorch traces nothing.
    assert BACKEND == "torch" or 1 <= len(traces) <= 2
    assert not np.allclose(predicted[0.25], predicted[1.0])


@pytest.mark.parametrize("value", [0.1, 0, 1.01, float("nan")])
def test_a_width_out_of_range_is_refused(value):
    model = small_dense(min_width=0.25)
    with pytest.raises(ValueError, match="`width` must be"):
        model.width = value
    assert model.width == 1.0


def test_a_wide_channel_that_overflows_does_not_reach_narrow_widths():
    model = small_dense(min_width=0.25)
    bias = model.layers[2].bias
    bias.assign(np.append(np.zeros(7), np.inf))
    outputs = at_width(model, 0.5, inputs_of(model))[0]
    assert np.isfinite(outputs).all()


# ----------------------------------------------------------------- fit and evaluate


@pytest.mark.backends
def test_fit_reports_widths_and_auc():
    model = classification(small_conv(), metrics=["accuracy"])
    x, y = labelled(model)
    history = model.fit(x, y, validation_data=(x, y), epochs=2, verbose=0).history
    widths = ("", "_w025", "_w062_5", "_w100")
    train = {f"{name}{w}" for name in ("loss", "accuracy") for w in widths}
    assert set(history) == train | {f"val_{name}" for name in train} | {"val_auc"}
    assert all(len(values) == 2 for values in history.values())


@pytest.mark.backends
@eagerly
def test_reported_numbers_are_those_of_slimmed_networks():
    grid = [0.25, 0.4, 0.7, 1.0]
    model = classification(
        small_conv(None, widths_grid=grid), report_widths=[0.25, 0.4, 1.0]
    )
    x, y = labelled(model)
    model.fit(x, y, epochs=3, verbose=0)
    model.width = 0.7
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    for width, suffix in ((0.25, "_w025"), (0.4, "_w040"), (1.0, "_w100"), (0.7, "")):
        loss, accuracy = classification(slim(model, width)).evaluate(x, y, verbose=0)
        # Sums in another order.
        assert logs[f"loss{suffix}"] == pytest.approx(loss, rel=1e-5)
        assert logs[f"accuracy{suffix}"] == accuracy
    accuracies = [
        classification(slim(model, w)).evaluate(x, y, verbose=0)[1]
        for w in model.distinct_widths
    ]
    expected = area_under_curve(model.distinct_widths, accuracies)
    assert logs["auc"] == pytest.approx(expected)
    curves = model.evaluate_widths(x, y, verbose=0)
    np.testing.assert_allclose(curves["accuracy"], accuracies)
    some = model.evaluate_widths(x, y, widths=[0.4, 1.0], verbose=0)
    assert some["loss"].tolist() == [logs["loss_w040"], logs["loss_w100"]]


@pytest.mark.backends
def test_the_last_evaluation_can_be_asked_for():
    model = classification(small_conv(), curve_widths=[0.5, 1.0])
    x, y = labelled(model)
    with pytest.raises(ValueError, match=r"not evaluated yet.*validation_data"):
        model.last_evaluation()
    model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="not evaluated yet"):
        model.last_evaluation()
    model.evaluate(x, y, verbose=0)
    widths, results = model.last_evaluation()
    assert widths == (0.5, 1.0)
    np.testing.assert_array_equal(
        results["accuracy"],
        model.evaluate_widths(x, y, widths=widths, verbose=0)["accuracy"],
    )


@pytest.mark.backends
@eagerly
def test_lists_are_those_of_a_plain_model():
    model = classification(small_conv())
    x, y = labelled(model)
    assert len(model.evaluate(x, y, verbose=0)) == 2
    assert len(model.train_on_batch(x, y)) == 2
    assert len(model.test_on_batch(x, y)) == 2
    assert "loss_w100" in model.train_on_batch(x, y, return_dict=True)


def test_metrics_start_anew_in_every_epoch():
    model = classification(small_conv(), optimizer=keras.optimizers.SGD(0.0))
    x, y = labelled(model)
    x, y = x[:32], y[:32]
    history = model.fit(x, y, epochs=3, batch_size=32, verbose=0).history
    # With a learning rate of 0 every epoch gives the same numbers.
    for name in ("accuracy_w025", "loss_w100"):
        assert history[name] == pytest.approx([history[name][0]] * 3)


def test_report_widths_can_be_left_out():
    model = classification(small_conv(), report_widths=[])
    x, y = labelled(model)
    history = model.fit(x, y, validation_data=(x, y), verbose=0).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy", "val_auc"}


@eagerly
def test_a_metric_called_auc_is_not_overwritten():
    model = classification(
        small_conv(),
        loss="binary_crossentropy",
        metrics=["accuracy", keras.metrics.AUC(from_logits=True, name="auc")],
    )
    x, y = labelled(model)
    logs = model.evaluate(x, np.eye(3)[y], return_dict=True, verbose=0)
    assert {"auc", "auc_w100", "width_auc"} <= set(logs)
    assert logs["auc"] == logs["auc_w100"]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([keras.metrics.SparseTopKCategoricalAccuracy(2), "accuracy"], "accuracy"),
        ([keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")], "top"),
        ([keras.metrics.MeanMetricWrapper(zero, name="my_acc"), "acc"], "acc"),
        ([keras.metrics.SparseCategoricalAccuracy(name="right")], "right"),
    ],
)  # fmt: skip
def test_auc_is_of_an_accuracy_of_keras_and_not_top_k(metrics, expected):
    model = classification(small_conv(), metrics=metrics)
    x, y = labelled(model)
    assert model.accuracy_name is None
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    assert model.accuracy_name == expected
    curve = model.evaluate_widths(x, y, verbose=0)[expected]
    assert logs["auc"] == pytest.approx(area_under_curve(model.distinct_widths, curve))


@pytest.mark.backends
def test_training_metrics_are_those_before_the_update_as_in_keras():
    model = small_conv(1.0)
    x, y = labelled(model, 20)
    plain = classification(slim(model, 1.0), optimizer=keras.optimizers.SGD(1.0))
    classification(
        model, optimizer=keras.optimizers.SGD(1.0), widths=FixedWidths([1.0])
    )
    for _ in range(2):
        wanted = plain.train_on_batch(x, y, return_dict=True)
        got = model.train_on_batch(x, y, return_dict=True)
        # Sums in another order.
        assert got["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
        assert got["loss_w100"] == pytest.approx(wanted["loss"], rel=1e-4)
        assert got["accuracy"] == wanted["accuracy"]


@keras.saving.register_keras_serializable(package="tests")
class Lowest(keras.metrics.Metric):
    """Smallest score of the first class; starts from 1e9."""

    def __init__(self, name="lowest"):
        super().__init__(name=name)
        self.value = self.add_variable((), lambda *args, **kwargs: 1e9, name="value")

    def update_state(self, y_true, y_pred, sample_weight=None):
        smallest = keras.ops.min(y_pred[:, 0])
        self.value.assign(keras.ops.minimum(self.value, smallest))

    def reset_state(self):
        self.value.assign(1e9)

    def result(self):
        # A variable as it is; with JAX Keras takes none.
        return keras.ops.copy(self.value) if BACKEND == "jax" else self.value


@pytest.mark.backends
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_metrics_at_widths_start_where_the_metric_starts(run_eagerly):
    model = classification(
        small_conv(None, widths_grid=[0.5, 1.0]),
        metrics=[Lowest()],
        run_eagerly=run_eagerly,
    )
    model.layers[-1].bias.assign([5.0, 0, 0])
    x, y = labelled(model)
    for _ in range(2):
        model.width = 1.0
        logs = model.evaluate(x, y, return_dict=True, verbose=0)
        for width, suffix in ((1.0, ""), (1.0, "_w100"), (0.5, "_w050")):
            expected = at_width(model, width, x)[0][:, 0].min()
            # Batches of another size.
            assert logs[f"lowest{suffix}"] == pytest.approx(expected, rel=1e-5)


def test_auc_over_chosen_widths():
    model = classification(small_conv(), curve_widths=[0.5, 1.0])
    x, y = labelled(model)
    logs = model.evaluate(x, y, return_dict=True, verbose=0)
    every = model.evaluate_widths(x, y, verbose=0)["accuracy"]
    assert len(every) == len(model.distinct_widths)
    some = model.evaluate_widths(x, y, widths=[0.5, 1.0], verbose=0)["accuracy"]
    assert logs["auc"] == pytest.approx(some.mean())
    # The chosen width has not changed.
    again = model.evaluate(x, y, return_dict=True, verbose=0)
    assert again == pytest.approx(logs)


def test_a_network_of_many_widths_takes_the_auc_over_64():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(150)(inputs)
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.01)
    classification(model)
    assert len(model.distinct_widths) == 97
    chosen = model.plan.curve_widths
    assert len(chosen) == 64
    assert (chosen[0], chosen[-1]) == (0.01, 1.0)


# `pytest.warns` reports again what the configuration ignores in Keras' modules.
@pytest.mark.backends
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@eagerly
def test_a_frozen_model_warns_as_in_keras():
    model = small_conv()
    model.trainable = False
    classification(model)
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        model.fit(*labelled(model), verbose=0)


def test_without_an_accuracy_there_is_no_auc():
    model = small_dense()
    model.compile("sgd", "mse", metrics=["mae"])
    x = inputs_of(model)
    logs = model.evaluate(x, np.zeros((5, 3)), return_dict=True, verbose=0)
    assert "auc" not in logs
    assert model.accuracy_name is None


@pytest.mark.backends
@pytest.mark.parametrize(
    "settings",
    [
        {},
        # Keras refuses several steps at once with PyTorch.
        *([] if BACKEND == "torch" else [{"steps_per_execution": 3}]),
        # Eager steps take minutes with JAX, and are the only kind with PyTorch, which
        # would compile for minutes.
        *([{"run_eagerly": True}] if BACKEND == "tensorflow" else []),
        *([{"jit_compile": True}] if BACKEND != "torch" else []),
        {"width_reduction": "sum"},
        # With 8 widths, most steps have a narrow width.
        {"widths": UniformWidths(0.25, 1.0, 8, seed=0)},
    ],
    ids=str,
)
def test_fit_learns(settings):
    model = classification(
        small_conv(),
        optimizer=keras.optimizers.Adam(0.02),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)],
        **settings,
    )
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    x = rng.normal(size=(60, 6, 6, 2)).astype("float32") + y[:, None, None, None]
    history = model.fit(
        x, y, epochs=12, batch_size=20, validation_data=(x, y), verbose=0
    ).history
    # With other seeds the last case reaches 0.10 to 0.46 of the first loss.
    assert history["loss_w025"][-1] < 0.8 * history["loss_w025"][0]
    # Chance is 67 %.
    assert history["sparse_top_k_categorical_accuracy_w100"][-1] >= 0.75


@pytest.mark.backends
@eagerly
def test_sample_and_class_weights_count():
    model = small_conv()
    x, y = labelled(model)
    arguments = {"loss": LOSS, "widths": FixedWidths([0.5, 1.0])}
    only_first = gradients_of_a_step(
        model, x, y, np.eye(len(x))[0] * len(x), **arguments
    )
    nothing = gradients_of_a_step(model, x, y, np.zeros(len(x)), **arguments)
    assert max(np.abs(gradient).max() for gradient in only_first) > 0
    assert max(np.abs(gradient).max() for gradient in nothing) == 0

    by_class = gradients_of_a_step(
        model, x, y, class_weight={0: 0.0, 1: 3.0, 2: 1.0}, **arguments
    )
    by_sample = gradients_of_a_step(
        model, x, y, np.array([0.0, 3.0, 1.0])[y], **arguments
    )
    assert_same_gradients(by_class, by_sample)

    weighted = clone(model)
    weighted.compile("sgd", LOSS, weighted_metrics=["accuracy"])
    of_class_2 = small_accuracy(model, x[y == 2], y[y == 2])
    logs = weighted.evaluate(
        x, y, sample_weight=(y == 2).astype("float32"), return_dict=True, verbose=0
    )
    assert logs["accuracy_w025"] == pytest.approx(of_class_2)


def small_accuracy(model, x, y):
    return np.mean(at_width(model, 0.25, x)[0].argmax(-1) == y)


@pytest.mark.backends
def test_mixed_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = classification(small_conv())
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        x, y = labelled(model)
        history = model.fit(x, y, epochs=20, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert history["loss_w025"][-1] < 0.9 * history["loss_w025"][0]


@pytest.mark.backends
@eagerly
def test_dropout_and_noise_on_both_sides_of_the_readout():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Dropout(0.2)(stem_and_trunk(inputs))
    x = keras.layers.Dense(8)(keras.layers.GlobalAveragePooling2D()(x))
    outputs = keras.layers.Dense(3)(keras.layers.Dropout(0.2)(x))
    model = classification(AnyWidthModel(inputs, outputs))
    x, y = labelled(model)
    history = model.fit(x, y, epochs=2, validation_data=(x, y), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    # Inference gives the same numbers again.
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), model.predict(x, verbose=0)
    )


# ------------------------------------------------------------------ save and resume


@pytest.mark.parametrize("make", [small_conv, rich])
def test_config_round_trip(make):
    model = make(divisor=2)
    copy = AnyWidthModel.from_config(json.loads(json.dumps(model.get_config())))
    # JSON has lists instead of tuples.
    assert json.dumps(copy.get_config()) == json.dumps(model.get_config())
    assert copy.distinct_widths == model.distinct_widths


def test_clone_model():
    model = small_conv()
    copy = keras.models.clone_model(model)
    assert isinstance(copy, AnyWidthModel)
    copy.set_weights(model.get_weights())
    x = inputs_of(model)
    np.testing.assert_array_equal(at_width(copy, 0.5, x), at_width(model, 0.5, x))
    # Keras' clone does not know of arguments beyond its own, but layers keep their
    # place.
    blocks = small_conv(divisor=2)
    copy = keras.models.clone_model(blocks)
    assert copy.distinct_widths == blocks.distinct_widths
    # An error is better than a model of other widths.
    with pytest.raises(ValueError, match=r"`AnyWidthModel.from_config\(model.get_con"):
        keras.models.clone_model(small_conv(0.6))


@pytest.mark.backends
def test_saved_and_loaded_training_goes_on_as_if_nothing_had_happened(tmp_path):
    x, y = labelled(small_conv())

    def new():
        keras.utils.set_random_seed(7)
        return classification(
            small_conv(),
            optimizer=keras.optimizers.SGD(0.05, momentum=0.9),
            widths=SandwichWidths(0.25, 1.0, 4),
            report_widths=[0.25, 1.0],
        )

    whole = new()
    whole.fit(x, y, epochs=4, shuffle=False, verbose=0)
    half = new()
    half.fit(x, y, epochs=2, shuffle=False, verbose=0)
    half.save(tmp_path / "half.keras")
    rest = keras.saving.load_model(tmp_path / "half.keras")
    assert rest.get_compile_config() == half.get_compile_config()
    rest.fit(x, y, initial_epoch=2, epochs=4, shuffle=False, verbose=0)
    for weight, other in zip(whole.get_weights(), rest.get_weights(), strict=True):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


@pytest.mark.backends
def test_backup_and_restore(tmp_path):
    x, y = labelled(small_conv())

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("killed")

    def fit(*callbacks):
        keras.utils.set_random_seed(7)
        model = classification(small_conv(), widths=SandwichWidths(seed=1))
        model.fit(x, y, epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
        if callbacks:  # what was done before is not done again
            assert model.history.epoch == [2]
        return model

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(RuntimeError, match="killed"):
        fit(backup(), Interrupt())
    resumed, whole = fit(backup()), fit()
    for weight, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        # The same operations; threads may add in another order.
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-6)


@pytest.mark.backends
def test_callbacks_see_widths(tmp_path):
    model = classification(small_conv())
    x, y = labelled(model)
    model.fit(
        x,
        y,
        validation_data=(x, y),
        epochs=2,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best_{val_accuracy_w025:.1f}.keras",
                monitor="val_auc",
                mode="max",
                save_best_only=True,
            ),
            keras.callbacks.EarlyStopping("val_accuracy_w025", mode="max"),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    )
    path = next(tmp_path.glob("best_*.keras"))
    assert isinstance(keras.saving.load_model(path), AnyWidthModel)
    assert "val_auc" in (tmp_path / "log.csv").read_text()


@pytest.mark.backends
def test_weights_are_those_of_the_layers_alone():
    model = classification(small_conv())
    x, y = labelled(model)
    before = [weight.path for weight in model.weights]
    model.fit(x, y, validation_data=(x, y), verbose=0)
    assert [weight.path for weight in model.weights] == before
    assert len(before) == len(slim(model, 1.0).weights)


# -------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"widths": [0.5, 1.0]}, TypeError, "`widths` must be a `WidthSampler`"),
        (
            {"widths": SandwichWidths(0.1, 1.0)},
            ValueError,
            "`widths` must be at least the model's min_width=0.25",
        ),
        ({"width_reduction": "max"}, ValueError, "`width_reduction` must be one of"),
        ({"report_widths": [0.1]}, ValueError, "`report_widths` must be at least"),
        ({"report_widths": 0.5}, TypeError, "`report_widths` must be a sequence"),
        ({"curve_widths": [0.1]}, ValueError, "`curve_widths` must be at least"),
    ],
)
def test_bad_compile_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        classification(small_conv(), **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"min_width": 0}, r"`min_width` must be in \(0, 1\]"),
        ({"min_width": 0.5, "widths_grid": [0.25, 1.0]}, "the first of `widths_grid`"),
        ({"widths_grid": [0.25, 0.5]}, "`widths_grid` must ascend and end at 1.0"),
        ({"divisor": 0}, "`divisor` must be a positive integer"),
    ],
)
def test_bad_model_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        small_dense(**arguments)


def test_a_model_of_one_network_is_refused():
    inputs = keras.Input((4,))
    x = TriDense(1)(keras.layers.Dense(1)(inputs))
    with pytest.raises(ValueError, match=r"only one network.*layers of \[1\] channels"):
        AnyWidthModel(inputs, keras.layers.Dense(3)(x))


@pytest.mark.backends
def test_in_the_papers_staircase_there_may_be_one_network():
    # An old file may hold this model. Nothing reads channels after min_width.
    inputs = keras.Input((4,))
    x = TriDense(1)(keras.layers.Dense(8)(inputs))
    outputs = keras.layers.Dense(3)(x)
    model = AnyWidthModel(inputs, outputs, staircase="paper")
    assert model.distinct_widths == (0.25,)
    x = inputs_of(model)
    outputs_at = [at_width(model, width, x)[0] for width in (0.25, 0.7, 1.0)]
    for y in outputs_at[1:]:
        np.testing.assert_array_equal(y, outputs_at[0])
    classification(model).fit(*labelled(model), verbose=0)


def test_layers_cannot_serve_two_models_of_different_widths():
    model = small_conv()
    with pytest.raises(ValueError, match=r"already has other grades.*part of a model"):
        AnyWidthModel(model.input, model.output, min_width=0.5)
    # Models with equal widths can share layers.
    assert AnyWidthModel(model.input, model.output, min_width=0.25)


@pytest.mark.backends
@eagerly
def test_masked_steps_count_at_no_width():
    inputs = keras.Input((5, 4))
    x = keras.layers.Dense(8, activation="relu")(keras.layers.Masking()(inputs))
    x = TriDense(8, activation="relu")(x)
    model = AnyWidthModel(inputs, keras.layers.Dense(3)(x), min_width=0.25)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 5, 4)).astype("float32"), rng.integers(0, 3, (8, 5))
    x[:, 3:] = 0
    arguments = {"loss": LOSS, "weighted_metrics": ["accuracy"], "metrics": None}
    classification(model, **arguments)
    for width in (0.25, 0.6, 1.0):
        wanted = classification(slim(model, width), **arguments)
        np.testing.assert_allclose(
            model.evaluate(x, y, width=width, verbose=0),
            wanted.evaluate(x, y, verbose=0),
            rtol=1e-5,
        )
    arguments = {"loss": LOSS, "widths": FixedWidths([0.25, 1.0])}
    one_pass = gradients_of_a_step(model, x, y, **arguments)
    y[:, 3:] = 0  # labels of masked steps
    assert_same_gradients(gradients_of_a_step(model, x, y, **arguments), one_pass)
    loop = gradients_of_a_step(model, x, y, loop=True, **arguments)
    assert_same_gradients(one_pass, loop)


@pytest.mark.backends
def test_compute_loss_of_a_subclass_may_leave_training_out():
    class Doubled(AnyWidthModel):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return 2 * keras.ops.sum(keras.losses.mean_squared_error(y, y_pred))

    inputs = keras.Input((4,))
    model = Doubled(inputs, keras.layers.Dense(3)(TriDense(8)(inputs)))
    model.compile("sgd", "mse", widths=FixedWidths([1.0]))
    x, y = np.ones((2, 4), "float32"), np.zeros((2, 3), "float32")
    wanted = 2 * np.square(model.predict(x, verbose=0)).mean(-1).sum()
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), wanted, rtol=1e-5)
    np.testing.assert_allclose(model.train_on_batch(x, y), wanted, rtol=1e-5)


def test_evaluate_takes_keras_arguments_by_position():
    model = classification(small_dense())
    x, y = labelled(model)
    arguments = (x, y, 32, 0, None, None, None)
    assert model.evaluate(*arguments, True)["loss"] == model.evaluate(*arguments)[0]


@pytest.mark.backends
def test_the_state_tree_names_each_variable_once():
    model = classification(small_dense())
    model.fit(*labelled(model), validation_data=labelled(model), verbose=0)
    assert {"metrics_variables", "trainable_variables"} <= set(model.get_state_tree())


def test_a_refused_compile_leaves_nothing_compiled():
    model = classification(small_dense())
    for arguments in ({"loss": "mse"}, {"loss_weights": [0.5]}):
        with pytest.raises(ValueError, match="`distillation`"):
            classification(model, distillation=0.5, **arguments)
        with pytest.raises(ValueError, match="is not compiled"):
            model.fit(*labelled(model), verbose=0)
    with pytest.raises(ValueError, match="no `loss_weights`"):
        model.compile("sgd", LOSS, [0.5], distillation=0.5)


def test_an_uncompiled_model_cannot_be_evaluated():
    model = small_conv()
    with pytest.raises(ValueError, match="is not compiled: call `compile`"):
        model.evaluate(*labelled(model), verbose=0)


def test_export_and_quantize_say_what_to_do_instead(tmp_path):
    model = small_dense()
    with pytest.raises(NotImplementedError, match="export_tflite"):
        model.export(tmp_path / "saved_model")
    with pytest.raises(NotImplementedError, match=r"slim\(model, width\)"):
        model.quantize("int8")


# ----------------------------------------------------------------------------- area


def test_area_under_curve():
    assert area_under_curve([0.5, 1.0], [0.2, 0.4]) == pytest.approx(0.3)
    assert area_under_curve([0.25, 0.5, 1.0], [0, 1, 1]) == pytest.approx(5 / 6)
    assert area_under_curve([1.0], [0.7]) == 0.7


@pytest.mark.parametrize(
    ("widths", "values"), [([], []), ([0.5, 1], [1]), ([1, 0.5], [1, 1])]
)
def test_area_needs_ascending_widths_and_a_value_for_each(widths, values):
    with pytest.raises(ValueError, match="`widths` must ascend"):
        area_under_curve(widths, values)
