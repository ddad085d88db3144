"""Tables of a model's layers, and of the networks that the model contains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from awn_keras.counting import (
    LayerUse,
    active_parameters_at,
    known_macs,
    layer_uses,
    macs_cell,
    parameters_at,
    uncounted_note,
    warn_of_uncounted,
)
from awn_keras.errors import ArgumentError
from awn_keras.layers.base import TriangularKernel, TriLayer
from awn_keras.multi_width import MultiWidthModel, check_any_width_model
from awn_keras.rules import Fixed, Graded, Kind, PerWidth, mixes_channels, traits_of
from awn_keras.widths import check_widths

# ------------------------------------------------------------------------ networks


@dataclass(frozen=True)
class NetworkList:
    """The networks of a model and their costs. Lists have one entry for each network.

    Args:
        widths: Widths in (0, 1], ascending.
        macs: Multiply-accumulate operations for one sample; see `count_macs`.
        parameters: Number of weights; see `count_parameters`.
        channels: A dict from the name of each layer with MACs (convolutions, dense
            layers) to its numbers of active output channels.
        full_macs: MACs at width 1.
        full_parameters: Number of weights at width 1.
        executed_macs: MACs for one sample in a file of `export_tflite`, which skips
            zeros of cut kernels: `count_macs(model, width, layout="auto")`.
        active_parameters: Number of weights that no triangle forbids; see
            `count_active_parameters`.
        milliseconds: Latency in ms in a file on this machine; see `with_milliseconds`.
            Empty if not measured.
        uncounted: Names of layers whose MACs are not known. `macs`, `full_macs` and
            `executed_macs` leave these layers out.
    """

    widths: list[float]
    macs: list[int]
    parameters: list[int]
    channels: dict[str, list[int]]
    full_macs: int
    full_parameters: int
    executed_macs: list[int]
    active_parameters: list[int]
    milliseconds: list[float] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """The number of networks."""
        return len(self.widths)

    def __str__(self) -> str:
        """A table of width, MACs and parameters, with percentages of width 1.

        The column "executed" holds `executed_macs`. If the latency was measured, a
        column shows it in ms.
        """
        # Six digits are enough for a typed width to select the same network again.
        lines = [
            f"{'width':>8} {'MACs':>14} {'% of full':>9} {'executed':>14} "
            f"{'parameters':>12} {'% of full':>9} {'active':>12}"
            + ("      ms" if self.milliseconds else "")
        ]
        columns = (self.macs, self.executed_macs, self.parameters)
        times = [f" {ms:7.3g}" for ms in self.milliseconds] or [""] * len(self)
        for width, macs, executed, parameters, active, ms in zip(
            self.widths, *columns, self.active_parameters, times, strict=True
        ):
            lines.append(
                f"{width:8.6f} {macs_cell(macs, self.uncounted):>14} "
                f"{'-' if self.uncounted else _percent(macs, self.full_macs):>9} "
                f"{macs_cell(executed, self.uncounted):>14} {parameters:12,} "
                f"{_percent(parameters, self.full_parameters):>9} {active:12,}{ms}"
            )
        return "\n".join([*lines, *uncounted_note(self.uncounted)])


def list_networks(
    model: MultiWidthModel, widths: Iterable[float] | None = None
) -> NetworkList:
    """Lists the networks of a model and their costs.

    Args:
        model: An `AnyWidthModel`, or a model of `awn_keras.baselines`.
        widths: Widths in [min_width, 1], in any order. `None` takes
            `model.distinct_widths`, one width for each different network.

    Returns:
        The list. `print` shows it as a table, without the channels.

    Raises:
        TypeError: If `model` has one width only, or if `widths` is not a sequence of
            numbers.
        ValueError: If a width is out of range, or if `widths` is empty.

    Warns:
        UserWarning: If the MACs of some layers are not known. The counts leave these
            layers out.

    Examples:
        >>> from awn_keras import lenet_3c1l, list_networks
        >>> networks = list_networks(lenet_3c1l(widths_grid=[0.5, 1.0]))
        >>> networks.macs, networks.executed_macs
        ([3732348, 14018580], [3732348, 10585876])
        >>> networks.channels["conv2"]
        [23, 45]
    """
    check_any_width_model(model)
    chosen = _ascending(model, model.distinct_widths if widths is None else widths)
    count = known_macs(model, [*chosen, 1.0])
    warn_of_uncounted(model.name, count.uncounted, stacklevel=2)
    *macs, full_macs = count.macs.tolist()
    *parameters, full_parameters = parameters_at(model, [*chosen, 1.0]).tolist()
    return NetworkList(
        widths=chosen,
        macs=macs,
        executed_macs=known_macs(model, chosen, "auto").macs.tolist(),
        parameters=parameters,
        active_parameters=active_parameters_at(model, chosen).tolist(),
        channels={
            use.layer.name: use.channels(chosen).tolist()
            for use in layer_uses(model)
            if traits_of(use.layer).macs is not None
        },
        full_macs=full_macs,
        full_parameters=full_parameters,
        uncounted=count.names,
    )


def _ascending(model: MultiWidthModel, widths: Iterable[float]) -> list[float]:
    chosen = sorted(set(check_widths(widths, model.min_width)))
    if not chosen:
        raise ArgumentError(
            "`widths` must have at least one width. Received: widths=[]"
        )
    return chosen


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


# -------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a model. Lists have one entry for each width of the summary.

    Args:
        name: Name of the layer.
        class_name: Name of the layer's class.
        kind: Role of the layer in the any-width network:

            - `"fixed"`: computes the same at every width, such as preprocessing;
            - `"stem"`: makes the first channels that come and go, from fixed inputs;
            - `"Tri"`: mixes channels that come and go, with a triangular kernel;
            - `"sliced"`: mixes channels that come and go, with an ordinary kernel that
              is cut to the width (models of `awn_keras.baselines`);
            - `"per-channel"`: keeps, rearranges or joins channels that come and go;
            - `"readout"`: mixes all active channels into outputs that exist at every
              width;
            - `"tail"`: follows a readout.
        channels: Active channels of the output (of the first call).
        macs: Multiply-accumulate operations of all calls of the layer for one sample.
            `None` if they are not known.
        parameters: Number of weights.
        masked: Share in [0, 1] of a Tri layer's kernel that the mask sets to zero at
            full width. `None` for other layers.
        read: Share in [0, 1] of the output channels on which an output of the model
            depends at full width; 1 in a nested staircase. `None` if the channels do
            not come and go.
    """

    name: str
    class_name: str
    kind: str
    channels: list[int]
    macs: list[int] | None
    parameters: list[int]
    masked: float | None
    read: float | None


@dataclass(frozen=True)
class ModelSummary:
    """The layers of a model at several widths.

    Args:
        name: Name of the model.
        widths: Widths in (0, 1], ascending.
        layers: The layers in the order of the graph, each once. Inputs and operations
            of `keras.ops` have no weights and are left out.
        macs: Multiply-accumulate operations for one sample at each width; see
            `count_macs`.
        executed_macs: MACs in a file at each width; see `NetworkList`.
        parameters: Number of weights at each width; see `count_parameters`.
        milliseconds: Latency in ms in a file at each width; see `NetworkList`.
        uncounted: Names of layers whose MACs are not known. `macs` and `executed_macs`
            leave these layers out.
    """

    name: str
    widths: list[float]
    layers: list[LayerSummary]
    macs: list[int]
    executed_macs: list[int]
    parameters: list[int]
    milliseconds: list[float] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A table with a row for each layer, and the totals.

        The columns are the layer's name, class and kind, its active channels and MACs
        for one sample at each width, the masked share of its kernel in percent, and the
        share of its channels that are read, in percent.
        """
        labels = [f"{width:.6g}" for width in self.widths]
        blank = [""] * len(labels)
        blank_macs = ["?"] * len(labels)
        macs, executed = (
            [macs_cell(count, self.uncounted) for count in counts]
            for counts in (self.macs, self.executed_macs)
        )
        rows = [
            ["layer", "class", "kind", *labels, *labels, "masked", "read"],
            *(
                [
                    *(layer.name, layer.class_name, layer.kind),
                    *_thousands(layer.channels),
                    *(blank_macs if layer.macs is None else _thousands(layer.macs)),
                    *(_share(layer.masked), _share(layer.read)),
                ]
                for layer in self.layers
            ),
            ["total MACs", "", "", *blank, *macs, "", ""],
            ["executed MACs", "", "", *blank, *executed, "", ""],
            ["parameters", "", "", *blank, *_thousands(self.parameters), "", ""],
        ]
        if self.milliseconds:
            times = [f"{ms:.3g}" for ms in self.milliseconds]
            rows.append(["ms", "", "", *blank, *times, "", ""])
        groups = {
            "channels at width": slice(3, 3 + len(labels)),
            "MACs at width": slice(3 + len(labels), 3 + 2 * len(labels)),
        }
        titles, columns, *lines = _table(rows, groups)
        layers, totals = lines[: len(self.layers)], lines[len(self.layers) :]
        rule = "-" * len(columns)
        return "\n".join(
            [
                f"Model '{self.name}', MACs for one sample. Masked: share of a kernel "
                "that is always zero. Read: share of the channels on which an output "
                "depends. Executed: MACs in an exported file, which skips zeros.",
                *(titles, columns, rule, *layers, rule, *totals),
                *uncounted_note(self.uncounted),
            ]
        )


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _thousands(counts: Sequence[int]) -> list[str]:
    return [f"{count:,}" for count in counts]


def _table(rows: list[list[str]], groups: dict[str, slice]) -> list[str]:
    """Aligns rows in columns, below a line with the titles of groups of columns."""
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    titles = ""
    for title, columns in groups.items():
        gaps = 2 * (columns.stop - columns.start - 1)
        missing = len(title) - sum(sizes[columns]) - gaps
        sizes[columns.start] += max(missing, 0)
        end = sum(sizes[: columns.stop]) + 2 * (columns.stop - 1)
        titles += title.rjust(end - len(titles))
    lines = [titles]
    for row in rows:
        # The three columns of names are aligned left, numbers right.
        cells = [cell.ljust(size) for cell, size in zip(row[:3], sizes, strict=False)]
        cells += [
            cell.rjust(size) for cell, size in zip(row[3:], sizes[3:], strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def summarize(
    model: MultiWidthModel, widths: Iterable[float] | None = None
) -> ModelSummary:
    """Lists the layers of a model, with the role and the cost of each layer.

    Args:
        model: An `AnyWidthModel`, or a model of `awn_keras.baselines`.
        widths: Widths in [min_width, 1], in any order. `None` takes the smallest width,
            the middle and 1.

    Returns:
        The summary. `print` shows it as a table.

    Raises:
        TypeError: If `model` has one width only, or if `widths` is not a sequence of
            numbers.
        ValueError: If a width is out of range, or if `widths` is empty.

    Warns:
        UserWarning: If the MACs of some layers are not known. The counts leave these
            layers out.

    Examples:
        >>> from awn_keras import lenet_3c1l, summarize
        >>> summary = summarize(lenet_3c1l(), widths=[0.5, 1.0])
        >>> layer = summary.layers[3]
        >>> layer.name, layer.kind, layer.channels, layer.macs
        ('conv2', 'Tri', [23, 45], [2742336, 10497600])
    """
    check_any_width_model(model)
    if widths is None:
        widths = (model.min_width, (model.min_width + 1) / 2, 1.0)
    chosen = _ascending(model, widths)
    count = known_macs(model, chosen)
    warn_of_uncounted(model.name, count.uncounted, stacklevel=2)
    return ModelSummary(
        name=model.name,
        widths=chosen,
        layers=[
            LayerSummary(
                name=use.layer.name,
                class_name=type(use.layer).__name__,
                kind=_kind(use),
                channels=use.channels(chosen).tolist(),
                macs=_whole_macs(use, chosen),
                parameters=use.parameters(chosen).tolist(),
                masked=_masked_share(use.layer),
                read=_read_share(use.flows[0].output),
            )
            for use in layer_uses(model)
            if isinstance(use.layer, keras.Layer)
        ],
        macs=count.macs.tolist(),
        executed_macs=known_macs(model, chosen, "auto").macs.tolist(),
        parameters=parameters_at(model, chosen).tolist(),
        uncounted=count.names,
    )


def _whole_macs(use: LayerUse, widths: Sequence[float]) -> list[int] | None:
    count = use.macs(widths)
    return None if count.uncounted else count.macs.tolist()


def _kind(use: LayerUse) -> str:
    flow = use.flows[0]
    graded_input = any(isinstance(kind, Graded) for kind in flow.inputs)
    if isinstance(flow.output, PerWidth):
        return "readout" if graded_input else "tail"
    if isinstance(flow.output, Fixed):
        return "fixed"
    if not graded_input:
        return "stem"
    if isinstance(use.layer, TriLayer):
        return "Tri"
    return "sliced" if mixes_channels(use.layer) else "per-channel"


def _read_share(kind: Kind) -> float | None:
    return float(np.isfinite(kind.grades).mean()) if isinstance(kind, Graded) else None


def _masked_share(layer: keras.Layer) -> float | None:
    if not isinstance(layer, TriangularKernel):
        return None
    sizes = {
        name: math.prod(kernel.shape)
        for name, kernel in layer.triangular_variables.items()
    }
    allowed = sum(layer.masks[name].mean() * size for name, size in sizes.items())
    return float(1 - allowed / sum(sizes.values()))
