"""NestedNet: a few nested networks in one, found by iterative pruning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from awn_keras.baselines.s_net import SNet
from awn_keras.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from awn_keras.ordering import moves_of, sources_of
from awn_keras.propagation import Propagation, inner_mixers, trace
from awn_keras.rules import Graded
from awn_keras.slices import chosen_slices
from awn_keras.stages import Widths
from awn_keras.widths import Networks, check_positive

#: What a narrower network lacks: whole channels, or entries of kernels.
STRUCTURES = ("channels", "weights")


@keras.saving.register_keras_serializable(package="awn_keras")
class NestedNet(SNet):
    """A nested sparse network: each listed width is a part of the next larger one.

    All listed widths train together, as in an S-Net, and each has its own
    BatchNormalization. Unlike in an S-Net, pruning chooses what belongs to a width
    (`prune`, and `NestedPruning` for `fit`):

    - `structure="channels"`: A width has the strongest channels of each layer. The
      importance of a channel is the mean absolute `gamma` of its BatchNormalization.
      `slim` and exported files are as small as those of an S-Net.
    - `structure="weights"`: A width `w` has all channels, and the share `w ** 2` of the
      entries of each kernel, the largest ones. So a width has about as many weights as
      in the other structure. Stem, readout and depthwise kernels keep all entries.
      `slim` and exported files hold zeros in place of the other entries. Stock layers
      and operators compute these zeros, so a narrow width takes as long as width 1.
      A width that is not listed runs the network of the next smaller listed width.

    Without pruning, the first structure is an S-Net, and all widths of the second have
    the same kernels.

    Args:
        inputs: `keras.Input`, or a structure of them.
        outputs: Tensors computed from `inputs` by stock layers.
        name: Name of the model.
        widths: The listed widths in (0, 1], ascending, the last one 1.
        divisor: Size of the blocks in which channels come and go.
        structure: One of `"channels"`, `"weights"`.
        **kwargs: `trainable`.

    Raises:
        ValueError: If an argument is out of range, or if the graph cannot be sliced.
        NotImplementedError: If a layer cannot be sliced, or if Keras does not run on
            TensorFlow.

    Examples:
        >>> from awn_keras import lenet_3c1l
        >>> from awn_keras.baselines import NestedNet
        >>> plain = lenet_3c1l(triangular=False, width_multiplier=1.0)
        >>> model = NestedNet(plain.input, plain.output, widths=[0.25, 0.5, 1.0])

    Reference:
        Kim et al., NestedNet: Learning Nested Sparse Structures in Deep Neural Networks
        (2018), section 3. The paper prunes an accurate network for each level in turn.
        Here, all levels are pruned together while they train. Entries of kernels follow
        the cubic schedule of Zhu and Gupta, To Prune, or Not to Prune (2017). Channels
        are ranked anew at each pruning.
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        name: str | None = None,
        *,
        widths: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        divisor: int = 1,
        structure: str = "channels",
        **kwargs: Any,
    ) -> None:
        if structure not in STRUCTURES:
            raise ArgumentError(
                f"`structure` must be one of {STRUCTURES}. Received: "
                f"structure={structure!r}"
            )
        self.structure = structure
        super().__init__(
            inputs, outputs, name, widths=widths, divisor=divisor, **kwargs
        )
        inner = inner_mixers(self)
        self._levels: dict[str, _Levels] = {}
        for node in self.propagation.nodes if structure == "weights" else ():
            layer, flow = node.operation, self.propagation.flows[id(node)]
            if id(layer) not in inner or layer.name in self._levels:
                continue
            # Not a stem, whose inputs are no channels.
            if isinstance(flow.inputs[0], Graded):
                self._levels[layer.name] = _Levels(layer)

    def get_config(self) -> dict[str, Any]:
        """Returns the functional model's config, the widths and the structure."""
        return {**super().get_config(), "structure": self.structure}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configures training; see `SNet.compile`.

        Args:
            *args: See `SNet.compile`.
            **kwargs: See `SNet.compile`.

        Raises:
            ValueError: If a width is not listed.
            NotImplementedError: If `frozen_up_to` is given and the structure is
                `"weights"`.
        """
        if self.structure == "weights" and kwargs.get("frozen_up_to"):
            raise UnsupportedError(
                "`frozen_up_to` needs `structure='channels'`, because pruning changes "
                "which entries of a kernel a width has. Received: "
                f"frozen_up_to={kwargs['frozen_up_to']}"
            )
        super().compile(*args, **kwargs)

    # ------------------------------------------------------------------ pruning

    def prune(self, progress: float = 1.0) -> None:
        """Chooses the channels or entries of each width by their present size.

        The outputs at width 1 do not change.

        Args:
            progress: Progress of the pruning in (0, 1]. With `structure="weights"`, a
                width lacks the share `1 - (1 - progress) ** 3` of the entries that it
                lacks in the end. With `structure="channels"` it has no effect.

        Raises:
            ValueError: If `progress` is out of range.
        """
        if not 0 < progress <= 1:
            raise ArgumentError(
                f"`progress` must be in (0, 1]. Received: progress={progress}"
            )
        if self.structure == "channels":
            self._move_channels()
            return
        lacking = 1 - np.square(self.widths)
        kept = 1 - lacking * (1 - (1 - progress) ** 3)
        for layer in self.layers:
            if layer.name in self._levels:
                self._levels[layer.name].assign(layer.kernel, kept)

    def _move_channels(self) -> None:
        """Puts the strongest channels of each layer first, in all variables."""
        traced = trace(self, inner_mixers(self))
        moves, moved = moves_of(traced), set()
        for node in traced.propagation.nodes:
            layer, flow = node.operation, traced.propagation.flows[id(node)]
            if not getattr(layer, "weights", []) or id(layer) in moved:
                continue
            moved.add(id(layer))
            into = sources_of(flow.inputs[0], flow.input_shapes[0], moves)
            out = sources_of(flow.output, flow.output_shape, moves)
            slices = chosen_slices(layer, (len(into), len(out)), into, out)
            for weight, index in zip(layer.weights, slices, strict=True):
                for variable in (weight, *self._slots(weight)):
                    _take(variable, index)
            if layer.name in self._switchable:
                for rows in self._switchable[layer.name].weights:
                    for variable in (rows, *self._slots(rows)):
                        _take(variable, (np.arange(rows.shape[0]), np.asarray(out)))

    def _slots(self, weight: Any) -> Iterator[Any]:
        """The variables that the optimizer keeps for a weight, such as its momentum."""
        if not self.compiled:
            return
        name = weight.path.replace("/", "_") + "_"
        for variable in self.optimizer.variables:
            if variable.name.startswith(name) and variable.shape == weight.shape:
                yield variable

    # ----------------------------------------------------- entries of the widths

    def _propagate(self, widths: Widths) -> Propagation:
        if self.structure == "channels":
            return super()._propagate(widths)
        traced = trace(self, inner_mixers(self))
        return traced.with_grades(np.zeros_like(traced.standard_grades(widths)))

    def _networks_of(self, propagation: Propagation, widths: Widths) -> Networks:
        if self.structure == "channels":
            return super()._networks_of(propagation, widths)
        return Networks(self.widths[0], np.array(self.widths[1:]), tuple(self.widths))

    def _cut_weights(self, layer: Any, flow: Any, level: Any) -> dict[str, Any]:
        cuts = super()._cut_weights(layer, flow, level)
        if layer.name in self._levels:
            kernel = cuts["kernel"]
            acts = self._levels[layer.name].level <= keras.ops.cast(level, "int32")
            cuts["kernel"] = keras.ops.where(acts, kernel, keras.ops.zeros_like(kernel))
        return cuts

    def weight_values(self, layer: keras.Layer, width: float) -> list[np.ndarray]:
        """Returns a layer's weights as they act at a width, in full size.

        Args:
            layer: A layer of the model.
            width: Width in [min_width, 1].

        Returns:
            An array for each of `layer.weights`. Entries that a width lacks are 0.
        """
        values = super().weight_values(layer, width)
        if layer.name not in self._levels:
            return values
        levels = keras.ops.convert_to_numpy(self._levels[layer.name].level)
        acts = levels <= self.networks.level_of(width)
        return [
            value * acts if weight is layer.kernel else value
            for weight, value in zip(layer.weights, values, strict=True)
        ]


class _Levels(keras.layers.Layer):
    """The smallest level at which each entry of a kernel acts.

    Args:
        layer: The built layer that has the kernel.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(name=f"{layer.name}_levels")
        self.level = self.add_weight(
            shape=tuple(layer.kernel.shape),
            initializer="zeros",
            dtype="int32",
            trainable=False,
            name="level",
        )
        self.built = True

    def assign(self, kernel: Any, kept: np.ndarray) -> None:
        """Gives each level the largest entries of a kernel.

        Args:
            kernel: The kernel.
            kept: Share of the entries that each level has, ascending, the last one 1.
        """
        size = np.abs(keras.ops.convert_to_numpy(kernel)).ravel()
        places = np.argsort(-size, kind="stable")
        counts = np.maximum(np.rint(kept * len(places)), 1)
        levels = np.empty(len(places), "int32")
        levels[places] = np.searchsorted(counts, np.arange(len(places)), side="right")
        self.level.assign(levels.reshape(kernel.shape))


class NestedPruning(keras.callbacks.Callback):
    """Prunes a `NestedNet` at regular steps of `fit`, and leaves it alone afterwards.

    Args:
        steps: Number of the optimizer's step at which pruning ends. A quarter of the
            training leaves the widths time to recover.
        every: Steps between two prunings.

    Raises:
        ValueError: If a number is below 1.

    Examples:
        >>> from awn_keras.baselines import NestedPruning
        >>> callback = NestedPruning(steps=1000)
    """

    def __init__(self, steps: int, every: int = 100) -> None:
        super().__init__()
        check_positive(steps, "steps")
        check_positive(every, "every")
        self.steps = steps
        self.every = every

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the model, and finds the step at which training continues.

        Raises:
            TypeError: If the model is no `NestedNet`.
        """
        if not isinstance(self.model, NestedNet):
            raise ArgumentTypeError(
                "`NestedPruning` prunes a `NestedNet`. Received: "
                f"'{self.model.name}' ({type(self.model).__name__})"
            )

        # The optimizer's step, unlike the number of the batch, survives a resume.
        step = int(self.model.optimizer.iterations)
        self._checked = step - self.model.steps_per_execution

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Prunes, if a pruning is due."""
        self._prune_if_due()

    def on_train_end(self, logs: Any = None) -> None:
        """Prunes, if a pruning is due after the last step."""
        self._prune_if_due()

    def _prune_if_due(self) -> None:
        # With `steps_per_execution`, several steps run between two calls.
        before, step = self._checked, int(self.model.optimizer.iterations)
        self._checked = step
        before, step = min(before, self.steps), min(step, self.steps)
        due = step // self.every > before // self.every or step == self.steps > before
        if due and step > 0:
            self.model.prune(step / self.steps)


def _take(variable: Any, index: tuple[np.ndarray, ...]) -> None:
    value = keras.ops.convert_to_numpy(variable)
    variable.assign(value[np.ix_(*index)])
