"""Architectures of the zoo: what is cheap enough for each run of the tests.

`python -m benchmarks.zoo` checks more, and writes results/zoo.json.
"""

import json

import numpy as np
import pytest

from awn_keras import ConversionError
from awn_keras.testing import check_width_rule
from benchmarks import zoo
from benchmarks.zoo import (
    OUTPUT,
    converted,
    difference,
    file_differences,
    gradient_difference,
    noise,
    samples_of,
    slim_difference,
    some_widths,
)
from tests.conftest import eagerly, on_tensorflow
from tests.zoo.architectures import ARCHITECTURES, SMALL
from tests.zoo.attention import AddPositions
from tests.zoo.collections import COLLECTIONS, PACKAGES, missing
from tests.zoo.refused import REFUSED

#: Float32 sums in another order, through as many layers as these networks have.
TOLERANCE = 1e-4
#: Float32 gradients through normalization over few pixels of 4 samples. Those of
#: GhostNet and MobileNetV3Small are above 1e-4; GhostNet's differ by 1e-13 in float64.
GRADIENT_TOLERANCE = 2e-4
#: Of the error of 8 bits, relative to the deviation of outputs, in random networks: a
#: fault of scales gives 1 and more.
INT8_TOLERANCE = 0.5
#: Deep networks of random factors, for which four steps of this size are too large.
RISING = {"keras.applications.EfficientNetV2B0"}


def check_package(name):
    if missing(name):
        pytest.skip(f"needs {missing(name)}")


#: What the code of KerasHub and kimm warns of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*an input with a mask attached:UserWarning"),
]


@pytest.mark.slow
@on_tensorflow
@eagerly
@pytest.mark.parametrize(
    "name", [name for name in {**SMALL, **COLLECTIONS} if name not in REFUSED]
)
def test_an_architecture_converts_slims_exactly_and_exports(name):
    check_package(name)
    model = converted(name)
    x = samples_of(model)
    widths = some_widths(model, 3)
    assert len(widths) == 3
    for width in widths:
        assert slim_difference(model, width, x) < TOLERANCE
    (of_file,) = file_differences(model, widths[:1], x)
    assert of_file < TOLERANCE


@pytest.mark.parametrize(("name", "reason"), REFUSED.items(), ids=REFUSED)
def test_a_refusal_says_why(name, reason):
    check_package(name)
    with pytest.raises(ConversionError, match=reason):
        converted(name)


@eagerly
def test_positions_are_learned_for_each_channel():
    check_width_rule(AddPositions(), (3, 4, 16))


def test_a_collection_that_is_not_installed_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tests.zoo.collections.find_spec", lambda package: None)
    assert missing("U-Net") is None
    assert {missing(name) for name in COLLECTIONS} == set(PACKAGES.values())
    measured = []
    monkeypatch.setattr(zoo, "measure", lambda name: measured.append(name) or {})
    rows = {"rows": [{"name": "kimm.LCNet"}]}
    output = tmp_path / "zoo.json"
    output.write_text(json.dumps(rows))
    monkeypatch.setattr(zoo, "ARCHITECTURES", {"U-Net": None, **COLLECTIONS})
    zoo.main(["--output", str(output)])
    assert measured == ["U-Net"]
    assert {"name": "kimm.LCNet"} in json.loads(output.read_text())["rows"]
    with pytest.raises(SystemExit):
        zoo.main(["--names", "kimm.LCNet", "--output", str(output)])
    assert "kimm.LCNet needs a package: pip install kimm==" in capsys.readouterr().err


# -------------------------------------------------------------------- what is recorded


@pytest.fixture(scope="module")
def recorded():
    rows = json.loads(OUTPUT.read_text())["rows"]
    return {row["name"]: row for row in rows}


def test_what_is_recorded_keeps_its_promises(recorded):
    assert set(recorded) <= set(ARCHITECTURES)
    measured = [row for row in recorded.values() if row["converts"]]
    assert len(measured) >= 40
    for row in measured:
        name = row["name"]
        assert row["slim"] < TOLERANCE, name
        assert row["gradients"] < GRADIENT_TOLERANCE, name
        assert row["tflite"] < TOLERANCE, name
        assert row["int8"] is None or row["int8"] < INT8_TOLERANCE, name
        assert np.isfinite(row["losses"]).all(), name
        assert (row["losses"][1] < row["losses"][0]) == (name not in RISING), name
        assert row["macs"][0] < row["macs"][1], name


def test_exactly_the_refused_ones_are_recorded_as_such(recorded):
    refused = {row["name"] for row in recorded.values() if not row["converts"]}
    assert refused == set(REFUSED)


# --------------------------------------------------------------------- what it measures


def test_differences_are_relative_to_each_output():
    wanted = [np.array([1.0, -100.0]), np.array([0.01])]
    got = [np.array([1.0, -101.0]), np.array([0.011])]
    assert difference(got, wanted) == pytest.approx(0.1)
    assert noise([np.array([0.0, 3.0])], [np.array([0.0, 2.0])]) == pytest.approx(
        np.sqrt(0.5)
    )


@eagerly
def test_gradients_of_an_embedding_are_compared():
    model = converted("DAN")
    assert gradient_difference(model, samples_of(model)) < TOLERANCE


@eagerly
def test_a_wrong_gradient_is_noticed(monkeypatch):
    model = converted("DeepSets")
    x = samples_of(model)
    before = model.get_weights()
    assert gradient_difference(model, x) < TOLERANCE
    for got, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, wanted)
    # The loop at half of the loss of each width.
    import benchmarks.loop as loop

    factors = loop.loss_factors
    monkeypatch.setattr(
        loop, "loss_factors", lambda *args: [f / 2 for f in factors(*args)]
    )
    assert gradient_difference(model, x) == pytest.approx(1.0, rel=1e-3)
