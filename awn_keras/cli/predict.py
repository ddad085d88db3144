"""`awn predict`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from awn_keras.cli.arguments import Parser
from awn_keras.cli.images import class_names_beside
from awn_keras.cli.output import describe_os_error, write_line
from awn_keras.errors import ArgumentError

HELP = "Predict the classes of photos."

#: Names with probabilities, and the milliseconds of the run.
Answer = tuple[list[tuple[str, float]], float]


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "model",
        type=Path,
        help="a .tflite file, a folder of `awn export --separate`, or a .keras file",
    )
    parser.add_argument("photos", type=Path, nargs="+", metavar="photo")
    add = parser.add_argument
    add("--width", type=float, help="width to run (default: the widest)")
    add("--top", type=int, default=5, help="number of classes to name (default: 5)")
    add(
        "--threads", type=int, default=1, help="threads for a .tflite file (default: 1)"
    )
    parser.renamed.update(k="top", num_threads="threads", path="model")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.photos import PhotoError

    answer = (_of_model if args.model.suffix == ".keras" else _of_file)(args)
    failures = []
    for photo in args.photos:
        try:
            named, milliseconds = answer(photo)
        except PhotoError as error:
            failures.append(str(error))
            continue
        except OSError as error:
            failures.append(describe_os_error(error))
            continue
        write_line(f"{photo}  ({milliseconds:.2f} ms)")
        for name, probability in named:
            write_line(f"{100 * probability:8.1f} %  {name}")
    if failures:  # after the results of all other photos
        raise PhotoError("; ".join(failures))


def _of_file(args: argparse.Namespace) -> Callable[[Path], Answer]:
    from awn_keras.deploy.interpreter import AnyWidthInterpreter

    interpreter = AnyWidthInterpreter(args.model, num_threads=args.threads)
    warm = False

    def answer(photo: Path) -> Answer:
        nonlocal warm
        named = interpreter.top(photo, args.top, args.width)
        if not warm:  # the first run is slower, because it prepares the width
            named = interpreter.top(photo, args.top, args.width)
            warm = True
        return named, interpreter.last_ms or 0.0

    return answer


def _of_model(args: argparse.Namespace) -> Callable[[Path], Answer]:
    import numpy as np

    from awn_keras.deploy.answers import ranked
    from awn_keras.deploy.interface import gives_logits, image_inputs, takes_pixels
    from awn_keras.loading import load_keras_model
    from awn_keras.multi_width import MultiWidthModel
    from awn_keras.photos import read_photo

    model = load_keras_model(args.model)
    labels = class_names_beside(args.model)
    images = image_inputs(model)
    if len(model.inputs) != 1 or not images or not takes_pixels(model):
        raise ArgumentError(
            f"{args.model} must take one image of pixels, and begin with a `Rescaling` "
            "or `Normalization` layer for pixels. Otherwise export the model in Python "
            "with `export_tflite(..., "
            f"metadata={{'normalization': {{'mean': ..., 'std': ...}}}})`, and give "
            "the .tflite file."
        )
    if args.width is not None and not isinstance(model, MultiWidthModel):
        raise ArgumentError(
            f"`width` works only for any-width models: {args.model} has a single "
            "width. Leave it out."
        )
    at = {} if args.width is None else {"width": args.width}
    kind = "logits" if gives_logits(model) else None
    warm = False

    def answer(photo: Path) -> Answer:
        nonlocal warm
        x = read_photo(photo, tuple(images[0].shape[1:]))[None].astype("float32")
        if not warm:
            model.predict(x, verbose=0, **at)
            warm = True
        start = time.perf_counter()
        scores: Any = np.asarray(model.predict(x, verbose=0, **at))
        milliseconds = 1000 * (time.perf_counter() - start)
        if scores.ndim != 2:
            raise ArgumentError(
                f"{args.model} must give scores, (batch, classes). Received: outputs "
                f"of shape {scores.shape}"
            )
        return ranked(scores[0], labels, args.top, kind), milliseconds

    return answer
