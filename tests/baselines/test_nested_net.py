import itertools

import keras
import numpy as np
import pytest

from awn_keras import (
    FixedWidths,
    count_parameters,
    lenet_3c1l,
    mobilenet_v2,
    slim,
    trade_off_curve,
)
from awn_keras.baselines import NestedNet, NestedPruning, SNet
from awn_keras.deploy import export_tflite
from awn_keras.deploy.interpreter import AnyWidthInterpreter
from awn_keras.loading import load_model
from tests.baselines.networks import (
    assert_close,
    conv_net,
    images,
    labels,
    numpy,
    randomize,
)
from tests.conftest import classification, eagerly, traced

pytestmark = eagerly

LISTED = (0.25, 0.5, 1.0)
STRUCTURES = ("channels", "weights")


def of(structure, plain=None):
    plain = conv_net() if plain is None else plain
    model = NestedNet(plain.input, plain.output, widths=LISTED, structure=structure)
    return randomize(model)


@pytest.fixture(params=STRUCTURES)
def model(request):
    return of(request.param)


def kernel_at(model, width):
    return model.weight_values(model.get_layer("conv2"), width)[0]


def outputs(model, width):
    model.width = width
    return numpy(model(images()))


def test_pruning_keeps_the_outputs_of_the_full_width(model):
    before, narrow = outputs(model, 1.0), outputs(model, 0.5)
    model.prune()
    assert_close(outputs(model, 1.0), before)
    assert np.abs(outputs(model, 0.5) - narrow).max() > 1e-2


def test_pruning_keeps_the_outputs_of_mobilenet_v2():
    """With shortcuts, depthwise layers and a Flatten, channels must move together."""
    small = mobilenet_v2((8, 8, 3), triangular=False, width_multiplier=0.25)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    lenet = lenet_3c1l((8, 8, 3), filters=6, padding="same", triangular=False)
    for plain in (small, lenet):
        model = of("channels", plain)
        before = numpy(model(x))
        kernels = [numpy(w) for w in model.weights]
        model.prune()
        # float32 sums in another order, through 53 layers of random weights.
        scale = np.abs(before).max()
        np.testing.assert_allclose(numpy(model(x)), before, rtol=0, atol=2e-3 * scale)
        changed = [
            not np.array_equal(numpy(new), old)
            for new, old in zip(model.weights, kernels, strict=True)
        ]
        assert any(changed)


def test_channels_are_ordered_by_importance():
    model = of("channels")
    model.prune()
    for name in ("bn1", "bn2"):
        sizes = np.abs(numpy(model.get_layer(name).gamma))
        assert (np.diff(sizes) <= 0).all()


def test_rows_of_the_widths_move_with_their_channels():
    model = of("channels")
    layer, rows = model.get_layer("bn2"), model._switchable["bn2"]
    own, held = numpy(layer.gamma), numpy(rows.gamma)
    order = np.argsort(-np.abs(own), kind="stable")
    model.prune()
    np.testing.assert_array_equal(numpy(layer.gamma), own[order])
    np.testing.assert_array_equal(numpy(rows.gamma), held[:, order])
    assert (order != np.arange(len(order))).any()


def test_momentum_moves_with_its_weight():
    model = of("channels")
    classification(model, optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    model.fit(images(), labels(), verbose=0)
    kernel = model.get_layer("conv2").kernel
    slots = list(model._slots(kernel))
    assert len(slots) == 1
    before = dict(
        zip(numpy(kernel).ravel().tolist(), numpy(slots[0]).ravel(), strict=True)
    )
    old = numpy(kernel)
    model.prune()
    assert not np.array_equal(numpy(kernel), old)
    for value, momentum in zip(
        numpy(kernel).ravel().tolist(), numpy(slots[0]).ravel(), strict=True
    ):
        assert before[value] == momentum


def test_widths_keep_the_largest_entries_of_kernels():
    model = of("weights")
    model.prune()
    kernel = numpy(model.get_layer("conv2").kernel)
    for width in LISTED:
        kept = kernel_at(model, width)
        assert np.count_nonzero(kept) == round(width**2 * kernel.size)
        there = kept != 0
        np.testing.assert_array_equal(kept[there], kernel[there])
        if width < 1:
            assert np.abs(kernel[there]).min() >= np.abs(kernel[~there]).max()
    for name in ("conv1", "logits"):  # stem and readout
        layer = model.get_layer(name)
        np.testing.assert_array_equal(
            model.weight_values(layer, 0.25)[0], numpy(layer.kernel)
        )


def test_narrow_widths_are_parts_of_wider_widths(model):
    model.prune(0.5)
    for narrow, wide in itertools.pairwise(LISTED):
        small, large = kernel_at(model, narrow), kernel_at(model, wide)
        np.testing.assert_array_equal(small[small != 0], large[small != 0])


def test_pruning_is_gradual_along_a_cubic():
    model = of("weights")
    size = numpy(model.get_layer("conv2").kernel).size
    for progress in (0.1, 0.5, 0.9, 1.0):
        model.prune(progress)
        for width in LISTED:
            lacking = (1 - width**2) * (1 - (1 - progress) ** 3)
            kept = np.count_nonzero(kernel_at(model, width))
            assert kept == round((1 - lacking) * size)


def test_without_pruning_channels_are_those_of_an_s_net():
    plain = conv_net()
    nested = NestedNet(plain.input, plain.output, widths=LISTED)
    s_net = SNet(plain.input, plain.output, widths=LISTED)
    for width in LISTED:
        np.testing.assert_array_equal(outputs(nested, width), outputs(s_net, width))


def test_every_width_slims_and_exports(model, tmp_path):
    classification(model)
    model.fit(images(), labels(), callbacks=[NestedPruning(2, 1)], verbose=0)
    model.prune()
    small = slim(model, 0.25)
    assert small.get_layer("conv2").filters == (
        2 if model.structure == "channels" else 8
    )
    for width in LISTED:
        assert_close(numpy(slim(model, width)(images())), outputs(model, width))
    curve = trade_off_curve(model, images(), labels())
    if model.structure == "weights":
        # Stock layers compute the zeros.
        assert curve.widths == list(LISTED)
        assert len(set(curve.macs)) == 1
        assert count_parameters(small) == count_parameters(slim(model, 1.0))
    path = tmp_path / "nested.tflite"
    export_tflite(model, path, widths=LISTED, outputs="model", verbose=0)
    runner = AnyWidthInterpreter(path)
    for width in LISTED:
        assert_close(runner.run(images(), width=width), outputs(model, width))


def test_a_step_trains_only_what_a_width_has():
    model = of("weights")
    model.prune()
    classification(
        model,
        optimizer=keras.optimizers.SGD(0.1),
        widths=FixedWidths([0.25]),
    )
    kernel = model.get_layer("conv2").kernel
    before, there = numpy(kernel), kernel_at(model, 0.25) != 0
    model.fit(images(), labels(), verbose=0)
    changed = numpy(kernel) != before
    assert not changed[~there].any()
    assert changed[there].any()


def test_a_saved_model_is_the_same_and_goes_on(model, tmp_path):
    classification(model)
    pruning = [NestedPruning(2, 1)]
    model.fit(images(), labels(), batch_size=6, callbacks=pruning, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert type(loaded) is NestedNet
    assert loaded.structure == model.structure
    for each in (model, loaded):
        each.fit(images(), labels(), batch_size=6, callbacks=pruning, verbose=0)
    for width in LISTED:
        assert_close(outputs(loaded, width), outputs(model, width))
        assert_close(kernel_at(loaded, width), kernel_at(model, width))


def test_the_callback_prunes_at_its_steps_and_then_stops():
    model = of("weights")
    classification(model)
    seen = []
    prune = model.prune

    def record(progress):
        seen.append(round(progress * 5))
        prune(progress)

    object.__setattr__(model, "prune", record)
    callbacks = [NestedPruning(steps=5, every=2)]
    for _ in range(2):  # a second `fit` of four steps continues
        model.fit(images(), labels(), batch_size=3, callbacks=callbacks, verbose=0)
    # Step 4 is the end of the first `fit` and the start of the second. Nothing changes
    # in between.
    assert seen == [2, 4, 4, 5]
    model.fit(images(), labels(), batch_size=3, callbacks=callbacks, verbose=0)
    assert seen == [2, 4, 4, 5]


@traced
def test_pruning_ends_when_several_steps_run_at_once():
    model = of("weights")
    classification(model, steps_per_execution=4)
    callbacks = [NestedPruning(steps=6, every=3)]
    model.fit(images(), labels(), batch_size=1, callbacks=callbacks, verbose=0)
    size = numpy(model.get_layer("conv2").kernel).size
    assert np.count_nonzero(kernel_at(model, 0.5)) == round(0.25 * size)


def test_pruning_at_the_last_step_of_fit_counts():
    model = of("weights")
    classification(model)
    callbacks = [NestedPruning(steps=4)]
    model.fit(images(), labels(), batch_size=3, callbacks=callbacks, verbose=0)
    size = numpy(model.get_layer("conv2").kernel).size
    assert np.count_nonzero(kernel_at(model, 0.5)) == round(0.25 * size)


def test_bad_arguments_are_refused(model):
    plain = conv_net()
    with pytest.raises(ValueError, match="`structure` must be one of"):
        NestedNet(plain.input, plain.output, structure="rows")
    for progress in (0, 1.5, -1):
        with pytest.raises(ValueError, match="`progress` must be in"):
            model.prune(progress)
    for arguments in ({"steps": 0}, {"steps": 1, "every": 0}):
        with pytest.raises(ValueError, match="must be a positive integer"):
            NestedPruning(**arguments)
    s_net = classification(SNet(plain.input, plain.output))
    with pytest.raises(TypeError, match="prunes a `NestedNet`"):
        s_net.fit(images(), labels(), callbacks=[NestedPruning(1)], verbose=0)


def test_freezing_needs_channels():
    with pytest.raises(NotImplementedError, match="needs `structure='channels'`"):
        classification(of("weights"), frozen_up_to=0.5)
    classification(of("channels"), frozen_up_to=0.5)
