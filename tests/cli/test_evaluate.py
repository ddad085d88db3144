import json

from awn_keras.cli import main


def test_evaluate(trained, tmp_path, capsys):
    code = main(
        f"evaluate {trained}/model.keras --dataset digits --widths 0.5,1 "
        f"--output {tmp_path}".split()
    )
    assert code == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["0.5000", "1.0000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("curve.csv", "curve.json", "curve.png")
    ]
    result = json.loads((trained / "result.json").read_text())
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert curve["accuracy"] == result["curves"][0]["accuracy"][1:]
