import zipfile

import pytest

from awn_keras import lenet_3c1l, slim
from awn_keras.cli import main
from tests.conftest import classification, small_conv


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cli") / "run"
    code = main(
        f"train --dataset digits --filters 4 --epochs 2 --widths-grid 0.25,0.5,1 "
        f"--output {directory}".split()
    )
    assert code == 0
    return directory


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "file").write_text("no folder")
    (folder / "text.keras").write_text("no zip file")
    (folder / "model.h5").write_text("another format")
    model = small_conv()
    slim(model, 1.0).save(folder / "plain.keras")
    classification(model).save(folder / "any.keras")
    three = lenet_3c1l((8, 8, 1), 3, filters=4, padding="same")
    classification(three).save(folder / "three.keras")
    (folder / "foreign").mkdir()
    model.save(folder / "foreign" / "model.keras")
    # A whole archive without its weights. (Which bytes of a file matter is up to its
    # reader: zeros written somewhere may go unnoticed.)
    with (
        zipfile.ZipFile(folder / "any.keras") as whole,
        zipfile.ZipFile(folder / "damaged.keras", "w") as damaged,
    ):
        for name in ("config.json", "metadata.json"):
            damaged.writestr(name, whole.read(name))
    return folder
