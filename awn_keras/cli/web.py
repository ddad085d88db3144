"""`awn web`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from awn_keras.cli.arguments import Parser
from awn_keras.cli.output import write_line

HELP = "Write a web page that runs a TFLite file in the browser."
LITERTJS_HELP = (
    "folder of the npm package @litertjs/core, which is copied to the page (default: "
    "the page loads LiteRT.js from the CDN jsDelivr)"
)


def add(parser: Parser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("file", type=Path, help="a .tflite file of `awn export`")
    add = parser.add_argument
    add(
        "--output",
        type=Path,
        help="folder (default: FILE_web); with --single-file, a file (default: "
        "FILE.html)",
    )
    add("--litertjs", type=Path, metavar="FOLDER", help=LITERTJS_HELP)
    add(
        "--single-file",
        action="store_true",
        help="write a single HTML file that needs no server (needs --litertjs)",
    )
    add("--title", help="title of the page (default: the model's name)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from awn_keras.deploy.attachments import LABELS, attached
    from awn_keras.deploy.web import write_page

    file = args.file
    default = file.with_suffix(".html")
    if not args.single_file:
        default = file.with_name(f"{file.stem}_web")
    page = write_page(
        file,
        args.output or default,
        litertjs=args.litertjs,
        single_file=args.single_file,
        title=args.title,
    )
    if LABELS not in attached(file):
        write_line(f"{file} has no labels: the page shows class numbers.")
    write_line(how_to_open(page, served=not args.single_file))


def how_to_open(page: Path, *, served: bool = True) -> str:
    """Explains how to open a page.

    Args:
        page: Path of the page.
        served: Whether the page needs a web server.

    Returns:
        One line.
    """
    if not served:
        return f"{page} ({page.stat().st_size / 1e6:.1f} MB) opens in any browser."
    folder = shlex.quote(str(page.parent))
    return (
        f"{page} needs a web server. On this machine: run `python -m http.server "
        f"--directory {folder}`, then open http://localhost:8000"
    )
