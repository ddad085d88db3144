"""Runs the commands of docs/photos.md in a new virtual environment and times them.

    python -m benchmarks.walk [--folder FOLDER] [--output results/walk.json]

The commands are the `sh` blocks of the page, in the order of the page. The last block
starts a web server. The script requests the web page from the server, then ends the
server. Packages come from pip's index, so the time of the installation depends on the
connection and on pip's cache.
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
#: Number of tries to reach a server that has just started, one each second.
TRIES = 20


def main() -> None:
    """Runs and times the commands, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, help="default: a new folder")
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
    """Returns the headings of a page that have commands, each with its blocks."""
    steps = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        if blocks:
            steps.append((title, blocks))
    return steps


def run(block: str, folder: Path) -> None:
    """Runs a block of commands; ends with an error at the first that fails."""
    subprocess.run(program(block), cwd=folder, env=outside(), check=True)


def program(block: str) -> list[str]:
    """Wraps a block for Bash; enters the environment that the first block makes."""
    block = block.replace("ADDRESS", shlex.quote(str(ROOT)))
    enter = "if [ -e environment ]; then . environment/bin/activate; fi"
    return ["bash", "-c", f"set -e\n{enter}\n{block}"]


def outside() -> dict[str, str]:
    """Returns environment variables without those that point to this Python."""
    own = ("PYTHONPATH", "VIRTUAL_ENV", "KERAS_BACKEND")
    return {name: value for name, value in os.environ.items() if name not in own}


def check_served(block: str, folder: Path) -> None:
    """Starts a server, requests its page, and ends the server."""
    with subprocess.Popen(
        program("exec " + block), cwd=folder, env=outside()
    ) as server:
        try:
            for _ in range(TRIES):
                time.sleep(1)
                try:
                    with urllib.request.urlopen("http://localhost:8000") as page:
                        if b"awn" not in page.read():
                            raise SystemExit("The server returned another page.")
                        return
                except urllib.error.URLError:
                    continue
            raise SystemExit("The server did not answer.")
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
