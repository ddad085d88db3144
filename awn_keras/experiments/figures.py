"""Draws the paper's figures from the results of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from awn_keras.experiments.executed import Finished, with_executed_macs
from awn_keras.experiments.paper import FIGURE_4_WIDTHS, NAMES, individual_sizes
from awn_keras.experiments.tables import curve_of
from awn_keras.extras import check_installed
from awn_keras.pictures import COLORS, new_figure, ordered_colors

#: Colors of the systems. A system has the same color in every figure, also where it is
#: trained at full width only.
SYSTEM_COLORS = {
    "awn_rs": COLORS[0],
    "awn": COLORS[5],
    "s_net": COLORS[1],
    "us_net": COLORS[2],
    "shared_bn": COLORS[3],
    "nested_net": COLORS[4],
    "nested_net_weights": "black",
    "awn_full": COLORS[0],
    "shared_bn_full": COLORS[3],
}


def figure_5(finished: Sequence[Finished], individual: Sequence[Finished] = ()) -> Any:
    """Draws trade-off curves over width, as in the paper, and over executed MACs.

    Args:
        finished: Finished runs of `table2`.
        individual: Finished runs of plain networks that were trained one by one. Each
            network is a point. The legend names their precision if it differs from the
            precision of `finished`.

    Returns:
        A Matplotlib figure.
    """
    figure, (left, right) = new_figure(10, 4, ncols=2, sharey=True)
    _plot_curves(left, finished, "widths")
    _plot_curves(right, with_executed_macs(finished), "executed_macs")
    _individual_points(left, individual, "widths")
    points = _individual_points(right, individual, "macs")
    left.legend(handles=left.lines, fontsize="small")
    if points:
        title = "plain, one by one"
        precision = individual[0][0].recipe.precision
        if precision != finished[0][0].recipe.precision:
            title += f", {precision}"
        right.legend(
            handles=points, title=title, fontsize="small", title_fontsize="small"
        )
    right.set(ylabel=None, xscale="log")
    return figure


def figure_6(finished: Sequence[Finished]) -> Any:
    """Draws trade-off curves over width.

    Args:
        finished: Finished runs of `figure6`.

    Returns:
        A Matplotlib figure.
    """
    figure, ax = new_figure()
    _plot_curves(ax, finished, "widths")
    ax.legend(fontsize="small")
    return figure


def _plot_curves(ax: Any, finished: Sequence[Finished], over: str) -> None:
    """Draws the mean accuracy of all seeds over `widths` or `executed_macs`."""
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
    for (label, calibrated), curves in by_key.items():
        accuracy = np.mean([curve["accuracy"] for curve in curves], axis=0)
        auc = 100 * np.mean([curve["auc"] for curve in curves])
        name = names[label] + (f" ({calibrated}w)" if calibrated else "")
        ax.plot(
            curves[0][over],
            100 * accuracy,
            styles.get(calibrated, "-"),
            color=SYSTEM_COLORS[label],
            label=f"{name}, AUC {auc:.2f} %",
        )
    ax.set(xlabel=_AXES[over], ylabel="test accuracy (%)")
    ax.grid(alpha=0.3)


_AXES = {
    "widths": "width",
    "executed_macs": "multiply-accumulates that a file executes",
}


def _individual_points(ax: Any, individual: Sequence[Finished], over: str) -> list[Any]:
    """Draws each plain network as a point, hollow or filled by its recipe.

    Returns:
        The handles for the legend.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    for run, result in individual:
        curves.setdefault(run.label, []).append(result["curves"][0])
    sizes = individual_sizes(individual[0][0].recipe.dataset) if individual else {}
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for suffix in ("", "_recommended"):
        for (kind, width), filters in sizes.items():
            if seeds := curves.get(f"plain_{filters}{suffix}"):
                right = 100 * float(np.mean([curve["accuracy"][0] for curve in seeds]))
                at = width if over == "widths" else seeds[0]["macs"][0]
                points.setdefault((kind, suffix), []).append((at, right))
    # Both markers of a network may be at the same point. The triangle is larger, so it
    # stays visible around the square.
    kinds = {"params": ("^", 45, "as many weights"), "macs": ("s", 15, "as many MACs")}
    recipes = {
        "": ("none", "the paper's recipe"),
        "_recommended": ("black", "awn train's recipe"),
    }
    return [
        ax.scatter(
            *np.transpose(values),
            marker=kinds[kind][0],
            facecolors=recipes[suffix][0],
            edgecolors="black",
            s=kinds[kind][1],
            label=f"{kinds[kind][2]}, {recipes[suffix][1]}",
        )
        for (kind, suffix), values in points.items()
    ]


def figure_4(finished: Sequence[Finished]) -> Any:
    """Draws AUC over the number of widths in a training step.

    Args:
        finished: Finished runs of `figure4`.

    Returns:
        A Matplotlib figure.
    """
    figure, ax = new_figure(5, 3.5)
    aucs: dict[int | None, list[float]] = {}
    for run, result in finished:
        name = run.label.removeprefix("awn_rs").removeprefix("_") or "4"
        count = None if name == "all" else int(name)
        curve = curve_of(result)
        if curve:
            aucs.setdefault(count, []).append(100 * curve["auc"])
    counts = [count for count in FIGURE_4_WIDTHS if count in aucs]
    # "All widths" is no number, so the counts have equal distances on the axis.
    positions = np.arange(len(counts))
    means = [np.mean(aucs[count]) for count in counts]
    ax.plot(positions, means, "o-", color=SYSTEM_COLORS["awn_rs"])
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
    """Draws batch statistics and moving statistics of a channel at four widths.

    Args:
        finished: Finished runs with a `StatisticsTrace`. For each system, the figure
            shows the first run.

    Returns:
        A Matplotlib figure with a column for each system. The upper row shows the mean,
        the lower row the variance.
    """
    first: dict[str, dict[str, Any]] = {}
    for run, result in finished:
        if result["statistics"]:
            first.setdefault(run.label, result["statistics"])
    figure, axes = new_figure(
        3.6 * max(len(first), 1),
        5,
        nrows=2,
        ncols=max(len(first), 1),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for column, (label, seen) in enumerate(first.items()):
        plot_statistics(seen, axes[:, column], legend=column == 0)
        axes[0, column].set_title(NAMES[label])
        if column:
            for ax in axes[:, column]:
                ax.set_ylabel(None)
    return figure


def plot_statistics(
    seen: dict[str, Any], axes: Any = None, *, legend: bool = True
) -> Any:
    """Draws batch statistics and moving statistics of a channel at several widths.

    Args:
        seen: The attribute `statistics` of a `StatisticsTrace`.
        axes: Two Matplotlib axes, for mean and variance. `None` makes new axes.
        legend: Whether a legend shows the color of each width.

    Returns:
        The axes. Solid lines are the statistics of a batch. Dotted lines are the moving
        statistics, which BatchNormalization uses after training.
    """
    if axes is None:
        check_installed("A picture", "matplotlib")
        from matplotlib import pyplot

        axes = pyplot.subplots(
            2, 1, figsize=(4.5, 5), sharex=True, layout="constrained"
        )[1]
    steps = [row["step"] for row in seen["rows"]]
    colors = ordered_colors(len(seen["widths"]))
    for ax, name in zip(axes, ("mean", "variance"), strict=True):
        for index, (width, color) in enumerate(
            zip(seen["widths"], colors, strict=True)
        ):
            for key, style in ((name, "-"), (f"moving_{name}", ":")):
                ax.plot(
                    steps,
                    [row[key][index] for row in seen["rows"]],
                    style,
                    color=color,
                    linewidth=1,
                    label=f"width {width:g}" if style == "-" else None,
                )
        ax.set(ylabel=name)
        ax.grid(alpha=0.3)
    axes[1].set_xlabel("step")
    if legend:
        axes[0].legend(
            fontsize="small",
            title="of a batch (tracked: dotted)",
            title_fontsize="small",
        )
    return axes
