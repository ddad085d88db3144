"""What a file of JSON must hold: small checks that name the field and the rule.

A check takes a value and where it stands, and raises `MisfitError`. `check_fits` tells
of it as users are told. Fields that a schema does not name are let be: later versions
may write more. What they change otherwise they tell by the version of the schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from awn_keras.errors import ArgumentError, AwnError

#: Raises a `MisfitError` if a value does not fit; the text says where it stands.
Check = Callable[[Any, str], None]

try:
    #: Version of the package.
    __version__ = version("awn_keras")
except PackageNotFoundError:  # running from a source tree
    __version__ = "0+unknown"

#: Version of the schema of each kind of file, written into it as `schema`: of an
#: export's manifests, the config of models in `.keras` files, the reports of `awn
#: benchmark`, and what runs leave. It rises if a field is removed, or changes its
#: meaning; new fields may come without.
SCHEMAS = {"manifest": 1, "model": 1, "report": 1, "run": 1}


class MisfitError(AwnError, ValueError):
    """A value is not what its field must have.

    Args:
        where: The field, such as `rows[2].median_ms`; empty for all of the file.
        rule: What it must be.
        value: What is there.
    """

    def __init__(self, where: str, rule: str, value: Any) -> None:
        super().__init__(where, rule, value)
        self.where, self.rule, self.value = where, rule, value

    def __str__(self) -> str:
        text = repr(self.value)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        # In no backticks, which name arguments in errors of awn_keras.
        return f"'{self.where or 'all of it'}' must be {self.rule}, and is {shown}"


class MissingError(MisfitError):
    """A field is not there."""

    def __str__(self) -> str:
        return f"'{self.where}' is missing"


class NewerError(AwnError, ValueError):
    """A file has a later schema than this version of the package reads.

    Args:
        name: What to call the file.
        schema: The version of its schema.
        newest: The last one that is read.
    """

    def __init__(self, name: str, schema: int, newest: int) -> None:
        super().__init__(name, schema, newest)
        self.name, self.schema, self.newest = name, schema, newest

    def __str__(self) -> str:
        return (
            f"'{self.name}' was written by a later awn_keras: its schema is of version "
            f"{self.schema}, and awn_keras {__version__} reads those up to version "
            f"{self.newest}. Update: `pip install --upgrade awn_keras`."
        )


def check_fits(value: Any, check: Check, name: str, about: str) -> None:
    """Checks what a file holds.

    Args:
        value: It.
        check: What it must be.
        name: The file's name.
        about: What kind of file it must be, and the way out, as in "a report of `awn
            benchmark`: measure anew".

    Raises:
        ValueError: If it does not fit; the message names file, field and rule. If it is
            of a later schema; the message names both versions.
    """
    try:
        check(value, "")
    except NewerError as error:
        raise NewerError(name, error.schema, error.newest) from None
    except MisfitError as error:
        raise ArgumentError(f"'{name}' is not {about}. There, {error}.") from error
    except RecursionError as error:
        raise ArgumentError(f"'{name}' is not {about}. It is nested too deep.") from (
            error
        )


def anything(value: Any, where: str) -> None:
    """Takes any value."""


def flag(value: Any, where: str) -> None:
    """Takes true and false."""
    if not isinstance(value, bool):
        raise MisfitError(where, "true or false", value)


def text(*allowed: str) -> Check:
    """Takes texts; if some are given, these only."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise MisfitError(where, "text", value)
        if allowed and value not in allowed:
            raise MisfitError(where, f"one of {', '.join(allowed)}", value)

    return check


def real(value: Any, where: str) -> None:
    """Takes any number, also NaN, as of a loss that diverged, and infinite ones."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MisfitError(where, "a number", value)


def number(
    least: float = -math.inf, most: float = math.inf, *, whole: bool = False
) -> Check:
    """Takes finite numbers from `least` to `most`, both included."""
    rule = "a whole number" if whole else "a number"
    if math.isfinite(least):
        rule += f", at least {least:g}" + f" and at most {most:g}" * math.isfinite(most)

    def check(value: Any, where: str) -> None:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        # Whole numbers of JSON have any length; no field of ours has 2**63.
        fits = (
            fits and least <= value <= most and abs(value) < (2**63 if whole else 1e300)
        )
        if not fits or (whole and value != int(value)):
            raise MisfitError(where, rule, value)

    return check


def or_null(check: Check) -> Check:
    """Takes null, too."""

    def check_or_null(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return check_or_null


def items(check: Check, least: int = 0) -> Check:
    """Takes lists of at least so many values that fit."""
    rule = f"a list of at least {least}" if least else "a list"

    def check_items(value: Any, where: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise MisfitError(where, rule, value)
        for index, item in enumerate(value):
            check(item, f"{where}[{index}]")

    return check_items


def values(check: Check) -> Check:
    """Takes objects of any keys, whose values fit."""

    def check_values(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise MisfitError(where, "an object", value)
        for key, item in value.items():
            check(item, _inside(where, key))

    return check_values


def fields(known: Mapping[str, Check], needed: Collection[str] | None = None) -> Check:
    """Takes objects whose known keys have values that fit.

    Args:
        known: A check for each key.
        needed: Those that must be there. `None` for all.
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
    """Takes what fits, unless it is of a later schema, which comes first.

    Args:
        kind: The kind of the file, one of `SCHEMAS`. Files that have no field `schema`
            are of version 1.
        check: What it must be.
    """

    def check_of_kind(value: Any, where: str) -> None:
        schema = value.get("schema", 1) if isinstance(value, dict) else 1
        number(1, whole=True)(schema, _inside(where, "schema"))
        if schema > SCHEMAS[kind]:
            raise NewerError(where, int(schema), SCHEMAS[kind])
        check(value, where)

    return check_of_kind


def file_name(value: Any, where: str) -> None:
    """Takes names of files that stay in their folder."""
    text()(value, where)
    if value in ("", ".", "..") or any(mark in value for mark in "/\\:\0\n"):
        raise MisfitError(where, "the name of a file, which stays in its folder", value)


def _inside(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
