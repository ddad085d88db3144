"""MediaPipe, LiteRT and the page classify photos alike by files of two commands.

`awn train --data FOLDER`, then `awn export`: what the three say is what the trained
model says.
"""

import keras
import numpy as np
import pytest
from PIL import Image

from awn_keras import AnyWidthInterpreter, AnyWidthModel
from awn_keras.cli import main
from awn_keras.deploy import write_page
from tests.data.folders import photos
from tests.deploy.browser import (
    CORE,
    Page,
    chromium,
    needs_browser,
    needs_litertjs,
    served,
)
from tests.deploy.classifiers import softmax
from tests.deploy.mediapipe_client import answers_of, needs_mediapipe

WIDTHS = [0.25, 0.5, 1.0]
CLASSES = ["bird", "cat", "dog"]
SIZE = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What the two commands wrote, and photos that training did not see."""
    place = tmp_path_factory.mktemp("clients")
    photos(place / "photos", cat=12, dog=12, bird=12)
    train = (
        f"train --data {place}/photos --model lenet_3c1l --size {SIZE} --filters 8 "
        f"--epochs 2 --widths-grid 0.25,0.5,1 --output {place}/run"
    )
    assert main(train.split()) == 0
    export = f"export {place}/run/model.keras --widths 0.25,0.5,1 --output"
    assert main([*export.split(), f"{place}/mine.tflite"]) == 0
    assert main([*export.split(), f"{place}/files", "--separate"]) == 0
    # Of the input's size, as each client scales photos in a way of its own.
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3)).astype("uint8")
        Image.fromarray(pixels).save(place / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def expected(place):
    """Probabilities by the model, `[photo][width][class]`."""
    model = keras.saving.load_model(place / "run" / "model.keras")
    assert isinstance(model, AnyWidthModel)
    x = np.stack([np.asarray(Image.open(path)) for path in shots(place)])
    answers = [softmax(model.predict(x, width=w, verbose=0)) for w in WIDTHS]
    # All answers alike would be told alike by a client that looks at nothing.
    assert np.ptp(answers, axis=(0, 1)).max() > 0.01
    return np.stack(answers, axis=1)


def shots(place):
    return [place / f"{number}.png" for number in range(3)]


def check(answers, expected, atol):
    """Each class has its probability, and the first is the most likely one."""
    assert {label for label, _ in answers} == set(CLASSES)
    probabilities = dict(answers)
    scores = [probabilities[label] for label in CLASSES]
    np.testing.assert_allclose(scores, expected, atol=atol, rtol=0)
    high, low = np.sort(expected)[::-1][:2]
    if high - low > 2 * atol:
        assert answers[0][0] == CLASSES[int(np.argmax(expected))]


def test_litert(place, expected):
    for file in (place / "mine.tflite", place / "files"):
        interpreter = AnyWidthInterpreter(file)
        for photo, of_photo in zip(shots(place), expected, strict=True):
            for width, wanted in zip(WIDTHS, of_photo, strict=True):
                # The exporter's own tolerance.
                check(interpreter.top(photo, 3, width), wanted, 1e-4)


@needs_mediapipe
def test_mediapipe(place, expected):
    files = [
        path
        for width in WIDTHS
        for path in (place / "files").glob("*.tflite")
        if AnyWidthInterpreter(path).widths == (width,)
    ]
    assert len(files) == len(WIDTHS)
    for photo, of_photo in zip(shots(place), expected, strict=True):
        for answers, wanted in zip(answers_of(photo, *files), of_photo, strict=True):
            check(answers, wanted, 1e-4)


@needs_browser
@needs_litertjs
def test_the_page(place, expected):
    write_page(place / "mine.tflite", place / "site" / "page", litertjs=CORE)
    with served(place / "site") as address, chromium() as driver:
        page = Page(driver).open(f"{address}/page/")
        assert not page.problem
        for photo, of_photo in zip(shots(place), expected, strict=True):
            page.choose_photo(photo)
            for index, wanted in enumerate(of_photo):
                page.choose_width(index)
                answers = [(label, share / 100) for label, share in page.answers]
                check(answers, wanted, 6e-4)  # percents of one digit are shown
