"""Draws bad arguments for each command, based on the options of its parser."""

import argparse

from awn_keras.cli import build_parser

#: Correct arguments of each command, to which bad ones are added.
USUAL = {
    "demo": "--output new",
    "train": "--dataset digits --filters 4 --epochs 1 --output new",
    "reproduce": "table2 --show --results results --work runs",
    "convert": "plain.keras --output new.keras --divisor 2",
    "evaluate": "model.keras --data photos --output new",
    "summary": "model.keras",
    "export": "model.keras --output new.tflite --widths 0.5,1",
    "verify": "net.tflite --against model.keras",
    "predict": "net.tflite photo.png",
    "web": "net.tflite --output page",
    "benchmark": "net.tflite --output new.json",
    "pick": "report.json --budget-ms 3",
}
#: Options to leave out: `--help` ends at once, `--download` needs the network.
_LEFT_OUT = {"help", "download"}
_TEXTS = [
    *("", " ", "x", "é\U0001f600", "\udcff", "-", "--", "-1", "None", "a" * 5000),
    *("a\nb", "%s{0}", "$(x)", "../..", "*", "[", "'", ",", ";", "=", "x=1;y=2"),
]
_NUMBERS = [
    *("0", "-1", "1", "2", "7", "0.5", "1.5", "-0.0", "1e-320", "1e308", "-1e308"),
    *("nan", "inf", "-inf", "1e999", "99999999999999999999", "4294967296", "1_0", "٣"),
    *("0x10", "1,5"),
]
_PATHS = [
    *("missing", "missing/file", "photo.png", "photos", "run", ".", "/", "..", "~"),
    *("model.keras", "net.tflite", "report.json", "pixels.npy", "net.json", "empty"),
    *("photo.png/inside", "/dev/null", "/dev/full", "/proc/self/mem", "/proc/x"),
    *("loop", "nowhere", "a" * 300, "é\U0001f600.keras", "é.tflite", "a b;c.keras"),
    *("new.KERAS", "new", "x.html", "/sys/x.json", "\udcff.tflite", "new\nline"),
]
_LISTS = [
    *("0.5,1", "1,0.5", "0.5,0.5", "0,1", "2", "0.5,", ",", "0.25,nan", "1,1,1,1"),
    *("1e-9", "0.001,1", ",".join(["0.5"] * 500), "8,8,3", "0,0,0", "-1,4,4", "12,16"),
    *("12,16,3", "100000,100000,3", "9" * 20, "image=1;image=2", "=", "a=4,4"),
    *("{}", "[]", "null", '{"x": 1}', '{"*": {}}', '{"*": {"divisor": 0}}'),
    *('{"*": {"min_width": 2}}', '{"*": {"divisor": "8"}}', '{"[": {"divisor": 8}}'),
    *('{"": null}', "[" * 10_000, "balanced", "cpu", "gpu", "cpu,cpu", "cpu,x"),
]
#: Words that are valid values of some option.
_WORDS = [
    *("digits", "mnist", "cifar10", "lenet_3c1l", "mobilenet_v2", "resnet50", "keras"),
    *("int8", "float16", "uint8", "logits", "probabilities", "dense", "triangular"),
    *("paper", "nested", "sandwich", "all", "uniform", "fixed", "sum", "mean", "steps"),
    *("awn", "plain", "us_net", "shared_bn", "importance", "reading", "median", "p95"),
    *("table1", "figure2", "figure4", "individual", "improvements", "mirrored"),
    *("multiworker", "data_parallel", "mixed_bfloat16", "imagenet", "none", "a@b", "a"),
]


def bad_arguments(command, rng):
    """Draws a command with up to three bad, missing or additional arguments.

    Args:
        command: Name of the command.
        rng: A `random.Random`.

    Returns:
        All words, beginning with the command.
    """
    words = USUAL[command].split()
    actions = [action for action in _actions(command) if action.dest not in _LEFT_OUT]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.choice(["option", "option", "option", "option", "word", "gone"])
        if kind == "option":
            words += _option(rng.choice(actions), rng)
        elif words and kind == "gone":
            del words[rng.randrange(len(words))]
        elif words:
            words[rng.randrange(len(words))] = rng.choice([*_TEXTS, *_PATHS])
    return [command, *words]


def _actions(command):
    subparsers = next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return subparsers.choices[command]._actions


def _option(action, rng):
    name = [rng.choice(action.option_strings)] if action.option_strings else []
    if action.nargs == 0:
        return name
    value = rng.choice(_values(action, rng))
    # Only in one word, as `--name=value`, may a value begin with a dash.
    return [f"{name[0]}={value}"] if name and rng.random() < 0.5 else [*name, value]


def _values(action, rng):
    if rng.random() < 0.1:
        return _TEXTS
    kind = getattr(action.type, "__name__", None)
    if kind in ("int", "float"):
        return _NUMBERS
    if kind == "Path":
        return _PATHS
    if kind is None:
        return [*(action.choices or ()), *_WORDS, *_TEXTS]
    return [*_LISTS, *_NUMBERS]
