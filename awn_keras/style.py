"""What all pictures share: axes and colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
#: Marks, so that curves differ without colour, too.
MARKERS = "osD^vP"
#: For what is ordered, such as widths: from dark to bright at any kind of sight.
ORDERED = "viridis"


def axes_or_new(ax: Any, width: float = 6.0, height: float = 4.0) -> Any:
    """Gives Matplotlib axes to draw on.

    Args:
        ax: What the user gave: axes, or `None` for new ones, which a notebook shows.
        width: Of the new figure, in inches.
        height: Of the new figure, in inches.

    Returns:
        The axes.

    Raises:
        TypeError: If `ax` is a path.
    """
    if isinstance(ax, str | Path):
        raise TypeError(
            "`ax` must be Matplotlib axes. To write a picture, leave it out and call "
            f"`.figure.savefig({str(ax)!r})` on what is returned. Received: ax={ax!r}"
        )
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def new_figure(width: float = 6.0, height: float = 4.0, **kwargs: Any) -> Any:
    """Makes a figure that no window and no notebook shows, for files.

    Args:
        width: In inches.
        height: In inches.
        **kwargs: As in Matplotlib's `Figure.subplots`.

    Returns:
        The figure, and its axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kwargs)


def ordered_colors(count: int) -> list[Any]:
    """Colours for things in an order, such as widths.

    Args:
        count: How many.

    Returns:
        RGBA colours, the first one dark.
    """
    import matplotlib as mpl

    # The brightest tenth is hardly seen on white.
    last = max(count - 1, 1)
    return [mpl.colormaps[ORDERED](0.9 * i / last) for i in range(count)]
