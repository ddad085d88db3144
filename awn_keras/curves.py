"""The width-accuracy trade-off curve."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from awn_keras.counting import (
    active_parameters_at,
    known_macs,
    macs_cell,
    parameters_at,
    uncounted_note,
    warn_of_uncounted,
)
from awn_keras.errors import ArgumentError
from awn_keras.files import write_whole
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.pictures import COLORS, MARKERS, axes_or_new
from awn_keras.training.metrics import area_under_curve
from awn_keras.widths import check_widths


@dataclass(frozen=True)
class TradeOffCurve:
    """Accuracy and cost of each width. Lists have one entry for each width.

    Args:
        widths: Widths in (0, 1], ascending.
        accuracy: Accuracy in [0, 1]; empty if the model has no accuracy metric.
        loss: The compiled loss, regularization included.
        macs: Multiply-accumulate operations for one sample; see `count_macs`.
        parameters: Number of weights; see `count_parameters`.
        metrics: All compiled metrics, by name.
        executed_macs: MACs for one sample in a file of `export_tflite`, which skips
            zeros of cut kernels: `count_macs(model, width, layout="auto")`. Empty if
            not known.
        active_parameters: Number of weights that no triangle forbids; see
            `count_active_parameters`. Empty if not known.
        milliseconds: Latency in ms in a file on this machine; see `with_milliseconds`.
            Empty if not measured.
        uncounted: Names of layers whose MACs are not known. `macs` and `executed_macs`
            leave these layers out.
    """

    widths: list[float]
    accuracy: list[float]
    loss: list[float]
    macs: list[int]
    parameters: list[int]
    metrics: dict[str, list[float]]
    executed_macs: list[int] = field(default_factory=list)
    active_parameters: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    @property
    def auc(self) -> float:
        """Area under the accuracy curve, divided by the range of widths; in [0, 1].

        Raises:
            ValueError: If there is no accuracy.

        Reference:
            Vu et al., Any-Width Networks (2020), section 5.1.
        """
        self._need_accuracy()
        return area_under_curve(self.widths, self.accuracy)

    def _need_accuracy(self) -> None:
        if not self.accuracy:
            raise ArgumentError(
                "The curve has no accuracy. Compile the model with "
                "`metrics=['accuracy']`. Received: "
                f"metrics={sorted(self.metrics)}"
            )

    def __str__(self) -> str:
        """The curve as a table. The column "executed" holds `executed_macs`."""
        lines = [
            f"{'width':>8} {'accuracy':>9} {'loss':>8} {'MACs':>13} {'executed':>13} "
            f"{'parameters':>11}" + ("      ms" if self.milliseconds else "")
        ]
        accuracy = self.accuracy or [float("nan")] * len(self.widths)
        all_macs, executed_macs = (
            [macs_cell(macs, self.uncounted) for macs in column]
            for column in (self.macs, self.executed_macs)
        )
        executed_macs = executed_macs or ["-"] * len(self.widths)
        columns = (accuracy, self.loss, all_macs, executed_macs)
        times = [f" {ms:7.3g}" for ms in self.milliseconds] or [""] * len(self.widths)
        rows = zip(self.widths, *columns, self.parameters, times, strict=True)
        for width, right, loss, macs, executed, parameters, ms in rows:
            lines.append(
                f"{width:8.4f} {100 * right:7.2f} % {loss:8.4f} {macs:>13} "
                f"{executed:>13} {parameters:11,}{ms}"
            )
        return "\n".join([*lines, *uncounted_note(self.uncounted)])

    def to_json(self, path: str | Path) -> None:
        """Writes the curve as JSON, with its AUC if there is an accuracy.

        Args:
            path: File to write.

        Raises:
            OSError: If the file cannot be written.
        """
        content = asdict(self)
        if self.accuracy:
            content["auc"] = self.auc
        write_whole(Path(path), json.dumps(content, indent=1) + "\n")

    def to_csv(self, path: str | Path) -> None:
        """Writes a row for each width.

        Args:
            path: File to write. Its columns are `width`, `accuracy` (if known), `loss`,
                `macs`, `parameters`, `executed_macs`, `active_parameters` and
                `milliseconds` (each if known), the metrics, and `uncounted_layers` (if
                there are any).

        Raises:
            OSError: If the file cannot be written.
        """
        columns: dict[str, Sequence[Any]] = {"width": self.widths}
        if self.accuracy:
            columns["accuracy"] = self.accuracy
        columns.update(loss=self.loss, macs=self.macs, parameters=self.parameters)
        for name in ("executed_macs", "active_parameters", "milliseconds"):
            if getattr(self, name):
                columns[name] = getattr(self, name)
        columns.update({k: v for k, v in self.metrics.items() if k not in columns})
        if self.uncounted:
            columns["uncounted_layers"] = [" ".join(self.uncounted)] * len(self.widths)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        write_whole(Path(path), text.getvalue())

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Draws accuracy over width.

        Args:
            ax: Matplotlib axes. `None` makes new axes.
            label: Name of the curve in the legend. `None` shows the AUC.

        Returns:
            The axes. `.figure.savefig(path)` writes a picture.

        Raises:
            ImportError: If `ax` is `None` and Matplotlib is not installed.
            TypeError: If `ax` is a path.
            ValueError: If there is no accuracy.
        """
        self._need_accuracy()
        ax = axes_or_new(ax)
        label = f"AUC {100 * self.auc:.2f} %" if label is None else label
        percent = 100 * np.asarray(self.accuracy)
        index = len(ax.get_lines())
        ax.plot(
            self.widths,
            percent,
            color=COLORS[index % len(COLORS)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=3,
            label=label,
        )
        ax.set(xlabel="width", ylabel="accuracy (%)")
        ax.grid(alpha=0.3)
        ax.legend(loc="lower right")
        return ax


def trade_off_curve(
    model: MultiWidthModel,
    *args: Any,
    widths: Sequence[float] | None = None,
    **kwargs: Any,
) -> TradeOffCurve:
    """Evaluates a model at many widths, with one pass over the data.

    Args:
        model: A compiled `AnyWidthModel`, or a model of `awn_keras.baselines`.
        *args: Data, as in `model.evaluate`: a data set, or `x` and `y`.
        widths: Widths in [min_width, 1], in any order. `None` takes
            `model.distinct_widths`.
        **kwargs: As in `model.evaluate`. The default of `verbose` is 0.

    Returns:
        The curve.

    Raises:
        TypeError: If `model` has one width only.
        ValueError: If the model is not compiled, if a width is out of range, if there
            is no batch, or if `x` and `y` are given as one tuple.

    Warns:
        UserWarning: If the MACs of some layers are not known. The counts leave these
            layers out.

    Examples:
        >>> import numpy as np
        >>> from awn_keras import lenet_3c1l, trade_off_curve
        >>> model = lenet_3c1l((8, 8, 1), padding="same", widths_grid=[0.5, 1.0])
        >>> loss = "sparse_categorical_crossentropy"
        >>> model.compile("sgd", loss, metrics=["accuracy"])
        >>> curve = trade_off_curve(model, np.zeros((4, 8, 8, 1)), np.zeros(4))
        >>> curve.widths, curve.macs
        ([0.5, 1.0], [530472, 2004120])
    """
    check_any_width_model(model)
    if len(args) == 1 and isinstance(args[0], tuple) and "y" not in kwargs:
        raise ArgumentError(
            "Data must be given as to `evaluate`: `trade_off_curve(model, x, y)`, or a "
            f"single data set. Received: a tuple of {len(args[0])} entries"
        )
    chosen = model.distinct_widths if widths is None else widths
    widths = sorted(set(check_widths(chosen, model.min_width)))
    results = model.evaluate_widths(*args, widths=widths, **{"verbose": 0, **kwargs})
    loss = results.pop("loss").tolist()
    metrics = {name: values.tolist() for name, values in results.items()}
    macs = known_macs(model, widths)
    warn_of_uncounted(model.name, macs.uncounted, stacklevel=2)
    return TradeOffCurve(
        widths=widths,
        accuracy=metrics.get(model.accuracy_name or "", []),
        loss=loss,
        macs=macs.macs.tolist(),
        parameters=parameters_at(model, widths).tolist(),
        metrics=metrics,
        executed_macs=known_macs(model, widths, "auto").macs.tolist(),
        active_parameters=active_parameters_at(model, widths).tolist(),
        uncounted=macs.names,
    )
