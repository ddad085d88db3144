"""Runs the commands of docs/photos.md in a fresh environment, and takes their times.

    python benchmarks/walk.py [--folder FOLDER] [--output results/walk.json]

The commands are the blocks of `sh` on the page, in its order. The last block is a web
server: it is asked for the page, and ended. Packages come from pip's index, so that the
time of installing depends on the connection and on pip's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from awn_keras.environment import environment
from awn_keras.files import write_whole

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "photos.md"
OUTPUT = ROOT / "results" / "walk.json"
#: Tries, a second apart, to reach a server that has just started.
TRIES = 20


def main() -> None:
    """Runs the commands in an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="default: a new one")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print(f"in {folder}", flush=True)
    steps = steps_of(PAGE.read_text())
    server = steps[-1][1].pop()
    rows = []
    for title, blocks in steps:
        print(f"== {title}", flush=True)
        started = time.perf_counter()
        for block in blocks:
            run(block, folder)
        rows.append({"step": title, "seconds": time.perf_counter() - started})
        print(f"{rows[-1]['seconds']:.0f} s", flush=True)
    check_served(server, folder)
    result = {"steps": rows, "environment": environment()}
    write_whole(args.output, json.dumps(result, indent=1) + "\n")


def steps_of(page: str) -> list[tuple[str, list[str]]]:
    """The headings of a page below which there are commands, and their blocks."""
    steps = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        if blocks:
            steps.append((title, blocks))
    return steps


def run(block: str, folder: Path) -> None:
    """Runs commands; the first that fails ends all."""
    subprocess.run(program(block), cwd=folder, env=outside(), check=True)


def program(block: str) -> list[str]:
    """Bash, in the environment that the commands have made."""
    block = block.replace("ADDRESS", shlex.quote(str(ROOT)))
    enter = "if [ -e environment ]; then . environment/bin/activate; fi"
    return ["bash", "-c", f"set -e\n{enter}\n{block}"]


def outside() -> dict[str, str]:
    """The variables of a shell that knows nothing of this Python's packages."""
    own = ("PYTHONPATH", "VIRTUAL_ENV", "KERAS_BACKEND")
    return {name: value for name, value in os.environ.items() if name not in own}


def check_served(block: str, folder: Path) -> None:
    """Asks a server for its page."""
    with subprocess.Popen(
        program("exec " + block), cwd=folder, env=outside()
    ) as server:
        try:
            for _ in range(TRIES):
                time.sleep(1)
                try:
                    with urllib.request.urlopen("http://localhost:8000") as page:
                        if b"awn" not in page.read():
                            raise SystemExit("The server gives another page.")
                        return
                except urllib.error.URLError:
                    continue
            raise SystemExit("The server does not answer.")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
