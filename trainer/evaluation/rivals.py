"""Optimizers that Keras lacks, or has in a form that would not be a fair rival; for runs of one `fit`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from rnnprop_tf import averaging


class AveragedAdamW(keras.optimizers.AdamW):
    """AdamW that is left at the average of its iterates which RNNprop's `use_averaging` keeps.

    Keras's own average, `use_ema`, has a length to choose; with the default one a seventh of it is still the
    first iterate after 200 steps.
    """

    def __init__(self, learning_rate: Any) -> None:
        super().__init__(learning_rate, use_ema=True)

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[keras.Variable]) -> None:
        before = ops.cast(self.iterations, "int64")
        newest = averaging.newest_weight(before, before + 1)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            average.assign(average + newest * (variable - average))


class MuonWithHead(keras.optimizers.Muon):
    """Keras's Muon with Adam for the output layer, as its authors advise, whatever that layer is called.

    Keras's applies Muon to matrices, and AdamW to embeddings and to all that has another number of axes:
    kernels of convolutions and of attention. A step of Muon has 0.2 times the learning rate as its root mean
    square, about what Adam's has, so both share a rate and its grid is AdamW's.
    """

    def build(self, variables: list[keras.Variable]) -> None:
        layer, _, _ = variables[-1].path.rpartition("/")
        self.exclude_layers = [f"^{re.escape(layer)}/"]
        super().build(variables)


class ScheduleFreeAdamW(keras.optimizers.Optimizer):
    """Schedule-Free AdamW, Algorithm 1 of [Defazio et al. 2024](https://arxiv.org/abs/2405.15682).

    The variables hold y, where gradients are taken. `finalize_variable_values`, which `fit` calls at its end,
    moves them to the average x, once. Keras's own class has no way to x.
    """

    def __init__(
        self,
        learning_rate: Any,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        decay: float = 0.0,
        warmup_steps: int = 0,
    ) -> None:
        """
        Args:
            learning_rate: a number, or a callable that gives the same at every step.
            beta_1: how far y lies from z towards x, in (0, 1).
            beta_2: of the mean of squared gradients.
            epsilon: added to its root.
            decay: decoupled weight decay, taken at y; times the learning rate.
            warmup_steps: steps in which the rate rises along a line.
        """
        super().__init__(learning_rate=learning_rate, name="schedule_free_adamw")
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.decay = decay
        self.warmup_steps = warmup_steps

    def build(self, variables: list[keras.Variable]) -> None:
        if not self.built:
            super().build(variables)
            self._z, self._v = self.add_optimizer_variables(variables, ["z", "velocity"])

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        k = self._get_variable_index(variable)
        gradient = ops.add(gradient, ops.zeros_like(variable))  # An embedding's is sparse.
        step = ops.cast(self.iterations + 1, "float32")
        warm = ops.minimum(step / max(self.warmup_steps, 1), 1.0)
        y = ops.convert_to_tensor(variable)
        z = ops.where(step == 1, y, self._z[k])
        v = self.beta_2 * self._v[k] + (1 - self.beta_2) * ops.square(gradient)
        corrected = v / (1 - ops.power(self.beta_2, step))
        change = learning_rate * warm * (gradient / (ops.sqrt(corrected) + self.epsilon) + self.decay * y)
        x = y + (1 - 1 / self.beta_1) * (z - y)
        z = z - change
        x = x + self._newest_weight(step, warm) * (z - x)
        self._v[k].assign(v)
        self._z[k].assign(z)
        variable.assign((1 - self.beta_1) * z + self.beta_1 * x)

    def _newest_weight(self, step: Any, warm: Any) -> Any:
        """That of the newest z in x: the share of its squared rate in those of all steps.

        In closed form, as but for the warm-up the rate is constant.
        """
        w = max(self.warmup_steps, 1)
        rising = ops.minimum(step, w)
        total = rising * (rising + 1) * (2 * rising + 1) / (6 * w**2) + ops.maximum(step - w, 0.0)
        return ops.square(warm) / total

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Moves the variables from y to x. Keras's fit does so at its end."""
        for variable in var_list:
            z = self._z[self._get_variable_index(variable)]
            variable.assign(variable + (1 - 1 / self.beta_1) * (z - variable))
