"""Checks the content of JSON files, with errors that name the field and the rule.

A check takes a value and its place in the file, and raises `MisfitError`. `check_fits`
turns the error into a message for users. Fields that a schema does not know are
ignored, because later versions may write more fields. Other changes raise the version
of the schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from awn_keras.errors import ArgumentError, AwnError

#: Function of a value and its place that raises a `MisfitError` if the value does not
#: fit.
Check = Callable[[Any, str], None]

try:
    #: Version of the package.
    __version__ = version("awn_keras")
except PackageNotFoundError:  # running from a source tree
    __version__ = "0+unknown"

#: Version of the schema of each kind of file: manifests of exports, the config of
#: models in `.keras` files, reports of `awn benchmark`, and files of training runs.
#: Files hold it as `schema`. The version rises if a field is removed or changes its
#: meaning. New fields do not raise it.
SCHEMAS = {"manifest": 1, "model": 1, "report": 1, "run": 1}


class MisfitError(AwnError, ValueError):
    """A value does not fit its field.

    Args:
        where: The field, such as `rows[2].median_ms`; empty for the whole file.
        rule: The rule for the field.
        value: The value in the file.
    """

    def __init__(self, where: str, rule: str, value: Any) -> None:
        super().__init__(where, rule, value)
        self.where, self.rule, self.value = where, rule, value

    def __str__(self) -> str:
        text = repr(self.value)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        # No backticks, because in errors of awn_keras they mark arguments.
        return f"'{self.where or 'the content'}' must be {self.rule}, but is {shown}"


class MissingError(MisfitError):
    """A field is missing."""

    def __str__(self) -> str:
        return f"'{self.where}' is missing"


class NewerError(AwnError, ValueError):
    """A file has a later schema than this version of the package can read.

    Args:
        name: Name of the file.
        schema: Version of the file's schema.
        newest: Latest version that this package can read.
    """

    def __init__(self, name: str, schema: int, newest: int) -> None:
        super().__init__(name, schema, newest)
        self.name, self.schema, self.newest = name, schema, newest

    def __str__(self) -> str:
        return (
            f"'{self.name}' was written by a later awn_keras: its schema has version "
            f"{self.schema}, but awn_keras {__version__} reads schemas up to version "
            f"{self.newest}. Update awn_keras: `git pull` in its checkout, then "
            "`pip install .` there."
        )


def check_fits(value: Any, check: Check, name: str, about: str) -> None:
    """Checks the content of a file.

    Args:
        value: The content.
        check: The check.
        name: Name of the file.
        about: Kind of the file, and the way out, as in "a report of `awn benchmark`:
            measure again".

    Raises:
        ValueError: If the content does not fit; the message names file, field and rule.
            Also if the file has a later schema; the message names both versions.
    """
    try:
        check(value, "")
    except NewerError as error:
        raise NewerError(name, error.schema, error.newest) from None
    except MisfitError as error:
        raise ArgumentError(f"'{name}' is not {about}. In it, {error}.") from error
    except RecursionError as error:
        raise ArgumentError(
            f"'{name}' is not {about}. Its content is nested too deeply."
        ) from error


def anything(value: Any, where: str) -> None:
    """Accepts any value."""


def flag(value: Any, where: str) -> None:
    """Accepts true and false."""
    if not isinstance(value, bool):
        raise MisfitError(where, "true or false", value)


def text(*allowed: str) -> Check:
    """Makes a check that accepts strings: only `allowed`, or any if it is empty."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise MisfitError(where, "text", value)
        if allowed and value not in allowed:
            raise MisfitError(where, f"one of {', '.join(allowed)}", value)

    return check


def real(value: Any, where: str) -> None:
    """Accepts any number, also NaN and infinity, because a loss may diverge."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MisfitError(where, "a number", value)


def number(
    least: float = -math.inf, most: float = math.inf, *, whole: bool = False
) -> Check:
    """Makes a check that accepts finite numbers from `least` to `most`, inclusive."""
    rule = "a whole number" if whole else "a number"
    if math.isfinite(least):
        rule += f", at least {least:g}" + f" and at most {most:g}" * math.isfinite(most)

    def check(value: Any, where: str) -> None:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        # Integers in JSON can have any length. No field needs 2**63.
        fits = (
            fits and least <= value <= most and abs(value) < (2**63 if whole else 1e300)
        )
        if not fits or (whole and value != int(value)):
            raise MisfitError(where, rule, value)

    return check


def or_null(check: Check) -> Check:
    """Makes a check that also accepts null."""

    def check_or_null(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return check_or_null


def items(check: Check, least: int = 0) -> Check:
    """Makes a check that accepts lists of at least `least` values that fit `check`."""
    rule = f"a list of at least {least}" if least else "a list"

    def check_items(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise MisfitError(where, rule, value)
        for index, item in enumerate(value):
            check(item, f"{where}[{index}]")

    return check_items


def values(check: Check) -> Check:
    """Makes a check that accepts objects with any keys whose values fit `check`."""

    def check_values(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise MisfitError(where, "an object", value)
        for key, item in value.items():
            check(item, _inside(where, key))

    return check_values


def fields(known: Mapping[str, Check], needed: Collection[str] | None = None) -> Check:
    """Makes a check that accepts objects whose known keys have values that fit.

    Args:
        known: A check for each known key.
        needed: Keys that must be there. `None` for all known keys.
    """

    def check_fields(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise MisfitError(where, "an object", value)
        for key, check in known.items():
            if key in value:
                check(value[key], _inside(where, key))
            elif needed is None or key in needed:
                raise MissingError(_inside(where, key), "there", None)

    return check_fields


def of_kind(kind: str, check: Check) -> Check:
    """Makes a check of a file that first checks the version of the schema.

    Args:
        kind: Kind of the file, a key of `SCHEMAS`. A file without the field `schema`
            has version 1.
        check: Check of the content.
    """

    def check_of_kind(value: Any, where: str) -> None:
        schema = value.get("schema", 1) if isinstance(value, dict) else 1
        number(1, whole=True)(schema, _inside(where, "schema"))
        if schema > SCHEMAS[kind]:
            raise NewerError(where, int(schema), SCHEMAS[kind])
        check(value, where)

    return check_of_kind


def file_name(value: Any, where: str) -> None:
    """Accepts names of files that do not lead out of their folder."""
    text()(value, where)
    if value in ("", ".", "..") or any(mark in value for mark in "/\\:\0\n"):
        raise MisfitError(where, "the name of a file, which stays in its folder", value)


def _inside(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
