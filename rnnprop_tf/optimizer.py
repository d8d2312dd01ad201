"""RNNprop and DMOptimizer, the Keras classes as users see them."""

from __future__ import annotations

from typing import Unpack

import keras

from rnnprop_tf import pretrained
from rnnprop_tf.backends import BackendOptimizer
from rnnprop_tf.learned import KerasArguments, LearnedOptimizer, LearningRate
from rnnprop_tf.network import Network
from rnnprop_tf.rule import AnnealingRule, DMRule, RNNpropRule, SettlingRule
from rnnprop_tf.state_types import STATE_DTYPES

__all__ = ["DMOptimizer", "KerasArguments", "LearnedOptimizer", "LearningRate", "RNNprop"]


@keras.saving.register_keras_serializable(package="rnnprop_tf")
class RNNprop(BackendOptimizer):
    """RNNprop: an optimizer learned by gradient descent (Lv, Jiang, Li 2017).

    A small recurrent network, trained beforehand on other problems and the same for every coordinate, reads
    each coordinate's gradient relative to its recent size and returns a direction in [-1, 1]. The coordinate
    moves by `learning_rate` times that, with `annealing` or `settling` times a factor of the rule's.

    `RNNprop()` has the default weights, `"rnnprop-2"`; `RNNprop.from_pretrained` takes others. Once the
    package is imported, Keras knows the string `"rnnprop"` too, as in `compile(optimizer="rnnprop")`.

    Two behaviours go beyond the paper:

    - A coordinate whose gradient is exactly zero is left alone, with all its state. Rows of an embedding
      that a batch does not use stay where they are, save for weight decay, which works as in Keras.
    - With `skip_nonfinite`, a step in whose gradients (summed over replicas) there is a NaN, an infinity or
      a number whose square is infinite in float32, changes no variable, no slot and not `step`; it adds 1 to
      `skipped_steps`. `iterations` counts it, so that schedules end where they were planned to; the average
      of `use_ema` takes the unchanged variables in once more; Keras applies constraints as ever. With
      `gradient_accumulation_steps` one bad micro-batch costs the whole accumulated step, and the next starts
      from empty accumulators. Under `LossScaleOptimizer` (mixed_float16) that one skips first: such steps do
      not get here and are not counted.

    State, in the order of `variables` after Keras's own `iteration` and `learning_rate` (no such variable
    with a schedule): `step` and `skipped_steps` (int64 on TensorFlow, int32 elsewhere); Keras's averages and
    gradient accumulators, if asked for; then for each trainable variable `{variable}_m` and `{variable}_v` of
    its shape and, for each LSTM layer k from 1, `{variable}_lstm{k}_h` and `{variable}_lstm{k}_c` of shape
    `[units, *shape]`. The slots are float32 whatever the variable's type (h and c of `state_dtype`), and so
    is the arithmetic. With `settling` there is `{variable}_u` too, after `{variable}_v`, and with `annealing`
    `{variable}_u` and `{variable}_last`. With the default weights, which have `annealing`, one LSTM of 4
    units and bfloat16, that is 12 numbers for each number of the model: 32 bytes, 24 with int8, 48 with
    float32. With the paper's network it is 82 numbers: 328 bytes in float32.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without
            arguments. The paper's alpha: the most a coordinate moves in one step; with `annealing`, up to
            five times that after some steps without a gradient. Defaults to `0.1`.
        beta_1: A float in [0, 1), the decay of the running mean of gradients. Defaults to `0.95`.
        beta_2: A float in [0, 1), the decay of the running mean of squared gradients. Defaults to `0.95`.
        epsilon: A float in (0, 1], added to the root of the latter. Defaults to `1e-8`.
        settling: A float in [0, 10]. Above 0, steps become smaller once gradients have become smaller, see
            `rnnprop_tf.rule.SettlingRule`, which is not in the paper; the weights `"rnnprop-1-settling"` have
            `2.0`. Kept for what was saved with it. Defaults to none.
        beta_3: A float in [0, 1), with `settling` the decay of the longer running mean of squared gradients.
            Defaults to `0.9999`.
        annealing: A float of at least 1, or 0 for none. After so many steps the updates become smaller, as
            1 / t does, and sooner where gradients become smaller; and numbers that had no gradient for a
            while, as rare rows of an embedding, take longer steps when they get one. See
            `rnnprop_tf.rule.AnnealingRule`, which is not in the paper. For trainings of any length; a
            schedule of the learning rate multiplies it. Not together with `settling`. Defaults to what the
            default weights have, `1500.0`, and to none for a `network` that is given or with `settling`.
        skip_nonfinite: Whether to skip steps with a non-finite gradient. Defaults to `True`.
        state_dtype: `"float32"`, `"bfloat16"` or `"int8"`, how the LSTM's h and c are stored between steps;
            the arithmetic is float32. They are most of the state. Defaults to what the default weights have,
            `"bfloat16"`, and to `"float32"` for a `network` that is given.
        use_averaging: Whether to keep an average of the iterates, the values of the variables after each
            step, which is what `fit` leaves in the model. The newest iterate's weight in it is
            `9 / (t + 9)`, where `t` steps were taken before: about the last tenth of the training counts,
            without a length to choose. Skipped steps, and batches within an accumulated step, do not count.
            All that Keras does with `use_ema=True` it does with this average: `finalize_variable_values`,
            `keras.callbacks.SwapEMAWeights`, saving. It takes the place of Keras's own, so it does not go
            with `use_ema`, `ema_momentum` or `ema_overwrite_frequency`. A model with BatchNormalization
            needs `rnnprop_tf.recalibrate_batch_norm` after `fit`. Defaults to `False`.
        jit_compile: Whether XLA compiles the update, whatever `compile` says of the model. `"auto"`: where
            XLA can; otherwise, and under `tf.debugging.enable_check_numerics`, the update runs as
            TensorFlow's own operations, after a warning. On JAX it is about `apply` outside of a compiled
            step; on PyTorch `True` has `torch.compile` compile the update, `"auto"` does not. Defaults to
            `"auto"`.
        network: The learned weights, a `rnnprop_tf.network.Network`. Defaults to those of `"rnnprop-2"`.
        name: String. The name of the optimizer. Defaults to `"rnnprop"`, the next ones to `"rnnprop_1"` and
            so on.
        **kwargs: Keras's own arguments: `weight_decay`, `clipnorm`, `clipvalue`, `global_clipnorm`,
            `use_ema`, `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`,
            `gradient_accumulation_steps`; see `keras.optimizers.Optimizer`.

    Raises:
        TypeError: If `network` is not a `Network`.
        ValueError: If a weight or hyperparameter is out of its range or shape, or if two averages, or
            `settling` and `annealing`, are asked for.
        RuntimeError: If Keras runs on another backend than TensorFlow, JAX or PyTorch, or `tf.keras`
            is Keras 2.

    Example:

    >>> model.compile(optimizer=rnnprop_tf.RNNprop(), loss="sparse_categorical_crossentropy")
    >>> model.fit(x, y)

    Reference:

    - [Lv, Jiang, Li, 2017](https://arxiv.org/abs/1703.03633)
    """

    rule_class = RNNpropRule
    default_name = "rnnprop"

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        settling: float | None = None,
        beta_3: float = 0.9999,
        annealing: float | None = None,
        skip_nonfinite: bool = True,
        state_dtype: str | None = None,
        use_averaging: bool = False,
        jit_compile: bool | str = "auto",
        network: Network | None = None,
        name: str | None = None,
        **kwargs: Unpack[KerasArguments],
    ) -> None:
        settling = 0.0 if settling is None else settling
        default_annealing, default_state_dtype = 0.0, STATE_DTYPES[0]
        if network is None:
            weights = pretrained.load(pretrained.DEFAULT)
            network, default_state_dtype = weights.network, weights.state_dtype
            default_annealing = getattr(weights.rule, "annealing", 0.0)
        if annealing is None:
            annealing = default_annealing if settling == 0.0 else 0.0
        state_dtype = default_state_dtype if state_dtype is None else state_dtype
        # Checked with or without settling.
        rule: RNNpropRule = SettlingRule(beta_1, beta_2, epsilon, beta_3, settling)
        if settling == 0.0:
            rule = RNNpropRule(beta_1, beta_2, epsilon)
        if annealing != 0.0:
            rule = AnnealingRule(beta_1, beta_2, epsilon, annealing)
            if settling != 0.0:
                raise ValueError(
                    "Expected one of settling and annealing, which both make steps smaller. Received: "
                    f"settling={settling}, annealing={annealing}."
                )
        super().__init__(
            learning_rate,
            rule,
            skip_nonfinite,
            state_dtype,
            use_averaging,
            jit_compile,
            network,
            name,
            **kwargs,
        )


# As Keras's own optimizers, by name and by the name in lower case: `compile(optimizer="rnnprop")`.
keras.saving.get_custom_objects().update({"rnnprop": RNNprop, "RNNprop": RNNprop})


@keras.saving.register_keras_serializable(package="rnnprop_tf")
class DMOptimizer(BackendOptimizer):
    """DMoptimizer: learning to learn by gradient descent (Andrychowicz et al. 2016), the paper's baseline.

    As `RNNprop`, but the network reads the gradient itself, on a logarithmic scale, and its output is not
    bounded. Non-finite and zero gradients, state and arguments are as there, without `{variable}_m` and
    `{variable}_v`. No weights of this kind ship with the package, so there is no default for them.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without
            arguments. The factor of the network's output. Defaults to `0.1`.
        p: A float in (0, 80]; gradients below `exp(-p)` count as small. Defaults to `10.0`.
        skip_nonfinite: Whether to skip steps with a non-finite gradient. Defaults to `True`.
        state_dtype: `"float32"`, `"bfloat16"` or `"int8"`, how the LSTM's h and c are stored between steps;
            the arithmetic is float32. They are most of the state: `"bfloat16"` halves it, `"int8"` makes it
            about a quarter. Defaults to `"float32"`; by `from_pretrained` to what the weights' folder names.
        use_averaging: Whether to keep an average of the iterates, as for `RNNprop`. Defaults to `False`.
        jit_compile: Whether XLA compiles the update, whatever `compile` says of the model. `"auto"`: where
            XLA can; otherwise, and under `tf.debugging.enable_check_numerics`, the update runs as
            TensorFlow's own operations, after a warning. On JAX it is about `apply` outside of a compiled
            step; on PyTorch `True` has `torch.compile` compile the update, `"auto"` does not. Defaults to
            `"auto"`.
        network: The learned weights, a `rnnprop_tf.network.Network`. Required.
        name: String. The name of the optimizer. Defaults to `"dm_optimizer"`, the next ones to
            `"dm_optimizer_1"` and so on.
        **kwargs: Keras's own arguments, as for `RNNprop`.

    Raises:
        TypeError: If `network` is not a `Network`.
        ValueError: If a weight or hyperparameter is out of its range or shape, or if two averages are asked
            for.
        RuntimeError: If Keras runs on another backend than TensorFlow, JAX or PyTorch, or `tf.keras`
            is Keras 2.

    Example:

    >>> optimizer = rnnprop_tf.DMOptimizer.from_pretrained("path/to/weights")

    Reference:

    - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474)
    """

    rule_class = DMRule
    default_name = "dm_optimizer"

    def __init__(
        self,
        learning_rate: LearningRate = 0.1,
        p: float = 10.0,
        skip_nonfinite: bool = True,
        state_dtype: str = "float32",
        use_averaging: bool = False,
        jit_compile: bool | str = "auto",
        network: Network | None = None,
        name: str | None = None,
        **kwargs: Unpack[KerasArguments],
    ) -> None:
        super().__init__(
            learning_rate,
            DMRule(p),
            skip_nonfinite,
            state_dtype,
            use_averaging,
            jit_compile,
            network,
            name,
            **kwargs,
        )
