"""Makes the pictures of docs/gallery.md.

    python -m benchmarks.gallery [--litertjs FOLDER]

Runs `awn demo --web`, which takes less than two minutes on two cores, and draws its
model. The picture of the web page needs the Debian packages `chromium` and
`chromium-driver`, and LiteRT.js (`tests/deploy/litertjs.sh FOLDER`). Without
`--litertjs`, the picture of the web page does not change.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
#: Positions of the mouse while it draws a 3, relative to the size of the field.
_THREE = (
    *((0.3, 0.2), (0.5, 0.12), (0.68, 0.25), (0.6, 0.42), (0.45, 0.48)),
    *((0.65, 0.58), (0.7, 0.75), (0.5, 0.88), (0.28, 0.8)),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the demo and makes the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--litertjs", type=Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    from awn_keras import cli

    with tempfile.TemporaryDirectory() as folder:
        demo = Path(folder) / "demo"
        words = ["demo", "--web", "--output", str(demo)]
        if args.litertjs:
            words += ["--litertjs", str(args.litertjs / "@litertjs" / "core")]
        if cli.main(words):
            raise SystemExit("`awn demo` failed.")
        PICTURES.mkdir(exist_ok=True)
        shutil.copy(demo / "curve.png", PICTURES / "curve.png")
        _draw_kernels(demo / "model.keras", PICTURES / "kernels.png")
        if args.litertjs:
            _show_page(demo / "web", PICTURES / "page.png")


def _draw_kernels(model: Path, target: Path) -> None:
    """Draws a kernel at full width, and the part of it that width 0.5 uses."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    from awn_keras import plot_kernel, slim
    from awn_keras.loading import load_model

    whole = load_model(model)
    names = [x.name for x in whole.layers if hasattr(x, "masked_kernel")]
    half = slim(whole, 0.5)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), constrained_layout=True)
    plot_kernel(whole.get_layer(names[-1]), axes[0]).set_title("full width")
    plot_kernel(half.get_layer(names[-1]), axes[1]).set_title("slimmed to width 0.5")
    out, into = half.get_layer(names[-1]).kernel.shape[:-3:-1]
    axes[0].add_patch(
        Rectangle((-0.5, -0.5), into, out, fill=False, edgecolor="tab:red", lw=2)
    )
    figure.savefig(target, dpi=80)
    plt.close(figure)


def _show_page(folder: Path, target: Path) -> None:
    """Draws a digit on the web page, and saves a picture of the page."""
    from tests.deploy.browser import Page, chromium, served

    with served(folder) as address, chromium("--window-size=1100,1250") as driver:
        page = Page(driver).open(address)
        page.draw(_THREE)
        page.idle()
        page.js("scrollTo(0, 0)")
        driver.save_screenshot(str(target))


if __name__ == "__main__":
    main()
