"""Files run on a machine with LiteRT, NumPy and Pillow, but without Keras."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from awn_keras import export_tflite
from tests.deploy.classifiers import NAMES, of_pixels, pixels

#: What `pip install "awn_keras[all]"` brings along, but for these three.
HIDDEN = (
    *("keras", "tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "scipy"),
    *("jax", "torch", "ipywidgets", "tf_keras", "pandas"),
)


def hide(packages):
    """Returns code that makes some packages impossible to import."""
    return f"""
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", hide(HIDDEN) + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runtime")
    Image.fromarray(pixels(1)[0]).save(folder / "photo.png")
    said = {"widths": [0.25, 1.0], "metadata": {"class_names": NAMES}}
    model = of_pixels()
    export_tflite(
        model,
        folder / "a.tflite",
        refine=(0.25, 1.0),
        layout="triangular",
        outputs="probabilities",
        **said,
    )
    export_tflite(model, folder / "each", single_file=False, inputs="uint8", **said)
    return folder


def test_files_are_run_without_keras(files):
    out = run(
        """
import json
from awn_keras import *
from PIL import Image

folder = sys.argv[1]
photo = f"{folder}/photo.png"
interpreter = AnyWidthInterpreter(f"{folder}/a.tflite", budget_ms=1000.0)
anytime = AnytimeInterpreter(f"{folder}/a.tflite")
first = anytime.run(Image.open(photo)).tolist()
print(json.dumps([
    interpreter.top(photo, width=1.0),
    AnyWidthInterpreter(f"{folder}/each").top(photo, width=1.0),
    interpreter.labels,
    [first, anytime.refine().tolist()],
    read_photo(photo, (2, 2, 3)).tolist(),
    sorted(name.partition(".")[0] for name in sys.modules),
]))
""",
        files,
    )
    answers, each, labels, (first, refined), small, modules = json.loads(out)
    assert [name for name, _ in answers] == [name for name, _ in each]
    assert labels == NAMES
    assert first != refined
    assert max(refined[0]) == pytest.approx(answers[0][1])
    assert len(small) == 2
    assert not {"keras", "tensorflow", "matplotlib", "sklearn"} & set(modules)


def test_a_report_decides_without_scikit_learn(files, tmp_path):
    out = run(
        """
import hashlib
from pathlib import Path
from awn_keras import AnyWidthInterpreter
from awn_keras.deploy.benchmark.report import Report, Row

path = Path(sys.argv[1]) / "a.tflite"
digest = hashlib.sha256(path.read_bytes()).hexdigest()
rows = [
    Row("cpu", w, f"width_{int(100 * w):03}", path.name, digest, 1, ms, ms, ms, ms)
    for w, ms in ((0.25, 1.0), (1.0, 4.0))
]
print(AnyWidthInterpreter(path, budget_ms=5.0, report=Report(rows)).width)
""",
        files,
    )
    assert out == "1.0\n"


def test_commands_that_run_files_need_no_keras(files, tmp_path):
    file, photo = files / "a.tflite", files / "photo.png"
    for command, shown in (
        (("predict", file, photo), NAMES[0]),
        (("benchmark", file, "--runs", 2, "--output", tmp_path / "r.json"), "cpu"),
        (("benchmark", file, "--dry"), "width_100"),
        (("pick", tmp_path / "r.json", "--budget-ms", 1000), "width_100"),
    ):
        out = run(
            "from awn_keras import cli\nsys.exit(cli.main(sys.argv[1:]))", *command
        )
        assert shown in out, command


def test_a_page_of_pictures_is_refused_before_anything_is_measured(files, tmp_path):
    code = "from awn_keras import cli\nprint(cli.main(sys.argv[1:]), file=sys.stdout)"
    page = tmp_path / "r.html"
    out = run(code, "benchmark", files / "a.tflite", "--html", page)
    assert out == "2\n"
    assert not list(tmp_path.iterdir())


def test_the_rest_says_what_to_install():
    out = run(
        """
import awn_keras
print(awn_keras.__all__)
for code in ("awn_keras.to_any_width", "from awn_keras import slim"):
    try:
        exec(code)
    except ImportError as error:
        print(error)
print(hasattr(awn_keras, "__wrapped__"))
"""
    )
    names, first, second, dunder = out.splitlines()
    assert names == "['AnyWidthInterpreter', 'AnytimeInterpreter', 'read_photo']"
    for name, line in (("to_any_width", first), ("slim", second)):
        assert line.startswith(
            f"`awn_keras.{name}` needs Keras, which is not installed"
        )
        assert '`pip install "awn_keras[tflite]"`' in line
    assert dunder == "False"


def test_with_keras_all_is_there_at_once():
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import awn_keras, keras, sys; print(all(hasattr(awn_keras, n) for n in "
            "awn_keras.__all__), 'awn_keras.deploy.export' in sys.modules, "
            "keras.saving.get_registered_object('awn_keras>AnyWidthModel'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True True <class 'awn_keras.model.AnyWidthModel'>\n"
