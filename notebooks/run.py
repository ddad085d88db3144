"""Runs the notebooks from top to bottom; exit code 1 if a cell fails.

    python notebooks/run.py [--quick] [--jobs N] [--output DIR] [--figures DIR]
        [NOTEBOOK ...]

`--quick` trains on the small digits (minutes in all). `--jobs` run at a time.
`--output` keeps the notebooks with what their cells gave, but for log lines; the
documentation shows these. `--figures` writes the picture of each cell that has a
`figure` in its metadata, as the README shows it. The notebooks themselves are left as
they are.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
except ImportError as error:
    sys.exit(f'{error}: the notebooks need `pip install ".[notebooks]"`.')

HERE = Path(__file__).parent


def main() -> int:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--quick", action="store_true", help="on small data")
    parser.add_argument("--jobs", type=int, default=1, help="at a time (default: 1)")
    parser.add_argument("--output", type=Path, help="directory for run notebooks")
    parser.add_argument("--figures", type=Path, help="directory for pictures")
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1. Received: {args.jobs}")
    if args.quick:
        os.environ["AWN_QUICK"] = "1"
    paths = args.notebooks or sorted(HERE.glob("*.ipynb"))
    with ThreadPoolExecutor(args.jobs) as pool:
        right = list(pool.map(lambda p: run(p, args.output, args.figures), paths))
    failed = [path.name for path, ok in zip(paths, right, strict=True) if not ok]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


def run(path: Path, output: Path | None, figures: Path | None) -> bool:
    """Runs one notebook, in a kernel of its own. True if no cell fails."""
    start = time.perf_counter()
    notebook = nbformat.read(path, 4)
    client = NotebookClient(
        notebook, timeout=3600, resources={"metadata": {"path": str(path.parent)}}
    )
    right = True
    try:
        client.execute()
    except CellExecutionError as error:
        right = False
        sys.stderr.write(f"{path.name}: {error}\n")
    print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    if output:
        output.mkdir(parents=True, exist_ok=True)
        without_logs(notebook)
        nbformat.write(notebook, output / path.name)
    if figures:
        write_figures(notebook, figures)
    return right


def without_logs(notebook: Any) -> None:
    """Removes what TensorFlow logs, which is of no use to readers."""
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [
                output for output in cell.outputs if output.get("name") != "stderr"
            ]


def write_figures(notebook: Any, directory: Path) -> None:
    """Writes the pictures of cells that name one."""
    directory.mkdir(parents=True, exist_ok=True)
    for cell in notebook.cells:
        name = cell.metadata.get("figure")
        pictures = [
            output.data["image/png"]
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        if name and pictures:
            path = directory / f"{name}.png"
            path.write_bytes(base64.b64decode(pictures[-1]))


if __name__ == "__main__":
    sys.exit(main())
