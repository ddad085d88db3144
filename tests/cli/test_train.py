import json
from dataclasses import replace
from pathlib import Path

import pytest

from awn_keras.cli import main
from awn_keras.errors import AwnError
from awn_keras.runs.presets import (
    paper_recipe,
    recommended_recipe,
    without_triangle,
)
from awn_keras.runs.recipe import Recipe


def test_train_takes_the_papers_other_systems(tmp_path, capsys):
    arguments = "--dataset digits --filters 2 --epochs 1"
    code = main(f"train {arguments} --system us_net --output {tmp_path}".split())
    assert code == 0
    out = capsys.readouterr().out
    for count in (4, 10, 20):
        assert f"{count} widths calibrated:" in out
    assert main(f"train {arguments} --system ofa --output {tmp_path}".split()) == 2
    assert "`--system` must be one of" in capsys.readouterr().err


def test_train_prints_the_curve_and_keeps_the_run(trained, capsys):
    result = json.loads((trained / "result.json").read_text())
    assert result["recipe"]["filters"] == 4
    assert result["recipe"]["widths_grid"] == [0.25, 0.5, 1.0]
    assert len(result["history"]) == 2
    code = main(
        f"train --dataset digits --filters 4 --epochs 2 --widths-grid 0.25,0.5,1 "
        f"--output {trained} --resume".split()
    )
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-5:-1]] == [
        *("width", "0.2500", "0.5000", "1.0000")
    ]
    assert lines[-1].startswith(f"AUC {100 * result['auc']:.2f} %")


TRAINED = "mnist --model efficientnet_lite0 --weights imagenet"


def trained_recipe():
    return recommended_recipe("mnist", "efficientnet_lite0", weights="imagenet")


@pytest.mark.parametrize(
    ("options", "recipe", "directory"),
    [
        ("mnist", recommended_recipe("mnist"), "mnist_lenet_3c1l"),
        (
            "mnist --seed 3",
            replace(recommended_recipe("mnist"), seed=3),
            "mnist_lenet_3c1l",
        ),
        (
            "mnist --schedule steps",
            replace(recommended_recipe("mnist"), schedule="steps"),
            "mnist_lenet_3c1l",
        ),
        ("cifar10", recommended_recipe("cifar10"), "cifar10_lenet_3c1l"),
        (
            "mnist --model mobilenet_v2",
            recommended_recipe("mnist", "mobilenet_v2"),
            "mnist_mobilenet_v2",
        ),
        ("mnist --system awn_rs", paper_recipe("mnist"), "mnist_lenet_3c1l_awn_rs"),
        (
            "mnist --system us_net",
            paper_recipe("mnist", system="us_net"),
            "mnist_lenet_3c1l_us_net",
        ),
        (
            "cifar10 --system awn_rs --model mobilenet_v2 --min-width 0.5 --epochs 7",
            replace(paper_recipe("cifar10", "mobilenet_v2"), min_width=0.5, epochs=7),
            "cifar10_mobilenet_v2_awn_rs",
        ),
        (TRAINED, trained_recipe(), "mnist_efficientnet_lite0"),
        (
            f"{TRAINED} --min-width 0.7",
            trained_recipe(),
            "mnist_efficientnet_lite0",
        ),
        (
            f"{TRAINED} --min-width 0.25",
            replace(
                trained_recipe(),
                min_width=0.25,
                widths_grid=None,
                widths=Recipe.widths,
            ),
            "mnist_efficientnet_lite0",
        ),
        (
            f"{TRAINED} --widths-grid 0.25,1",
            replace(trained_recipe(), min_width=0.25, widths_grid=(0.25, 1.0)),
            "mnist_efficientnet_lite0",
        ),
        (
            f"{TRAINED} --grow 1.5",
            replace(without_triangle(trained_recipe()), grow=1.5),
            "mnist_efficientnet_lite0",
        ),
    ],
)
def test_train_starts_from_the_recommended_or_the_papers_recipe(
    options, recipe, directory, monkeypatch
):
    received = []

    def stop(*args, **kwargs):
        received.append(args)
        raise AwnError("stop here")

    monkeypatch.setattr("awn_keras.runs.run.run", stop)
    assert main(["train", "--dataset", *options.split()]) == 2
    assert received == [(recipe, Path("runs", directory))]
