"""Folders of small photos, as people have them."""

import io

import numpy as np
from PIL import Image


def image(seed=0, size=(12, 10), colour=None):
    """A picture of noise around a colour."""
    rng = np.random.default_rng(seed)
    centre = rng.integers(60, 190, 3) if colour is None else np.array(colour)
    noise = rng.integers(-40, 40, (size[1], size[0], 3))
    return Image.fromarray(np.clip(centre + noise, 0, 255).astype("uint8"))


def jpeg(**kwargs):
    """Bytes of a JPEG."""
    file = io.BytesIO()
    image(**kwargs).save(file, "JPEG", quality=95)
    return file.getvalue()


def photo(path, **kwargs):
    """Writes a photo, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image(**kwargs).save(path)
    return path


def photos(root, **counts):
    """Writes some photos of each class: red cats, green dogs, blue birds."""
    colours = {"cat": (180, 60, 60), "dog": (60, 180, 60), "bird": (60, 60, 180)}
    for name, count in counts.items():
        for number in range(count):
            colour = colours.get(name)
            photo(root / name / f"{number}.png", seed=number, colour=colour)
    return root
