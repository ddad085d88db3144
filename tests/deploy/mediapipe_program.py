"""Classifies a photo with MediaPipe, in an environment without Keras.

The arguments are a PNG and model files. Prints JSON: for each file a list of [name,
score], the most likely category first.
"""

import json
import sys

import mediapipe
import numpy as np
from mediapipe.tasks import python
from mediapipe.tasks.python import vision
from PIL import Image

photo, *models = sys.argv[1:]
pixels = np.asarray(Image.open(photo).convert("RGB"))
image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
answers = []
for model in models:
    options = vision.ImageClassifierOptions(
        base_options=python.BaseOptions(model_asset_path=model), max_results=-1
    )
    with vision.ImageClassifier.create_from_options(options) as classifier:
        (head,) = classifier.classify(image).classifications
    answers.append([[each.category_name, each.score] for each in head.categories])
json.dump(answers, sys.stdout)
