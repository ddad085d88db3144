import json

import keras
import numpy as np
import pytest

from awn_keras import AnyWidthModel, channel_grades, count_macs, slim, to_any_width
from awn_keras.stages import Stage, Widths
from tests.conftest import inputs_of
from tests.test_slimming import randomize


def autoencoder():
    """Builds an autoencoder with 64 channels, a code of 8, and 64 channels."""
    x = inputs = keras.Input((20,), name="frame")
    for units, name in ((64, "encoder"), (8, "code"), (64, "decoder")):
        x = keras.layers.Dense(units, activation="relu", name=name)(x)
    return keras.Model(inputs, keras.layers.Dense(20, name="same")(x))


def grades_of(model, name):
    return model.get_layer(name).out_grades


# --------------------------------------------------------------- a model's arguments


def test_a_models_arguments_are_one_object():
    assert Widths.of() == Widths(0.25, 1, None, "nested", ())
    assert Widths.of(None, 8, [0.5, 1]) == Widths(0.5, 8, (0.5, 1.0))
    assert Widths.of(0.5, 8, [0.5, 1]) == Widths.of(None, 8, [0.5, 1])
    grades = Widths(0.3, 2, (0.3, 0.6, 1.0)).grades(10)
    np.testing.assert_array_equal(grades, channel_grades(10, 2, 0.3, (0.3, 0.6, 1.0)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0.0,), "`min_width` must be in"),
        ((0.25, 1, [0.5, 1.0]), "`min_width` must be the first of `widths_grid`"),
        ((None, 1, [0.5, 0.8]), "`widths_grid` must ascend and end at 1.0"),
        ((0.5, 1, None, "down"), "`staircase` must be one of .*staircase='down'"),
    ],
)
def test_bad_arguments_of_a_model_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Widths.of(*arguments)


# ----------------------------------------------------------------------------- stages


def test_the_first_pattern_that_fits_counts():
    stages = {"block_1_*": {"divisor": 16}, "block_*": {"min_width": 0.5}}
    widths = Widths.of(0.25, 4, stages=stages)
    assert widths.stage_of("block_1_expand") == Stage("block_1_*", divisor=16)
    assert widths.stage_of("block_2_expand") == Stage("block_*", min_width=0.5)
    assert widths.stage_of("stem") == Stage("stem")
    assert [widths.divisor_of(n) for n in ("block_1_a", "block_2_a", "x")] == [16, 4, 4]
    for name, wanted in (
        ("block_1_expand", channel_grades(96, 16, 0.25)),
        ("block_2_expand", channel_grades(96, 4, 0.25, always_on=0.5)),
        ("stem", channel_grades(96, 4, 0.25)),
    ):
        np.testing.assert_array_equal(widths.grades(96, name), wanted)


def test_a_code_may_be_wider_than_its_width():
    usual = to_any_width(autoencoder())
    model = to_any_width(autoencoder(), stages={"code": {"min_width": 0.5}})
    for width, before, now in ((0.25, 2, 4), (0.5, 4, 4), (0.75, 6, 6), (1.0, 8, 8)):
        assert np.count_nonzero(grades_of(usual, "code") <= width) == before
        assert np.count_nonzero(grades_of(model, "code") <= width) == now
    # At full width, all channels are read, as before.
    assert count_macs(model) == count_macs(usual) == count_macs(autoencoder())


def test_layers_that_change_at_few_widths_keep_more_of_their_kernels():
    def kept(model):
        return model.get_layer("decoder").masks["kernel"].mean()

    few = {"code": {"widths_grid": [0.5, 1.0]}, "decoder": {"widths_grid": [0.5, 1]}}
    usual = to_any_width(autoencoder(), divisor=1)
    model = to_any_width(autoencoder(), divisor=1, stages=few)
    assert set(grades_of(model, "decoder")) == {0.0, 1.0}
    assert kept(model) == 0.75
    assert kept(usual) < 0.7


def test_blocks_of_a_stage_are_what_its_channels_are_rounded_to():
    model = to_any_width(
        autoencoder(),
        width_multiplier=1.3,
        stages={"encoder": {"divisor": 32}, "decoder": {"divisor": 1}},
    )
    sizes = {name: model.get_layer(name).units for name in ("encoder", "decoder")}
    assert sizes == {"encoder": 96, "decoder": 83}


@pytest.mark.backends
def test_every_width_of_stages_is_what_its_slim_network_computes(tmp_path):
    stages = {"code": {"min_width": 0.6}, "decoder": {"widths_grid": [0.5, 0.75, 1.0]}}
    model = randomize(to_any_width(autoencoder(), divisor=1, stages=stages))
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert json.loads(json.dumps(model.get_config()["stages"])) == stages
    assert loaded.get_config()["stages"] == stages
    x = inputs_of(model)
    for width in model.distinct_widths:
        wanted = keras.ops.convert_to_numpy(slim(model, width)(x))
        # float32 sums of up to 64 products.
        atol = 1e-5 * max(1.0, float(np.abs(wanted).max()))
        for each in (model, loaded):
            got = each.predict(x, width=width, verbose=0)
            np.testing.assert_allclose(got, wanted, atol=atol)


def test_a_layer_that_is_whole_early_makes_whole_what_it_alone_reads():
    stages = {"code": {"min_width": 1.0}}
    model = to_any_width(autoencoder(), divisor=1, stages=stages)
    # No layer would read channels that appear after the whole code is there.
    assert model.get_layer("code").masks["kernel"].all()
    assert count_macs(model, 0.25) > 20 * 64 + 64 * 8


@pytest.mark.parametrize(
    ("stages", "error", "match"),
    [
        ("code", TypeError, "`stages` must map patterns"),
        ({"code": 0.5}, TypeError, "`stages` must map patterns"),
        ({"code": {}}, ValueError, "Each stage of `stages` must set"),
        ({"code": {"divisor": None}}, ValueError, "Each stage of `stages` must set"),
        ({"code": {"width": 0.5}}, ValueError, "Each stage of `stages` must set"),
        ({"code": {"divisor": 0}}, ValueError, r"stages\['code'\]\['divisor'\]` must"),
        ({"code": {"min_width": 2}}, ValueError, r"\['min_width'\]` must be in \(0, 1"),
        ({"code": {"min_width": 0.1}}, ValueError, "not be below the model's `min_w"),
        ({"code": {"widths_grid": [0.1, 1]}}, ValueError, "not be below the model's"),
        ({"code": {"widths_grid": [0.5]}}, ValueError, r"grid'\]` must ascend and end"),
        ({"cod": {"divisor": 2}}, ValueError, "Received: the pattern 'cod'"),
        ({"frame": {"divisor": 2}}, ValueError, "Received: the pattern 'frame'"),
        ({"same": {"divisor": 2}}, ValueError, "must match a stem or a Tri layer"),
        (
            {"*": {"divisor": 2}, "code": {"divisor": 1}},
            ValueError,
            "that no earlier pattern matches, .*Received: the pattern 'code'",
        ),
    ],
)
def test_bad_stages_are_refused(stages, error, match):
    with pytest.raises(error, match=match):
        to_any_width(autoencoder(), stages=stages)


def test_widths_of_a_stage_are_the_grids():
    grid = [0.25, 0.5, 1.0]
    stages = {"code": {"widths_grid": [0.5, 1.0], "min_width": 0.5}}
    model = to_any_width(autoencoder(), widths_grid=grid, stages=stages)
    assert set(grades_of(model, "code")) == {0.0, 1.0}
    with pytest.raises(ValueError, match="in the model's `widths_grid`"):
        to_any_width(
            autoencoder(), widths_grid=grid, stages={"code": {"min_width": 0.6}}
        )


def test_numbers_of_numpy_are_those_of_python():
    changes = {"divisor": np.int64(2), "min_width": np.float64(0.5)}
    stage = Stage.of("code", {**changes, "widths_grid": np.array([0.5, 1.0])})
    said = {"min_width": 0.5, "divisor": 2, "widths_grid": [0.5, 1.0]}
    assert json.loads(json.dumps(stage.as_dict())) == said


def test_layers_that_have_their_place_get_no_stages():
    model = to_any_width(autoencoder(), divisor=1)
    AnyWidthModel(model.input, model.output)
    with pytest.raises(ValueError, match=r"already has other grades.* or stages"):
        AnyWidthModel(
            model.input, model.output, stages={"code": {"widths_grid": [0.25, 1.0]}}
        )


def test_of_layers_that_are_added_the_first_input_counts():
    def model(stages):
        inputs = keras.Input((6,))
        x = keras.layers.Dense(16, name="stem")(inputs)
        left = keras.layers.Dense(16, name="left")(x)
        right = keras.layers.Dense(16, name="right")(x)
        x = keras.layers.Add()([right, left])
        x = keras.layers.Dense(16, name="last")(x)
        plain = keras.Model(inputs, keras.layers.Dense(3)(x))
        return to_any_width(plain, divisor=1, stages=stages)

    few = {"widths_grid": [0.25, 1.0]}
    assert len(set(grades_of(model({"right": few}), "left"))) == 2
    assert len(set(grades_of(model({"left": few}), "left"))) > 2


def test_a_model_without_stages_says_so():
    plain = to_any_width(autoencoder())
    copy = AnyWidthModel.from_config(plain.get_config())
    assert copy.get_config()["stages"] == {}
