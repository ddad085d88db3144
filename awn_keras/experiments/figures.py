"""The paper's figures from finished runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.experiments.paper import FIGURE_4_WIDTHS, NAMES, individual_sizes
from awn_keras.experiments.tables import Finished, curve_of
from awn_keras.files import write_whole

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = {
    "awn_rs": "#0072B2",
    "awn": "#56B4E9",
    "s_net": "#D55E00",
    "us_net": "#009E73",
    "shared_bn": "#CC79A7",
    "awn_full": "#0072B2",
    "shared_bn_full": "#CC79A7",
}
_WIDTH_COLORS = ("#D55E00", "#E69F00", "#009E73", "#0072B2")


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all.

    Args:
        figure: A Matplotlib figure.
        path: File to write.

    Raises:
        OSError: If it cannot be written.
    """
    content = io.BytesIO()
    # No date in it: the same runs give the same file.
    figure.savefig(content, format="png", dpi=120, metadata={"Software": None})
    write_whole(path, content.getvalue())


def _figure(width: float = 6, height: float = 4, **kwargs: Any) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kwargs)


def _average(curves: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    widths = np.asarray(curves[0]["widths"])
    accuracy = np.mean([curve["accuracy"] for curve in curves], axis=0)
    return widths, 100 * accuracy


def curves(finished: Sequence[Finished], individual: Sequence[Finished] = ()) -> Any:
    """Draws trade-off curves (figures 5 and 6), means over seeds.

    Args:
        finished: The runs.
        individual: Plain networks trained one by one, to draw as points.

    Returns:
        A Matplotlib figure.
    """
    figure, ax = _figure()
    by_key: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for run, result in finished:
        for curve in result["curves"]:
            by_key.setdefault((run.label, curve["calibrated"]), []).append(curve)
    styles = {4: ":", 10: "--", 20: "-"}
    names = {
        **NAMES,
        "awn_full": "triangular convolutions",
        "shared_bn_full": "ordinary convolutions",
    }
    for (label, calibrated), found in by_key.items():
        widths, accuracy = _average(found)
        auc = 100 * np.mean([curve["auc"] for curve in found])
        name = names[label] + (f" ({calibrated}w)" if calibrated else "")
        ax.plot(
            *(widths, accuracy, styles.get(calibrated, "-")),
            color=COLORS[label],
            label=f"{name}, AUC {auc:.2f} %",
        )
    _individual_points(ax, individual)
    ax.set(xlabel="width", ylabel="test accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return figure


def _individual_points(ax: Any, individual: Sequence[Finished]) -> None:
    markers = {
        "params": ("^", "plain, as many weights"),
        "macs": ("s", "plain, as many MACs"),
    }
    accuracy: dict[int, list[float]] = {}
    for run, result in individual:
        right = 100 * result["curves"][0]["accuracy"][0]
        accuracy.setdefault(run.recipe.filters, []).append(right)
    points: dict[str, list[tuple[float, float]]] = {}
    sizes = individual_sizes(individual[0][0].recipe.dataset) if individual else {}
    for (kind, width), filters in sizes.items():
        if filters in accuracy:
            point = (width, float(np.mean(accuracy[filters])))
            points.setdefault(kind, []).append(point)
    for kind, values in points.items():
        marker, label = markers[kind]
        ax.scatter(
            *np.transpose(values), marker=marker, color="black", s=20, label=label
        )


def figure_4(finished: Sequence[Finished]) -> Any:
    """Draws AUC against the number of widths in a step.

    Args:
        finished: The runs.

    Returns:
        A Matplotlib figure.
    """
    figure, ax = _figure(5, 3.5)
    found: dict[int | None, list[float]] = {}
    for run, result in finished:
        name = run.label.removeprefix("awn_rs").removeprefix("_") or "4"
        count = None if name == "all" else int(name)
        curve = curve_of(result)
        if curve:
            found.setdefault(count, []).append(100 * curve["auc"])
    counts = [count for count in FIGURE_4_WIDTHS if count in found]
    positions = np.arange(len(counts))
    means = [np.mean(found[count]) for count in counts]
    ax.plot(positions, means, "o-", color=COLORS["awn_rs"])
    for position, mean in zip(positions, means, strict=True):
        ax.annotate(
            f"{mean:.2f}",
            (position, mean),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    ax.margins(0.1, 0.15)
    ax.set_xticks(positions, ["all" if c is None else str(c) for c in counts])
    ax.set(xlabel="widths in a training step", ylabel="AUC (%)")
    ax.grid(alpha=0.3)
    return figure


def figure_2(finished: Sequence[Finished]) -> Any:
    """Draws batch statistics of a channel at four widths, and the tracked ones.

    Args:
        finished: Runs with a `StatisticsTrace`; the first seed of each is drawn.

    Returns:
        A Matplotlib figure: a row each for mean and variance, a column for each
        system.
    """
    first: dict[str, dict[str, Any]] = {}
    for run, result in finished:
        if result["statistics"]:
            first.setdefault(run.label, result["statistics"])
    figure, axes = _figure(
        *(3.6 * max(len(first), 1), 5),
        nrows=2,
        ncols=max(len(first), 1),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for column, (label, seen) in enumerate(first.items()):
        steps = [row["step"] for row in seen["rows"]]
        for line, name in enumerate(("mean", "variance")):
            ax = axes[line, column]
            for index, width in enumerate(seen["widths"]):
                for key, style in ((name, "-"), (f"moving_{name}", ":")):
                    values = [row[key][index] for row in seen["rows"]]
                    ax.plot(
                        *(steps, values, style),
                        color=_WIDTH_COLORS[index % len(_WIDTH_COLORS)],
                        linewidth=1,
                        label=f"width {width:g}" if style == "-" else None,
                    )
            ax.set(ylabel=name if column == 0 else None)
            ax.grid(alpha=0.3)
        axes[0, column].set_title(NAMES[label])
        axes[1, column].set_xlabel("step")
    if first:
        axes[0, 0].legend(
            fontsize="small",
            title="of a batch (tracked: dotted)",
            title_fontsize="small",
        )
    return figure
