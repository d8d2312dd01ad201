"""Loss scaling in whose files the optimizer's state is there once."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="rnnprop_tf")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras's `LossScaleOptimizer` with model files of half the size.

    Under the policy `mixed_float16`, `compile` wraps an optimizer in `keras.optimizers.LossScaleOptimizer`.
    That one saves all its variables, those of the inner optimizer among them, and the inner optimizer saves
    them again: with RNNprop 656 bytes a parameter. An optimizer does not learn that it is wrapped, so it
    cannot leave its part out; this wrapper leaves it to the inner optimizer. Training is the same.

    It loads files of Keras's class too. Keras's class loads the inner optimizer's state from weight files of
    this one, but not the loss scale, and warns of that.

    Args:
        inner_optimizer: The optimizer to wrap.
        initial_scale: Float. The initial loss scale. Defaults to `2**15`.
        dynamic_growth_steps: Int. After how many finite steps the scale is doubled. Defaults to `2000`.
        name: String. The name of the optimizer.
        **kwargs: Keras's own arguments; see `keras.optimizers.LossScaleOptimizer`.

    Example:

    >>> keras.config.set_dtype_policy("mixed_float16")
    >>> optimizer = rnnprop_tf.LossScaleOptimizer(rnnprop_tf.RNNprop.from_pretrained())
    >>> model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")
    """

    def save_own_variables(self, store: Any) -> None:
        """Writes the variables of the wrapper alone; Keras calls the inner optimizer for its own.

        Args:
            store: Where Keras lets an object write, NumPy arrays by name.
        """
        for i, variable in enumerate(self._variables):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote, here or in Keras's class.

        Args:
            store: What was written, arrays by name.
        """
        if len(store.keys()) != len(self._variables):
            super().load_own_variables(store)
            return
        for i, variable in enumerate(self._variables):
            variable.assign(store[str(i)])
