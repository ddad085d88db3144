import re

import keras
import pytest

from awn_keras import TriConv2D
from awn_keras.cli import main


@pytest.fixture
def plain(tmp_path):
    """A saved plain model."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="inner")(x)
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    path = tmp_path / "mine.keras"
    model = keras.Model(inputs, outputs, name="mine")
    model.compile("adam", "mse")
    model.save(path)
    return path


def test_convert(plain, tmp_path, capsys):
    assert main(f"convert {plain} --min-width 0.5 --divisor 2".split()) == 0
    path = tmp_path / "mine_any_width.keras"
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{path}: 3 networks. The narrowest and the widest:"
    assert [line.split()[0] for line in out[2:4]] == ["0.500000", "1.000000"]
    model = keras.saving.load_model(path)
    assert (model.min_width, model.divisor) == (0.5, 2)
    assert isinstance(model.get_layer("inner"), TriConv2D)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("mine.keras", "mine_any_width.keras")
    ]
    # What it wrote is what the other commands read.
    assert main(f"summary {path}".split()) == 0
    assert "inner" in capsys.readouterr().out


def test_convert_does_not_overwrite_what_may_have_been_trained(plain, tmp_path, capsys):
    path = tmp_path / "mine_any_width.keras"
    path.write_text("trained")
    assert main(f"convert {plain} --divisor 2".split()) == 2
    assert "mine_any_width.keras already exists" in capsys.readouterr().err
    assert path.read_text() == "trained"


def test_convert_with_all_settings(plain, tmp_path):
    output = tmp_path / "new" / "wide.keras"
    arguments = f"convert {plain} --output {output} --divisor 1 --width-multiplier 1.5"
    stages = '{"inner": {"divisor": 4}}'
    more = ["--widths-grid", "0.5,1", "--stages", stages]
    assert main([*arguments.split(), *more]) == 0
    model = keras.saving.load_model(output)
    assert model.distinct_widths == (0.5, 1.0)
    assert model.get_config()["stages"] == {"inner": {"divisor": 4}}
    assert model.get_layer("inner").filters == 12


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ("--order importance", "'mine' is untrained"),
        ("--order best", "`--order` must be one of"),
        ("--width-multiplier 0", "`--width-multiplier` must be above 0"),
        ("--min-width 2", "`--min-width` must be in"),
        ("--output model.tflite", "must be a .keras file"),
        ("--staircase steep", "`--staircase` must be one of"),
        (
            '--stages {"other":{"divisor":4}}',
            "Each pattern of `--stages` must match",
        ),
    ],
)
def test_bad_conversions_are_one_line_and_leave_nothing(
    plain, tmp_path, arguments, match, capsys
):
    assert main(f"convert {plain} {arguments}".split()) == 2
    captured = capsys.readouterr()
    assert re.match(rf"awn convert: error: .*{match}.*\n\Z", captured.err)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.keras"]


def test_what_cannot_be_converted_is_listed(tmp_path, capsys):
    inputs = keras.Input((6,))
    x = keras.layers.UnitNormalization(name="norm")(keras.layers.Dense(8)(inputs))
    x = keras.layers.Softmax(name="soft")(keras.layers.Dense(8)(x))
    path = tmp_path / "other.keras"
    keras.Model(inputs, keras.layers.Dense(3)(x), name="other").save(path)
    assert main(f"convert {path}".split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == ("awn convert: error: Model 'other' cannot become any-width:")
    assert "'norm'" in lines[1]
    assert "'soft'" in lines[2]
    assert len(lines) == 3
