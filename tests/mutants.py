"""Damaged copies of JSON: a value swapped, a key gone, nested too deep."""

import copy
import json
import random

#: What takes the place of a value; the last two are not even read as such.
WRONG = [
    *(None, True, -1, 0, 1.5, 10**30, 1e308, float("nan"), float("inf")),
    *("", "text", "../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>"),
    *([], {}, [[1]], {"a": 1}, list(range(3)), "é\n\0"),
]


def mutants(content, count, seed=0):
    """Yields text of JSON, each with one fault, and what the fault is."""
    rng = random.Random(seed)
    yield "[" * 100_000, "deep"
    yield json.dumps(content)[:-2], "cut"
    yield json.dumps([content]), "in a list"
    for _ in range(count):
        damaged = copy.deepcopy(content)
        places = list(_places(damaged))
        owner, key = rng.choice(places)
        wrong = rng.choice([*WRONG, "gone", "doubled"])
        if wrong == "gone":
            del owner[key]
        elif wrong == "doubled":
            owner[key] = [owner[key], owner[key]]
        else:
            owner[key] = wrong
        yield json.dumps(damaged), f"{key}: {wrong!r}"


def _places(value):
    """Each owner and key of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inside in list(items):
        yield value, key
        if isinstance(inside, dict | list):
            yield from _places(inside)
