import json

import pytest

from awn_keras.runs.recipe import Recipe


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"architecture": "resnet"}, "`architecture` must be one of"),
        ({"sampler": "random"}, "`sampler` must be one of"),
        ({"system": "ofa"}, "`system` must be one of"),
        ({"schedule": "linear"}, "`schedule` must be one of"),
        ({"precision": "float16"}, "`precision` must be one of.*'float16'"),
        ({"scale": 0.0}, r"`scale` must be in \(0, 1\]"),
        ({"system": "s_net"}, "`sampler` must be 'fixed'"),
        (
            {"system": "us_net", "widths_grid": (0.5, 1.0)},
            "`widths_grid` has no effect on system='us_net'",
        ),
        (
            {"system": "s_net", "sampler": "fixed", "min_width": 0.5},
            "`min_width` has no effect on system='s_net'",
        ),
        ({"system": "plain", "distillation": 0.5}, "has no effect on system='plain'"),
        ({"calibrations": (3,)}, "`calibrations` has no effect on system='awn'"),
        ({"lowest_width": 0.1}, "`lowest_width` must be at least"),
        ({"bn_momentum": 1.0}, r"`bn_momentum` must be in \[0, 1\)"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0"),
        ({"width_multiplier": float("inf")}, "`width_multiplier` must be above 0"),
        ({"momentum": float("nan")}, r"`momentum` must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, r"`weight_decay` must be in \[0, inf\)"),
        ({"min_width": 1.5}, r"`min_width` must be in \(0, 1\]"),
        (
            {"architecture": "mobilenet_v2", "filters": 16},
            "`filters` has no effect on architecture='mobilenet_v2': leave it out",
        ),
    ],
)
def test_bad_recipes_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Recipe(**arguments)


def test_a_recipe_in_jsons_types():
    kept = Recipe("digits", widths_grid=(0.5, 1.0)).as_json()
    assert kept["dataset"] == "digits"
    assert kept["widths_grid"] == [0.5, 1.0]
    assert kept == json.loads(json.dumps(kept))
