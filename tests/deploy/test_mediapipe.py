"""MediaPipe classifies photos with exported files."""

import numpy as np
import pytest
from PIL import Image

from awn_keras import export_tflite
from tests.deploy.classifiers import NAMES, classifier, of_pixels, pixels, softmax
from tests.deploy.mediapipe_client import answers_of, classified, needs_mediapipe

WIDTHS = [0.25, 0.5, 1.0]

pytestmark = needs_mediapipe

#: MediaPipe normalizes all channels alike; what a file does inside is its own.
ALIKE = {"mean": [120.0, 120.0, 120.0], "std": 60.0}
EACH = {"mean": [120.0, 110.0, 100.0], "std": [58.0, 57.0, 60.0]}


@pytest.mark.parametrize(
    ("make", "metadata", "options"),
    [
        (of_pixels, {}, {}),
        (of_pixels, {}, {"inputs": "uint8"}),
        (classifier, {"normalization": ALIKE}, {}),
        (classifier, {"normalization": EACH}, {"inputs": "uint8"}),
        (of_pixels, {}, {"precision": "int8"}),
        (of_pixels, {}, {"precision": "int8", "inputs": "uint8"}),
    ],
    ids=["floats", "uint8", "mean and std", "folded", "int8", "int8 of uint8"],
)
def test_categories_and_scores_are_the_models(tmp_path, make, metadata, options):
    model = make()
    if "precision" in options:
        options = {**options, "representative": pixels(60)}
    records = export_tflite(
        model,
        tmp_path / "files",
        widths=WIDTHS,
        single_file=False,
        outputs="probabilities",
        metadata={"class_names": NAMES, **metadata},
        **options,
    )
    # Of the input's size, as MediaPipe scales photos in a way of its own.
    photo = pixels(1, seed=3)
    Image.fromarray(photo[0]).save(tmp_path / "photo.png")
    files = [tmp_path / "files" / record.file for record in records]
    all_answers = answers_of(tmp_path / "photo.png", *files)
    x = photo.astype("float32")
    if metadata:
        said = metadata["normalization"]
        x = (x - np.float32(said["mean"])) / np.float32(said["std"])
    for record, answers in zip(records, all_answers, strict=True):
        model.width = record.width
        (wanted,) = softmax(model(x))
        # What int8 costs is the exporter's to say, on other photos; a step of the
        # output may come to it. MediaPipe must add nothing else.
        int8 = "precision" in options
        atol = record.largest_error + 1 / 128 if int8 else 1e-4
        assert [score for _, score in answers] == sorted(
            (score for _, score in answers), reverse=True
        )
        got = dict(answers)
        assert set(got) == set(NAMES)
        np.testing.assert_allclose([got[n] for n in NAMES], wanted, atol=atol)


@pytest.mark.parametrize(
    ("make", "widths", "metadata", "says"),
    [
        (of_pixels, WIDTHS, {}, "single subgraph"),
        (classifier, [1.0], {"normalization": EACH}, "Per-channel image normalization"),
        (classifier, [1.0], {}, "NormalizationOptions metadata"),
    ],
)
def test_what_it_refuses_is_what_the_page_says(tmp_path, make, widths, metadata, says):
    path = tmp_path / "a.tflite"
    export_tflite(make(), path, widths=widths, metadata=metadata)
    Image.fromarray(pixels(1)[0]).save(tmp_path / "photo.png")
    done = classified(tmp_path / "photo.png", path)
    assert done.returncode != 0
    assert says in done.stderr
