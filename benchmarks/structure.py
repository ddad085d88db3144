"""Counts lines of the package's modules, and modules that check for a layer class.

    python -m benchmarks.structure                # prints the table of this checkout
    python -m benchmarks.structure --before REV   # also the table of a revision; writes
                                                  # both to results/structure.json

A *place that knows a layer class* is a module outside of `rules/` and `layers/` that
checks for a class of Keras layers or for a Tri layer: with `isinstance`, with a
comparison of types, or with a table whose keys are classes. A module that only creates
layers does not count.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "results" / "structure.json"
LIMIT = 450  # lines
#: Names that modules use for `keras.layers`.
_LAYERS = ("keras.layers", "layers", "_L", "L")
#: Base classes of all layers. A check for a base class does not count.
_GENERAL = ("Layer", "Wrapper")


def modules(package: Path) -> dict[str, ast.Module]:
    """Parses the modules of a package; returns them by path."""
    return {
        path.relative_to(package).as_posix(): ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
    }


def sizes(package: Path) -> dict[str, int]:
    """Counts the lines of each module."""
    return {
        path.relative_to(package).as_posix(): len(path.read_text().splitlines())
        for path in sorted(package.rglob("*.py"))
    }


def classes_asked_for(module: ast.Module) -> list[str]:
    """Lists the layer classes that a module checks for, once for each check."""
    skipped = {*_made(module), *_written_types(module)}
    names = []
    for node in ast.walk(module):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in _LAYERS:
            if node.attr[0].isupper() and node.attr not in _GENERAL:
                names.append(node.attr)
        elif isinstance(node, ast.Name) and node.id.startswith(("TriConv", "TriD")):
            names.append(node.id)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In):
            of_name = ast.unparse(node.comparators[0]).endswith(("__name__", "in_axes"))
            if of_name and isinstance(node.left, ast.Constant):
                names.append(str(node.left.value))
    return sorted(names)


def _made(module: ast.Module) -> Iterator[int]:
    """Yields the `id` of classes that are called, or passed on to be called."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield id(node.func)
            if ast.unparse(node.func) not in ("isinstance", "issubclass"):
                yield from (id(value) for value in node.args)
                yield from (id(keyword.value) for keyword in node.keywords)


def _written_types(module: ast.Module) -> Iterator[int]:
    """Yields the `id` of names in type annotations."""
    for node in ast.walk(module):
        for annotation in ("annotation", "returns"):
            for part in ast.walk(getattr(node, annotation, None) or ast.Pass()):
                yield id(part)


def places(package: Path) -> dict[str, list[str]]:
    """Returns the layer classes that each module checks for, if there are any."""
    asked = {
        path: classes_asked_for(module)
        for path, module in modules(package).items()
        if not path.startswith(("rules", "layers/")) and path != "__init__.py"
    }
    return {path: names for path, names in asked.items() if names}


def count(package: Path) -> dict[str, object]:
    """Returns all counts of a package."""
    lines = sizes(package)
    return {
        "modules": len(lines),
        "lines": sum(lines.values()),
        "longest": dict(sorted(lines.items(), key=lambda item: -item[1])[:10]),
        "longer_than_450": sum(size > LIMIT for size in lines.values()),
        "places_that_know_a_layer": places(package),
    }


def at_revision(revision: str) -> dict[str, object]:
    """Returns all counts of an earlier revision."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", revision, "awn_keras"],
            check=True,
            capture_output=True,
            cwd=ROOT,
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], check=True, input=archive)
        return count(Path(folder) / "awn_keras")


def table(counts: dict[str, object]) -> str:
    """Formats the counts as text."""
    lines = [f"{counts['modules']} modules of {counts['lines']} lines; the longest:"]
    lines += [f"  {size:5} {path}" for path, size in counts["longest"].items()]
    known = counts["places_that_know_a_layer"]
    lines.append(f"{len(known)} places that know a layer class:")
    lines += [f"  {len(names):5} {path}" for path, names in known.items()]
    return "\n".join(lines)


def main() -> None:
    """Prints the tables; with `--before`, writes the counts, too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="REV", help="a revision to compare with")
    args = parser.parse_args()
    after = count(ROOT / "awn_keras")
    if args.before:
        before = at_revision(args.before)
        print(f"Before, {args.before}:\n{table(before)}\n\nNow:")
        content = {"before": before, "after": after}
        OUTPUT.write_text(json.dumps(content, indent=1) + "\n")
    print(table(after))


if __name__ == "__main__":
    main()
