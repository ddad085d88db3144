"""Damaged copies of files.

In JSON, a value is replaced or a key is removed. In other files, any bytes change.
"""

import copy
import itertools
import json
import random

#: Values that replace a value of a file.
WRONG = [
    *(None, True, -1, 0, 1.5, 10**30, 1e308, float("nan"), float("inf")),
    *("", "text", "../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>"),
    *([], {}, [[1]], {"a": 1}, list(range(3)), "é\n\0"),
]
#: Numbers of four bytes that are no valid sizes or offsets in a file.
_NUMBERS = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutants(content, count, seed=0):
    """Yields texts of JSON with one fault each, and a description of the fault."""
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


def mutant(content, rng):
    """Returns JSON with one fault as bytes, and a description of the fault."""
    # The first three mutants damage the whole text. One case in ten is enough for them.
    which = rng.randrange(3) if rng.random() < 0.1 else 3
    texts = mutants(json.loads(content), 1, rng.randrange(2**32))
    text, what = next(itertools.islice(texts, which, None))
    return text.encode(), what


def damaged(content, rng):
    """Returns bytes with one fault, and a description of the fault."""
    content = bytearray(content)
    # The start and the end of a file often say how to read the rest. So they get more
    # faults than other places.
    edge = rng.choice([64, 2000, len(content)])
    place = rng.randrange(max(1, min(edge, len(content))))
    if rng.random() < 0.3:
        place = max(0, len(content) - 1 - place)
    length = rng.choice([1, 4, 100, 5000])
    kind = rng.choice(list(_FAULTS))
    _FAULTS[kind](content, slice(place, place + length), rng)
    return bytes(content), f"{kind} at {place}, {length}"


def _cut(content, part, rng):
    del content[part.start :]


def _flip(content, part, rng):
    for place in range(*part.indices(len(content)))[: rng.choice([1, 1, 8])]:
        content[place] ^= 1 << rng.randrange(8)


def _zero(content, part, rng):
    content[part] = bytes(len(content[part]))


def _number(content, part, rng):
    content[part.start : part.start + 4] = rng.choice(_NUMBERS).to_bytes(4, "little")


def _remove(content, part, rng):
    del content[part]


def _double(content, part, rng):
    content[part.start : part.start] = content[part]


def _noise(content, part, rng):
    content[part] = rng.randbytes(len(content[part]))


def _empty(content, part, rng):
    content.clear()


#: Kinds of damage to a part of a file.
_FAULTS = {
    "cut": _cut,
    "flipped": _flip,
    "zeros": _zero,
    "number": _number,
    "gone": _remove,
    "doubled": _double,
    "noise": _noise,
    "empty": _empty,
}


def _places(value):
    """Yields each container in a value with each of its keys or indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inside in list(items):
        yield value, key
        if isinstance(inside, dict | list):
            yield from _places(inside)
