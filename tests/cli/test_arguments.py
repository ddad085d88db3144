import argparse

import pytest

from awn_keras.cli import build_parser
from awn_keras.cli.arguments import (
    parse_integers,
    parse_shape,
    parse_stages,
    parse_widths,
    parse_words,
)


@pytest.mark.parametrize(
    ("command", "argument", "value", "typed"),
    [
        ("export", "precision", None, "--precision"),
        ("export", "precision", "'int8'", "--precision int8"),
        ("export", "single_file", "True", "--single-file"),
        ("export", "single_file", "False", "--separate"),
        ("export", "path", None, "--output"),
        ("export", "input_shape", "(128, 128, 1)", "--input-shape 128,128,1"),
        ("export", "name", None, "--dataset"),
        ("export", "Identity", None, None),
        ("verify", "path", None, None),
        ("verify", "file", None, None),  # it is no option
        ("pick", "file", None, "--file"),
        ("train", "system", "us_net", "--system us_net"),
        ("train", "architecture", None, "--model"),
        ("reproduce", "system", None, None),
    ],
)
def test_a_parser_knows_what_is_typed_for_an_argument(command, argument, value, typed):
    needed = {"export": "m", "verify": "f --against m", "pick": "r", "reproduce": "x"}
    arguments = needed.get(command, "--dataset digits").split()
    parser = build_parser().parse_args([command, *arguments]).parser
    assert parser.option(argument, value) == typed


def test_wrong_arguments_of_several_lines_are_repeated_in_one(capsys):
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["summary", "model.keras", "new\nline"])
    error = capsys.readouterr().err
    assert error.startswith("awn: error: unrecognized arguments: new line (see ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("option", ["--target", "--file"])
def test_two_dashes_are_no_value(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(["pick", "report.json", f"{option}=--"])
    error = capsys.readouterr().err
    assert error.startswith(f"awn pick: error: argument {option}: expected one argume")


def test_an_option_that_may_be_repeated_takes_no_two_dashes_either(capsys):
    words = ["benchmark", "net.tflite", "--serial=--"]
    with pytest.raises(SystemExit, match="2"):
        build_parser().parse_args(words)
    assert "--serial: expected one argument" in capsys.readouterr().err
    assert build_parser().parse_args(words[:2]).serial == []


def test_lists_are_separated_by_commas():
    assert parse_widths("0.25,1") == (0.25, 1.0)
    assert parse_integers("1,2") == (1, 2)
    assert parse_words("cpu,gpu") == ("cpu", "gpu")
    for parse, text in ((parse_widths, "0.5,2"), (parse_integers, "1,x")):
        with pytest.raises(argparse.ArgumentTypeError, match="separated by commas"):
            parse(text)


def test_stages_are_an_object_of_json():
    assert parse_stages('{"a": {"divisor": 4}}') == {"a": {"divisor": 4}}
    for text in ("a=4", "[4]"):
        with pytest.raises(argparse.ArgumentTypeError, match="a JSON object"):
            parse_stages(text)
    with pytest.raises(argparse.ArgumentTypeError, match="may occur only once"):
        parse_stages('{"a": {"divisor": 4}, "a": {"divisor": 8}}')


def test_shapes_are_those_of_one_input_or_of_several_by_name():
    assert parse_shape("128,128,1") == (128, 128, 1)
    assert parse_shape("image=96,96,3; age=1") == {"image": (96, 96, 3), "age": (1,)}
    with pytest.raises(argparse.ArgumentTypeError, match="integers, separated"):
        parse_shape("96x96")
