import keras

from awn_keras import summarize
from awn_keras.cli import main


def test_summary(trained, capsys):
    assert main(f"summary {trained}/model.keras --widths 0.5,1".split()) == 0
    out = capsys.readouterr().out
    model = keras.saving.load_model(trained / "model.keras")
    assert out == f"{summarize(model, [0.5, 1.0])}\n"
    assert main(f"summary {trained}/model.keras".split()) == 0
    assert capsys.readouterr().out == f"{summarize(model)}\n"


def test_summary_of_networks(trained, capsys):
    assert main(f"summary {trained}/model.keras --networks".split()) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["0.250000", "0.500000", "1.000000"]
    assert main(f"summary {trained}/model.keras --networks --widths 0.5".split()) == 0
    assert capsys.readouterr().out.splitlines()[1:] == rows[1:2]


def test_summary_with_milliseconds(trained, capsys):
    arguments = f"summary {trained}/model.keras --networks --time"
    assert main(arguments.split()) == 0
    announced, header, *rows = capsys.readouterr().out.splitlines()
    assert " 3 widths" in announced
    assert header.endswith(" ms")
    assert [row.split()[0] for row in rows] == ["0.250000", "0.500000", "1.000000"]
    assert main([*arguments.split(), "--widths", "0.5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
